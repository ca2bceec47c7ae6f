"""`thermal.py`, a file outside the package, adds a modality that everything takes as any other."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmtok.data import Store
from mmtok.project import (
    evaluate_project,
    load_project,
    tokenize_project,
    train_project,
    train_tokenizers,
)

HERE = Path(__file__).parent
FILE = HERE / "thermal.py"


@pytest.fixture(scope="module")
def project(tiny, tmp_path_factory):
    """The project of `thermal.py`, shrunk, with its tokenizers, tokens and model."""
    spec = importlib.util.spec_from_file_location("tiny_config", tiny.config)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    small = module.shrink(load_project(str(FILE)), modalities=("pixels", "rgb", "depth", "caption", "thermal"))
    root = tmp_path_factory.mktemp("thermal")
    (root / "tokenizers").mkdir()
    (root / "data").symlink_to(tiny.root / "data")
    for name in ("rgb", "depth", "caption"):  # made before, by the project without `thermal`
        (root / "tokenizers" / name).symlink_to(tiny.root / "tokenizers" / name)
    short = dataclasses.replace(small.fit, steps=10, trackers=())
    small = dataclasses.replace(small, root=root, fit=short, eval_samples=2)
    train_tokenizers(small)
    tokenize_project(small)
    train_project(small)
    return small


def test_the_file_is_short_and_stands_in_the_readme():
    assert FILE.read_text() in (HERE.parents[1] / "README.md").read_text()
    lines = [line.strip() for line in FILE.read_text().splitlines()]
    assert len([line for line in lines if line and not line.startswith('"""')]) <= 24


def test_field_is_computed_from_others(project):
    source = project.data.open("train", project.data_folder)
    (sample,) = source.read([0], ["thermal", "depth"])
    assert sample["thermal"].dtype == np.uint8
    assert sample["thermal"].shape == (32, 32)
    assert (sample["thermal"][np.isinf(sample["depth"])] == 0).all()
    assert sample["thermal"].max() > 10


def test_tokenizer_store_and_model_have_it(project):
    card = json.loads((project.tokenizer_folder("thermal") / "config.json").read_text())
    assert card["source"] == "thermal"
    assert {"PSNR dB", "constant PSNR dB"} <= card["summary"].keys()
    store = Store(project.token_folder)
    assert (store.read("train", [0, 1])["thermal"].length == 16).all()
    entries = [json.loads(line) for line in (project.model_folder / "log.jsonl").read_text().splitlines()]
    assert entries[-1]["loss/thermal"] > 0


def test_sampling_makes_it_from_a_photo(project, mmtok, photo, tmp_path):
    words = ("--given", f"rgb={photo}", "--to", "thermal", "--out", tmp_path / "out")
    ran = mmtok("sample", "--model", project.model_folder, *words)
    assert ran.code == 0, ran.err
    picture = Image.open(tmp_path / "out" / "thermal.png")
    assert picture.mode == "L"
    assert picture.size == (32, 32)


def test_evaluation_measures_it(project):
    result = evaluate_project(project)
    assert {row.direction for row in result.table.rows} == {"rgb -> thermal", "rgb -> depth"}
    assert {row.metric for row in result.table.rows if row.direction == "rgb -> thermal"} >= {"PSNR dB"}


def test_options_reach_below_it(mmtok, tmp_path):
    words = ("--root", tmp_path / "out", "--data.base.size", "20", "--modalities.thermal.fit.steps", "3")
    assert "size 20 must be a multiple of 8" in mmtok("data", FILE, *words).error

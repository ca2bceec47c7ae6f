"""A 4M checkpoint made here: imported, sampled, embedded, trained further and exported through the command line."""

import dataclasses
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmtok.data import tokenize
from mmtok.files import write_json
from mmtok.inference import load_anytoany
from mmtok.masking import MaskingConfig
from mmtok.model import load_model, named_parameters
from mmtok.project import (
    Field,
    Initial,
    Project,
    train_project,
    train_tokenizers,
)
from mmtok.project.tokenizers import open_tokenizers
from mmtok.source import Sample
from mmtok.tensors import TensorFile
from mmtok.tokenizers.scalars import ScalarConfig
from mmtok.train.config import FitConfig
from reference import fourm

CONFIG = {
    **fourm.TINY,
    "domains_in": ["rgb@224", "tok_semseg@224", "tok_imagebind_global", "metadata", "t5_caption"],
    "domains_out": ["tok_semseg@224", "tok_imagebind_global"],
}


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    return fourm.write_checkpoint(folder / "tiny.safetensors", fourm.tiny_state(CONFIG), CONFIG)


@pytest.fixture(scope="module")
def model(file, mmtok, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("imported") / "model"
    ran = mmtok("import", "4m", file, "--out", folder)
    assert ran.code == 0, ran.err
    assert "as token ids: tok_semseg@224, tok_imagebind_global, metadata" in ran.out + ran.err
    return folder


def test_everything_from_a_picture(model, mmtok, photo, tmp_path):
    words = ("--given", f"rgb={photo}", "--to", "all", "--temperature", "0", "--out", tmp_path / "out")
    ran = mmtok("sample", "--model", model, *words)
    assert ran.code == 0, ran.err
    plan = json.loads((tmp_path / "out" / "manifest.json").read_text())["plan"]
    assert [target["modality"] for target in plan] == ["tok_imagebind_global", "tok_semseg@224"]
    assert plan[1]["steps"] == 1
    assert plan[1]["guidance"] == 2.0
    assert not plan[1]["tempered_top_p"]
    labels = np.load(tmp_path / "out" / "tok_semseg@224.npy", allow_pickle=False)
    assert labels.shape == (14, 14)
    assert 0 <= labels.min() <= labels.max() < 4096


def test_tokens_and_vectors_can_be_given(model):
    loaded = load_anytoany(model)
    vectors = np.random.default_rng(0).normal(size=(5, 4096)).astype(np.float32)
    given = {"tok_semseg@224": np.full((14, 14), 7), "t5_caption": vectors}
    (answer,) = loaded.sample([given], ["tok_imagebind_global"], seed=1)
    assert answer["tok_imagebind_global"].shape == (16,)
    other = loaded.sample([{**given, "t5_caption": -vectors}], ["tok_imagebind_global"], seed=1)
    assert (other[0]["tok_imagebind_global"] != answer["tok_imagebind_global"]).any()


def test_features_of_pictures(model, mmtok, tmp_path):
    (tmp_path / "images").mkdir()
    for name, seed in (("a", 0), ("b", 1), ("c", 0)):
        pixels = np.random.default_rng(seed).integers(0, 256, (224, 224, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
    ran = mmtok("embed", tmp_path / "images", "--model", model, "--batch-size", "2", "--out", tmp_path / "f.npz")
    assert ran.code == 0, ran.err
    with np.load(tmp_path / "f.npz", allow_pickle=False) as found:
        features = dict(found)
    assert features["names"].tolist() == ["a", "b", "c"]
    assert features["pooled"].shape == (3, 32)
    assert features["tokens"].shape == (3, 196, 32)
    assert features["valid"].sum(1).tolist() == [196] * 3
    assert set(features["modalities"][features["modality"][features["valid"]]]) == {"rgb@224"}
    np.testing.assert_allclose(features["pooled"], features["tokens"].sum(1) / 196, atol=1e-5)
    np.testing.assert_allclose(features["pooled"][0], features["pooled"][2], atol=1e-5)
    assert np.abs(features["pooled"][0] - features["pooled"][1]).max() > 1e-3
    loaded = load_anytoany(model)
    both = {"rgb": np.zeros((224, 224, 3), np.uint8), "tok_semseg@224": np.zeros((14, 14), int)}
    assert loaded.embed([both]).valid.sum() == 392
    assert loaded.embed([both], only=["tok_semseg@224"]).valid.sum() == 196


def test_export_gives_the_file_back(file, model, mmtok, tmp_path):
    ran = mmtok("export", "4m", model, "--out", tmp_path / "again.safetensors")
    assert ran.code == 0, ran.err
    before, after = TensorFile(file), TensorFile(tmp_path / "again.safetensors")
    assert (before.specs, before.metadata) == (after.specs, after.metadata)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


class Samples:
    """Raw samples of one of an imported model's fields and of a new one; they lack the others."""

    fields = ("rgb", "tok_semseg@224", "tok_imagebind_global", "metadata", "t5_caption", "weather")

    def __len__(self) -> int:
        return 8

    def key(self, index):
        return str(index)

    def read(self, indices, fields) -> list[Sample]:
        rows = [
            {"tok_semseg@224": np.full((14, 14), index), "weather": np.array([index, -index], np.float32)}
            for index in indices
        ]
        return [{name: row[name] for name in fields if name in row} for row in rows]


@dataclasses.dataclass(frozen=True)
class Data:
    """These samples as the data of a project."""

    splits = ("train",)

    def prepare(self, folder):
        """Nothing to do."""

    def open(self, split, folder):
        return Samples()


def test_training_goes_on_with_a_new_modality(model, mmtok, tmp_path):
    base = Initial.open(model)
    project = Project(
        root=tmp_path,
        initial=model,
        data=Data(),
        modalities={**base.fields, "weather": Field(tokenizer=ScalarConfig(length=2, bins=4))},
        model=base.model,
        masking=MaskingConfig(input_tokens=16, target_tokens=16),
        batch_size=4,
        fit=FitConfig(steps=1, trackers=()),
    )
    train_tokenizers(project)
    tokenizers = list(open_tokenizers(project).values())
    tokenize(Samples(), tokenizers, folder=project.token_folder, split="train", description="tests")
    frozen = dataclasses.replace(project.fit.optimizer, learning_rate=0.0)
    train_project(dataclasses.replace(project, fit=dataclasses.replace(project.fit, optimizer=frozen)))
    before, after = (named_parameters(load_model(folder)[0]) for folder in (model, project.model_folder))
    for name, value in before.items():
        np.testing.assert_array_equal(after[name][tuple(slice(size) for size in value.shape)], value, err_msg=name)
    assert len(after["embeddings.modality"]) == len(before["embeddings.modality"]) + 1
    assert np.abs(after["embeddings.tokens.head"][-8:]).max() > 0
    ran = mmtok("export", "4m", project.model_folder, "--out", tmp_path / "more.safetensors")
    assert ran.code == 0, ran.err
    assert "decoder_embeddings.weather.to_logits.weight" in TensorFile(tmp_path / "more.safetensors")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("import", "4m", "--out", "x"), "missing|no file given"),
        (("import", "4m", "nowhere.safetensors", "--out", "x"), "nowhere.safetensors: no such file"),
        (("import", "4m", "half.safetensors", "--out", "x"), "half.safetensors: truncated, or not a safetensors file"),
        (("import", "4m", "tiny.safetensors", "tiny.safetensors", "--out", "x"), "two models are given"),
        (("import", "4m", "words.json", "--out", "x"), "a text vocabulary belongs to a model"),
        (("import", "4m", "tiny.safetensors", "words.json", "--out", "x"), "vocabulary"),
        (("import", "4m", "tiny.safetensors", "--out", "full"), "full: exists already; name a new folder"),
        (("import", "5m", "tiny.safetensors"), "unknown command 'import 5m' .*'import 4m'"),
        (("export", "4m", "full", "--out", "x"), "neither a model nor a tokenizer there"),
        (("embed", "photos", "--model", "imported", "--out", "x"), "photos: no files there to embed"),
        (("embed", "depth=photos", "--model", "imported", "--out", "x"), "unknown input field 'depth'"),
    ],
)
def test_what_a_user_gets_wrong(words, message, file, model, mmtok, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink(file, "tiny.safetensors")
    os.symlink(model, "imported")
    Path("half.safetensors").write_bytes(file.read_bytes()[:10_000])
    write_json("words.json", {"model": {}})
    write_json("full/notes.json", {})
    Path("photos").mkdir()
    assert re.search(message, mmtok(*words).error)
    assert not Path("x").exists()

"""The shipped configuration of the pictograms, shrunk: from the files to an answer."""

import dataclasses
import json
import re

import numpy as np
import pytest

from mmtok.data import Store
from mmtok.inference import load_anytoany
from mmtok.project import (
    Field,
    Project,
    load_project,
    tokenize_project,
    train_project,
    train_tokenizers,
)
from mmtok.tokenizers.images import ImageConfig
from mmtok.train.config import FitConfig


@pytest.fixture(scope="module")
def project(shared, tmp_path_factory) -> Project:
    """Without `flat`, whose settings are those of `render`."""
    whole = load_project("emoji")
    steps = dataclasses.replace(
        whole.fit,
        steps=2,
        ema=0.5,
        trackers=(),
        optimizer=dataclasses.replace(whole.fit.optimizer, warmup_steps=0),
    )
    return dataclasses.replace(
        whole,
        root=tmp_path_factory.mktemp("emoji"),
        data=dataclasses.replace(whole.data, root=shared / "data" / "emoji"),
        modalities={name: _shrunk(field, steps) for name, field in whole.modalities.items() if name != "flat"},
        tokenizer_samples=64,
        model=dataclasses.replace(whole.model, dim=32, encoder_depth=1, decoder_depth=1, heads=1, mlp_hidden=32),
        batch_size=4,
        fit=steps,
        sampling={name: target for name, target in whole.sampling.items() if name != "flat"},
        directions=tuple(direction for direction in whole.directions if "flat" not in direction.targets),
    )


def _shrunk(field: Field, steps: FitConfig) -> Field:
    tokenizer = field.tokenizer
    if isinstance(tokenizer, ImageConfig):
        tokenizer = dataclasses.replace(tokenizer, net=dataclasses.replace(tokenizer.net, width=32))
    return dataclasses.replace(field, tokenizer=tokenizer, fit=steps, batch_size=8)


@pytest.fixture(scope="module")
def model(project):
    train_tokenizers(project)
    tokenize_project(project)
    return load_anytoany(train_project(project))


def test_no_group_spans_splits(project):
    words = {}
    for split in project.data.splits:
        source = project.data.open(split, project.data_folder)
        words[split] = {re.findall(project.data.group, source.key(index))[0] for index in range(len(source))}
    assert not words["train"] & words["validation"]
    assert not words["train"] & words["test"]
    assert not words["validation"] & words["test"]


@pytest.mark.slow
def test_every_sample_has_every_modality_in_the_store(project, model):
    store = Store(project.token_folder)
    assert sum(store.splits.values()) == 1224
    assert min(store.splits.values()) > 0.05 * 1224
    tokens = store.read("test", np.arange(4))
    for name in project.modalities:
        assert (tokens[name].length > 0).all()


@pytest.mark.slow
def test_two_steps_run_and_the_model_answers(project, model):
    last = json.loads((project.model_folder / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 2
    assert np.isfinite(last["loss"])
    samples = project.data.open("test", project.data_folder).read(range(2), ["render"])
    for answer in model.sample(samples, ["name", "mask"]):
        assert isinstance(answer["name"], str)
        assert answer["mask"].shape == (32, 32)
        assert set(np.unique(answer["mask"])) <= {0, 1}

"""Every configuration that ships with the project loads, and its parts fit together down to the loss of its model."""

import jax
import numpy as np
import pytest

from mmtok.batch import TokenColumn
from mmtok.generate import validate
from mmtok.masking import Masker, fill_rates
from mmtok.modality import Modality
from mmtok.project import load_project
from mmtok.project.config import CONFIGS
from mmtok.tokenizers.artifact import create
from mmtok.train.anytoany import AnyToAnyTask

NAMES = sorted(path.stem for path in CONFIGS.glob("[!_]*.py"))
SAMPLES = 4


@pytest.mark.parametrize("name", NAMES)
def test_parts_fit_together(name):
    project = load_project(name)
    modalities = tuple(
        create(name=name, source=project.source_of(name), config=field.tokenizer).modality
        for name, field in project.modalities.items()
    )
    tokens = {modality.name: _column(modality) for modality in modalities}
    batch = Masker(project.masking, modalities)(tokens, seed=0, step=0, samples=np.arange(SAMPLES))
    assert fill_rates(batch)["input"] > 0

    task = AnyToAnyTask(project.model, modalities, batches=lambda _: batch, loss=project.loss)
    key = jax.random.key(0)
    loss, means = jax.eval_shape(lambda: task.loss(task.init(key), batch, key))
    targets = {modality.name for modality in modalities if modality.is_target}
    assert loss.shape == ()
    assert {name.removeprefix("loss/") for name in means if name.startswith("loss/")} == targets

    validate(tuple(project.sampling.values()), {}, modalities)
    assert project.sampling.keys() == targets
    assert project.directions


def _column(modality: Modality) -> TokenColumn:
    rng = np.random.default_rng(0)
    if not modality.is_target:
        return TokenColumn(
            rng.integers(0, 256, (SAMPLES, modality.size, modality.channels), dtype=np.uint8),
            np.full(SAMPLES, modality.size, np.int32),
        )
    values = rng.integers(0, modality.vocab_size, (SAMPLES, modality.size, modality.codes), dtype=np.int32)
    return TokenColumn(values, np.full(SAMPLES, modality.size, np.int32))

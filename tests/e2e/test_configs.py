"""Every configuration that ships with the project loads, and its parts fit together down to the loss of its model."""

import dataclasses

import jax
import numpy as np
import pytest

from mmtok.generate import validate
from mmtok.masking import fill_rates
from mmtok.project import load_project, plan_training
from mmtok.project.config import CONFIGS

NAMES = sorted(path.stem for path in CONFIGS.glob("[!_]*.py"))
SAMPLES = 4


@pytest.mark.parametrize("name", NAMES)
def test_parts_fit_together(name, tmp_path):
    project = dataclasses.replace(load_project(name), root=tmp_path)  # as before anything is made
    task = plan_training(project)
    batch = task.batch(0, np.arange(SAMPLES))
    assert fill_rates(batch)["input"] > 0
    assert fill_rates(batch)["target"] > 0

    modalities = task.modalities
    key = jax.random.key(0)
    loss, means = jax.eval_shape(lambda: task.loss(task.init(key), batch, key))
    targets = {modality.name for modality in modalities if modality.is_target}
    assert loss.shape == ()
    assert {name.removeprefix("loss/") for name in means if name.startswith("loss/")} == targets

    validate(tuple(project.sampling.values()), {}, modalities)
    assert project.sampling.keys() == targets
    assert project.directions

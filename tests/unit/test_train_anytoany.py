"""The any-to-any task."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmtok.batch import DecoderSlots, EncoderSlots, MaskedBatch
from mmtok.config import to_json
from mmtok.metrics import Mean
from mmtok.modality import Modality, Vocabulary
from mmtok.model import AnyToAny, sized
from mmtok.train.anytoany import AnyToAnyTask
from mmtok.train.config import FitConfig, OptimizerConfig
from mmtok.train.loop import fit
from mmtok.train.task import Task

MODALITIES = tuple(Modality(name=n, kind="grid", shape=(8,), vocabulary=Vocabulary(size=16)) for n in "abc")
SMALL = sized("nano", dim=16, heads=1, head_dim=16, mlp_hidden=32, encoder_depth=1, decoder_depth=1)


def batch(step, samples=8):
    """`a` in; `b` out, which is known from the position; in half the samples the decoder is half full."""
    random = np.random.default_rng(step)
    a = random.integers(0, 16, (samples, 8)).astype(np.int32)
    place = np.broadcast_to(np.arange(8, dtype=np.int32), (samples, 8))
    ones = np.ones((samples, 8), np.int32)
    valid = np.ones((samples, 8), bool)
    valid[::2, 4:] = False
    targets = np.where(valid, place, -1).astype(np.int32)
    limit = np.repeat(valid.sum(1, keepdims=True), 8, axis=1).astype(np.int32)
    return MaskedBatch(
        encoder=EncoderSlots(a[..., None], 0 * ones, place, np.ones((samples, 8), bool), {}),
        decoder=DecoderSlots(0 * a[..., None], np.where(valid, ones, 0), place, valid, limit),
        targets=targets[..., None],
    )


class Batches:
    batch_size = 8

    def __call__(self, step, rows):
        return jax.tree.map(lambda part: part[rows], batch(step))


class FakeModel(AnyToAny):
    def __init__(self):
        pass

    def losses(self, batch):
        return {"a": Mean(jnp.float32(12), jnp.float32(4)), "b": Mean(jnp.float32(2), jnp.float32(2)), "c": NONE}


NONE = Mean(jnp.float32(0), jnp.float32(0))


@pytest.mark.parametrize(("loss", "expected"), [("modality", (3 + 1) / 2), ("token", 14 / 6)])
def test_total_loss_leaves_out_modalities_without_targets(loss, expected):
    task = AnyToAnyTask(SMALL, MODALITIES, batches=Batches(), entropies={"a": 2.5}, loss=loss)
    total, means = task.loss(FakeModel(), batch(0), jax.random.key(0))
    assert float(total) == pytest.approx(expected)
    assert float(means["loss/a"].value) == 3
    assert float(means["entropy/a"].value) == 2.5
    assert "entropy/b" not in means
    assert float(means["fill/input"].value) == 1
    assert float(means["fill/target"].value) == 0.75


def test_only_what_is_trained_must_stay_the_same():
    tasks = [
        AnyToAnyTask(dataclasses.replace(SMALL, **changes), MODALITIES, batches=Batches(), data=data)
        for changes, data in (({}, 1), ({"remat": "full", "attention": "plain"}, 1), ({"mlp_hidden": 48}, 1), ({}, 2))
    ]
    same, other_execution, other_model, other_data = (to_json(task.config) for task in tasks)
    assert same == other_execution
    assert same["model"] != other_model["model"]
    assert same["data"] != other_data["data"]


def test_any_to_any_learns(tmp_path):
    entropies = dict.fromkeys("abc", math.log(16))
    task = AnyToAnyTask(SMALL, MODALITIES, batches=Batches(), entropies=entropies)
    assert isinstance(task, Task)
    assert task.tokens_per_step == 8 * 16
    assert task.flops_per_step > 0
    optimizer = OptimizerConfig(learning_rate=1e-2)
    result = fit(task, FitConfig(steps=60, log_every=30, optimizer=optimizer, trackers=()), tmp_path)
    assert result.metrics["entropy/b"] == pytest.approx(math.log(16), rel=1e-5)
    assert result.metrics["loss/b"] < result.metrics["entropy/b"] - 0.1
    assert result.metrics["loss"] == pytest.approx(result.metrics["loss/b"], rel=1e-5)
    assert "loss/a" not in result.metrics
    assert result.metrics["utilisation"] > 0

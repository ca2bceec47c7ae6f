"""The tokenizer task."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmtok.data import ArrayBatches
from mmtok.metrics import Mean
from mmtok.modality import Modality, Vocabulary
from mmtok.tokenizers.artifact import Learned
from mmtok.train.config import FitConfig, OptimizerConfig
from mmtok.train.loop import fit
from mmtok.train.task import Task
from mmtok.train.tokenizer import TokenizerTask


class Halver(Learned):
    """A tokenizer whose network is one number that should become a half."""

    @property
    def modality(self) -> Modality:  # pyright: ignore[reportIncompatibleVariableOverride]
        return Modality(name="half", kind="grid", shape=(8,), vocabulary=Vocabulary(size=16))

    def init(self, key):
        return nnx.Linear(1, 1, use_bias=False, rngs=nnx.Rngs(key))

    def loss(self, module, batch, key):
        error = jnp.mean((module(batch[:, None]) - batch[:, None] / 2) ** 2)
        return error, {"mse": Mean(error, jnp.float32(1))}

    def flops(self, batch):
        return 6.0 * batch


def test_tokenizer_is_driven_through_its_own_loss(tmp_path):
    tokenizer = Halver(name="half", source="x", config={"kind": "halver"})
    values = np.random.default_rng(0).normal(size=64).astype(np.float32)
    task = TokenizerTask(tokenizer, ArrayBatches(values, batch_size=16, seed=0))
    assert isinstance(task, Task)
    assert (task.name, task.config, task.tokens_per_step, task.flops_per_step) == (
        "half",
        {"kind": "halver"},
        128,
        96.0,
    )
    optimizer = OptimizerConfig(learning_rate=0.1, weight_decay=0.0)
    result = fit(task, FitConfig(steps=100, log_every=50, optimizer=optimizer, trackers=()), tmp_path)
    assert float(result.module.kernel[...][0, 0]) == pytest.approx(0.5, abs=1e-2)
    assert result.metrics["mse"] == pytest.approx(result.metrics["loss"])

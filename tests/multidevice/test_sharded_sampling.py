"""Sampling with eight devices, each with its share of a batch, against one.

Run as a script (by the test, in a process of its own with eight fake CPU devices) this file makes all the checks.
"""

import os
import subprocess
import sys

import jax
import numpy as np
from flax import nnx

from mmtok.generate import Known, Sampler, Target
from mmtok.modality import Modality, Vocabulary
from mmtok.model import AnyToAny, ModelConfig

MODALITIES = (
    Modality(name="rgb", kind="grid", shape=(4, 4), vocabulary=Vocabulary(size=11)),
    Modality(name="clip", kind="grid", shape=(6,), vocabulary=Vocabulary(size=7), codes=2),
    Modality(name="text", kind="sequence", shape=(6,), vocabulary=Vocabulary(size=30, sentinel_count=8)),
)
PLAN = (
    Target(modality="clip", steps=2, guidance=2.0),
    Target(modality="text", weights={"rgb": 1.5, "clip": -0.5}),
)


def check() -> None:
    """Eleven samples, some of them ragged: no multiple of eight."""
    config = ModelConfig(dim=16, encoder_depth=1, decoder_depth=2, heads=2, head_dim=8, mlp_hidden=32, registers=1)
    model = AnyToAny(config, MODALITIES, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    known = {"rgb": Known(rng.integers(0, 11, (11, 16, 1)), rng.random((11, 16)) < 0.6)}
    known["rgb"].visible[3] = False
    assert len(jax.devices()) == 8
    many, one = Sampler(model), Sampler(model, devices=jax.devices()[:1])
    here, there = many.generate(known, PLAN, seed=3), one.generate(known, PLAN, seed=3)
    for name in here:
        assert (here[name].column.values == there[name].column.values).all(), name
        assert (here[name].column.length == there[name].column.length).all(), name
        np.testing.assert_allclose(here[name].log_probs, there[name].log_probs, atol=1e-4)
        np.testing.assert_allclose(here[name].entropies, there[name].entropies, atol=1e-4)
    outputs = {name: item.column for name, item in here.items()}
    scored = many.score(known, PLAN[:1], outputs, seed=3)["clip"]
    np.testing.assert_allclose(scored.log_probs, here["clip"].log_probs, atol=1e-4)


def test_the_number_of_devices_changes_nothing():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__]
    ran = subprocess.run(command, env={**os.environ, **flags}, capture_output=True, text=True, timeout=500, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]


if __name__ == "__main__":
    check()

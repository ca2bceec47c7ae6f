"""Schedule values, the weight-decay mask and AdamW against plain numpy."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtok.errors import MmtokError
from mmtok.train.config import OptimizerConfig
from mmtok.train.layout import Parameter
from mmtok.train.optimizer import decays, make_optimizer, make_schedule

pytestmark = pytest.mark.usefixtures("optimised")


def rates(config: OptimizerConfig, steps: int) -> np.ndarray:
    return np.asarray(jax.vmap(make_schedule(config, steps=steps))(jnp.arange(steps)))


def test_cosine():
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=4, schedule="cosine", final_fraction=0.1)
    got = rates(config, 24)
    np.testing.assert_allclose(got[:4], [0.5, 1.0, 1.5, 2.0], rtol=1e-6)
    expected = [2.0 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 4) / 20))) for step in range(4, 24)]
    np.testing.assert_allclose(got[4:], expected, rtol=1e-5)


def test_warmup_stable_decay():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=2, schedule="wsd", decay_fraction=0.4)
    expected = [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    np.testing.assert_allclose(rates(config, 10), expected, rtol=1e-6)


def test_constant():
    config = OptimizerConfig(learning_rate=0.5, warmup_steps=2, schedule="constant")
    np.testing.assert_allclose(rates(config, 6), [0.25, 0.5, 0.5, 0.5, 0.5, 0.5], rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    schedule=st.sampled_from(["cosine", "wsd", "constant"]),
    warmup=st.integers(0, 10),
    final=st.floats(0, 1),
    decay=st.floats(0, 0.5),
)
def test_rises_then_never_rises_again(schedule, warmup, final, decay):
    config = OptimizerConfig(
        learning_rate=1.0, warmup_steps=warmup, schedule=schedule, final_fraction=final, decay_fraction=decay
    )
    got = rates(config, 20)
    assert got.min() > 0 or final == 0
    assert got.max() <= 1 + 1e-6
    assert np.all(np.diff(got[:warmup]) > 0)
    assert np.all(np.diff(got[warmup:]) <= 1e-6)
    assert np.all(got[warmup:] >= final - 1e-5)


def test_warmup_longer_than_the_run_is_refused():
    with pytest.raises(MmtokError, match="warmup_steps 30"):
        make_schedule(OptimizerConfig(warmup_steps=30), steps=20)


@pytest.mark.parametrize(
    ("path", "shape", "axes", "expected"),
    [
        ("mlp.up.kernel", (4, 8), ("embed", "mlp"), True),
        ("blocks.mlp.up.kernel", (2, 4, 8), ("layers", "embed", "mlp"), True),
        ("blocks.norm.scale", (2, 4), ("layers", "embed"), False),
        ("blocks.norm.offset", (2, 4), ("layers", "embed"), False),
        ("norm.scale", (4,), None, False),
        ("stacked_without_names.scale", (2, 4), None, False),
        ("kernel", (4, 8), None, True),
        ("temperature", (), (), False),
    ],
)
def test_weight_decay_spares_norms_and_biases(path, shape, axes, expected):
    assert decays(path, Parameter(shape, jnp.float32, axes)) is expected


def test_adamw_with_clipping_against_numpy():
    config = OptimizerConfig(
        learning_rate=0.1, schedule="constant", b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.2, clip_norm=1.0
    )
    random = np.random.default_rng(0)
    values = {"kernel": random.normal(size=(3, 2)), "bias": random.normal(size=(2,))}
    parameters = {name: Parameter(value.shape, jnp.float32, None) for name, value in values.items()}
    optimizer = make_optimizer(config, steps=3, parameters=parameters)
    params = {name: jnp.float32(value) for name, value in values.items()}
    state = optimizer.init(params)
    first = {name: np.zeros_like(value) for name, value in values.items()}
    second = {name: np.zeros_like(value) for name, value in values.items()}
    for step in range(1, 4):
        grads = {name: random.normal(size=value.shape) for name, value in values.items()}
        updates, state = optimizer.update({n: jnp.float32(g) for n, g in grads.items()}, state, params)
        params: Any = optax.apply_updates(params, updates)
        norm = math.sqrt(sum((grad**2).sum() for grad in grads.values()))
        for name, grad in grads.items():
            grad = grad / max(norm, 1.0)
            first[name] = 0.9 * first[name] + 0.1 * grad
            second[name] = 0.95 * second[name] + 0.05 * grad**2
            direction = first[name] / (1 - 0.9**step) / (np.sqrt(second[name] / (1 - 0.95**step)) + 1e-8)
            values[name] = values[name] - 0.1 * (direction + (0.2 * values[name] if name == "kernel" else 0))
    for name, value in values.items():
        np.testing.assert_allclose(params[name], value, rtol=1e-5, atol=1e-6)


def test_bfloat16_moments_follow_the_float32_ones():
    parameters = {"w": Parameter((64, 8), jnp.float32, ("embed", "mlp"))}
    ends = {}
    for moments in ("float32", "bfloat16"):
        config = OptimizerConfig(learning_rate=1e-2, schedule="constant", moments=moments)
        optimizer = make_optimizer(config, steps=30, parameters=parameters)
        params: Any = {"w": jnp.ones((64, 8))}
        state = optimizer.init(params)
        for step in range(30):
            gradients = {"w": jax.random.normal(jax.random.key(step), (64, 8)) + 0.5}
            updates, state = optimizer.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
        assert {str(x.dtype) for x in jax.tree.leaves(state) if x.ndim} == {moments}
        ends[moments] = np.asarray(params["w"])
    moved = np.abs(ends["float32"] - 1).mean()
    assert np.abs(ends["bfloat16"] - ends["float32"]).max() < 0.02 * moved


def test_bfloat16_moments_that_would_stand_still_are_refused():
    with pytest.raises(MmtokError, match=r"b2 0\.999"):
        OptimizerConfig(b2=0.999, moments="bfloat16")

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtok.errors import MmtokError
from mmtok.tokenizers.quantizers import FSQ

LEVELS = st.tuples(st.integers(2, 9), st.integers(2, 9), st.integers(2, 9))


def reference(latent: np.ndarray, levels: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Codes and ids by the definition: squash each dimension into its levels and take the nearest one."""
    codes, ids = np.zeros_like(latent), np.zeros(len(latent), int)
    for row in range(len(latent)):
        step = 1
        for dim, count in enumerate(levels):
            half = (count - 1) * 1.001 / 2
            offset = 0.5 if count % 2 == 0 else 0.0
            level = round(np.tanh(latent[row, dim] + np.arctanh(offset / half)) * half - offset)
            codes[row, dim] = level / (count // 2)
            ids[row] += (level + count // 2) * step
            step *= count
    return codes, ids


@settings(max_examples=20, deadline=None)
@given(levels=LEVELS, seed=st.integers(0, 1000))
def test_agrees_with_the_definition(levels: tuple[int, ...], seed: int):
    fsq = FSQ(levels=levels)
    latent = np.random.default_rng(seed).normal(0, 2, (50, len(levels))).astype(np.float32)
    codes, ids = reference(latent, levels)
    got = fsq.quantize(jnp.asarray(latent))
    np.testing.assert_allclose(got, codes, atol=1e-6)
    np.testing.assert_array_equal(fsq.indices(got), ids)


@pytest.mark.parametrize("levels", [(2,), (6,), (8, 5), (3, 2, 4)])
def test_ids_and_codes_are_one_to_one(levels: tuple[int, ...]):
    fsq = FSQ(levels=levels)
    ids = jnp.arange(fsq.size)
    np.testing.assert_array_equal(fsq.indices(fsq.vectors(ids)), ids)
    np.testing.assert_allclose(fsq.codes(), fsq.vectors(ids), atol=1e-7)
    grids = [(np.arange(count) - count // 2) / (count // 2) for count in levels]
    every = np.array(list(itertools.product(*reversed(grids))))[:, ::-1]
    np.testing.assert_allclose(fsq.codes(), every, atol=1e-6)


def test_every_code_can_be_reached():
    fsq = FSQ(levels=(8, 5))
    latent = np.random.default_rng(0).normal(0, 2, (20000, 2)).astype(np.float32)
    assert len(np.unique(fsq.indices(fsq.quantize(jnp.asarray(latent))))) == fsq.size == 40


def test_gradient_passes_straight_through():
    fsq = FSQ(levels=(8, 5))
    latent = jnp.asarray(np.random.default_rng(0).normal(0, 1, (30, 2)), jnp.float32)
    gradient = jax.grad(lambda latent: jnp.sum(fsq.quantize(latent)))(latent)
    half = np.array([7, 4]) * 1.001 / 2
    shift = np.arctanh(np.array([0.5, 0]) / half)
    np.testing.assert_allclose(gradient, (1 - np.tanh(latent + shift) ** 2) * half / (4, 2), rtol=1e-4, atol=1e-6)


def test_bad_levels():
    for levels in ((), (8, 1)):
        with pytest.raises(MmtokError, match="at least 2 levels"):
            FSQ(levels=levels)

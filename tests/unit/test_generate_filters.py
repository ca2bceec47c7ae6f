"""Filters against a plain numpy reference, one row at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtok.generate.filters import draw, filtered


def reference(logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> np.ndarray:
    """Probabilities of one row of distinct logits, in float64."""
    if temperature == 0:
        return np.eye(len(logits))[logits.argmax()]
    p = np.exp((logits - logits.max()) / temperature)
    order = np.argsort(-logits)
    likely = p >= min_p
    if top_k:
        p[order[top_k:]] = 0
    p /= p.sum()
    kept, total = [], 0.0
    for token in order:
        kept.append(token)
        total += p[token]
        if total >= top_p:
            break
    result = np.zeros_like(p)
    result[kept] = (p * likely)[kept]
    return result / result.sum()


def probabilities(logits, temperature: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> np.ndarray:
    rows = jnp.full(logits.shape[:-1], temperature, jnp.float32)
    return np.exp(np.asarray(filtered(jnp.asarray(logits), temperature=rows, top_k=top_k, top_p=top_p, min_p=min_p)))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.05, 0.7, 1.0, 3.0]),
    st.sampled_from([0, 1, 3, 50]),
    st.sampled_from([0.02, 0.5, 0.9, 1.0]),
    st.sampled_from([0.0, 0.1, 0.6, 1.0]),
)
def test_filters_agree_with_numpy(seed, temperature, top_k, top_p, min_p):
    logits = np.random.default_rng(seed).normal(size=(4, 12)).astype(np.float32) * 2
    found = probabilities(logits, temperature, top_k, top_p, min_p)
    expected = [reference(row.astype(np.float64), temperature, top_k, top_p, min_p) for row in logits]
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_top_p_speaks_of_the_tempered_distribution():
    logits = np.log(np.array([0.6, 0.3, 0.1], np.float32))
    assert (probabilities(logits, 1.0, top_p=0.85) > 0).tolist() == [True, True, False]
    assert (probabilities(logits, 0.3, top_p=0.85) > 0).tolist() == [True, False, False]
    assert (probabilities(logits, 5.0, top_p=0.85) > 0).tolist() == [True, True, True]


def test_temperatures_differ_between_rows():
    logits = np.tile(np.array([0.0, 1.0, 2.0], np.float32), (3, 1))
    log_probs = filtered(jnp.asarray(logits), temperature=jnp.array([0.0, 1.0, 2.0]), top_k=0, top_p=1.0)
    for row, temperature in enumerate([0.0, 1.0, 2.0]):
        np.testing.assert_allclose(np.exp(log_probs[row]), reference(logits[row], temperature, 0, 1.0, 0.0), atol=1e-6)


def test_excluded_tokens_stay_excluded():
    logits = np.array([-np.inf, 3.0, -np.inf, 1.0], np.float32)
    for temperature in (0.0, 1e-9, 0.5, 1e6):
        for top_p in (0.5, 1.0):
            found = probabilities(logits, temperature, top_p=top_p)
            assert np.isfinite(found).all()
            assert found[0] == found[2] == 0
            assert found.sum() == pytest.approx(1)


def test_low_precision_logits_are_filtered_in_float32():
    result = filtered(jnp.zeros((2, 5), jnp.bfloat16), temperature=jnp.ones(2), top_k=0, top_p=1.0)
    assert result.dtype == jnp.float32


def test_each_row_draws_from_its_own_key():
    log_probs = jnp.log(jnp.array([[0.2, 0.5, 0.3]])).repeat(20_000, 0)
    ids = draw(jax.random.split(jax.random.key(0), 20_000), log_probs)
    assert ids.dtype == jnp.int32
    np.testing.assert_allclose(np.bincount(ids, minlength=3) / 20_000, [0.2, 0.5, 0.3], atol=0.015)
    keys = jax.random.split(jax.random.key(1), 6).reshape(2, 3)
    few = draw(keys, jnp.zeros((2, 3, 4)))
    alone = [[int(draw(keys[i, j], jnp.zeros(4))) for j in range(3)] for i in range(2)]
    assert few.tolist() == alone


def test_top_p_may_speak_of_the_distribution_before_the_temperature():
    logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
    kept = {
        tempered: np.isfinite(filtered(logits, temperature=jnp.array(0.1), top_k=0, top_p=0.9, tempered=tempered)).sum()
        for tempered in (True, False)
    }
    assert kept == {True: 1, False: 3}
    plain = filtered(logits, temperature=jnp.array(0.1), top_k=0, top_p=0.9, tempered=False)
    expected = np.array([0.5, 0.3, 0.15]) ** 10
    np.testing.assert_allclose(np.exp(plain[:3]), expected / expected.sum(), rtol=1e-4)

"""Grouped heads against masked dense logits, and their cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtok.model.heads import TILES, Head, cross_entropy

pytestmark = pytest.mark.usefixtures("optimised")

DIM, SLOTS = 8, 700
LARGE, SMALL = TILES["cpu"]
HEADS = (  # modality 1 has no vocabulary; modality 2 has two codes
    Head(modality=0, code=0, offset=0, size=30),
    Head(modality=2, code=0, offset=30, size=9),
    Head(modality=2, code=1, offset=39, size=9),
    Head(modality=3, code=0, offset=48, size=30),
    Head(modality=4, code=0, offset=78, size=5),
)
ROWS, MODALITIES = 83, 5


def data(seed: int, counts: list[int]):
    """Returns hidden, table, targets, modality, valid with `counts[m]` targets of modality m, shuffled."""
    rng = np.random.default_rng(seed)
    modality = np.repeat(np.arange(MODALITIES), counts)[:SLOTS]
    modality = np.pad(modality, (0, SLOTS - len(modality)), constant_values=-1)
    rng.shuffle(modality)
    sizes = np.array([[30, 1], [1, 1], [9, 9], [30, 1], [5, 1]])[modality]
    targets = (rng.random((SLOTS, 2)) * sizes).astype(np.int32)
    hidden = rng.normal(size=(SLOTS, DIM)).astype(np.float32)
    table = rng.normal(size=(ROWS, DIM)).astype(np.float32)
    return hidden, table, targets, np.maximum(modality, 0).astype(np.int32), modality >= 0


def naive(hidden, table, targets, modality, valid):
    totals = jnp.zeros(MODALITIES)
    for head in HEADS:
        logits = hidden @ table[head.offset : head.offset + head.size].T
        nats = -jnp.take_along_axis(
            jax.nn.log_softmax(logits), jnp.minimum(targets[:, head.code : head.code + 1], head.size - 1), axis=1
        )[:, 0]
        totals = totals.at[head.modality].add(jnp.where(valid & (modality == head.modality), nats, 0).sum())
    return totals


@jax.jit
def both(weights, hidden, table, targets, modality, valid):
    def grouped(hidden, table):
        totals, counts = cross_entropy(hidden, table, targets, modality, valid, heads=HEADS, dtype="float32")
        return (totals * weights).sum(), (totals, counts)

    def dense(hidden, table):
        totals = naive(hidden, table, targets, modality, valid)
        return (totals * weights).sum(), totals

    return (
        jax.value_and_grad(grouped, argnums=(0, 1), has_aux=True)(hidden, table),
        jax.value_and_grad(dense, argnums=(0, 1), has_aux=True)(hidden, table),
        grouped(hidden, table)[0],
    )


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 99),
    st.lists(
        st.sampled_from([0, 1, 60, SMALL, SMALL + 1, LARGE - 1, LARGE, LARGE + SMALL + 1, 2 * LARGE]),
        min_size=MODALITIES,
        max_size=MODALITIES,
    ),
)
def test_values_and_gradients_equal_the_dense_ones(seed, counts):
    counts[1] = 0
    hidden, table, targets, modality, valid = data(seed, counts)
    weights = np.random.default_rng(seed).normal(size=MODALITIES).astype(np.float32)
    ((_, (totals, number)), gradients), ((value, expected), expected_gradients), no_gradient = both(
        weights, hidden, table, targets, modality, valid
    )
    np.testing.assert_allclose(totals, expected, rtol=1e-5, atol=1e-4)
    assert float(no_gradient) == pytest.approx(float(value), rel=1e-5, abs=1e-3)
    for got, want in zip(gradients, expected_gradients):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    codes = np.array([1, 0, 2, 1, 1])
    np.testing.assert_array_equal(number, np.bincount(modality[valid], minlength=MODALITIES) * codes)


def test_no_array_of_all_targets_times_all_vocabularies():
    size, modalities, slots = 1000, 8, 4096
    heads = tuple(Head(modality=m, code=0, offset=m * size, size=size) for m in range(modalities))
    shapes = (
        jax.ShapeDtypeStruct((slots, DIM), jnp.float32),
        jax.ShapeDtypeStruct((modalities * size, DIM), jnp.float32),
        jax.ShapeDtypeStruct((slots, 1), jnp.int32),
        jax.ShapeDtypeStruct((slots,), jnp.int32),
        jax.ShapeDtypeStruct((slots,), jnp.bool_),
    )

    def total(hidden, table, *rest):
        return cross_entropy(hidden, table, *rest, heads=heads, dtype="float32")[0].sum()

    compiled = jax.jit(jax.grad(total, argnums=(0, 1))).lower(*shapes).compile()
    memory = compiled.memory_analysis().temp_size_in_bytes  # pyright: ignore[reportOptionalMemberAccess]
    assert memory < 4 * slots * size  # not even all targets times one vocabulary


def test_a_large_logit_does_not_overflow():
    hidden, *others = map(jnp.asarray, data(0, [3, 0, 3, 3, 3]))
    totals, _ = cross_entropy(1e4 * hidden, *others, heads=HEADS, dtype="float32")
    assert np.isfinite(totals).all()

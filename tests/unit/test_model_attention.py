"""Fused attention against the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmtok.errors import MmtokError
from mmtok.model.attention import attend

pytestmark = pytest.mark.usefixtures("optimised")

SAMPLES, SLOTS, HEADS, WIDTH = 3, 128, 2, 128
LENGTHS = (128, 37, 0)


def inputs():
    keys = jax.random.split(jax.random.key(0), 3)
    query, key, value = (jax.random.normal(key, (SAMPLES, SLOTS, HEADS, WIDTH)) for key in keys)
    return query, key, value, jnp.arange(SLOTS) < jnp.array(LENGTHS)[:, None, None]


def value_and_gradients(kind, query, key, value, mask):
    def loss(query, key, value):
        mixed = attend(query, key, value, mask, kind=kind)
        return jnp.sum(mixed * jnp.cos(jnp.arange(WIDTH))), mixed

    (_, mixed), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(query, key, value)
    return mixed, *grads


@pytest.mark.filterwarnings("ignore")  # the interpreter's
def test_splash_is_the_plain_one():
    for got, wanted in zip(value_and_gradients("splash", *inputs()), value_and_gradients("plain", *inputs())):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN's attention needs a GPU")
@pytest.mark.parametrize("rows", [1, SLOTS])
def test_cudnn_is_the_plain_one(rows):
    query, key, value, mask = inputs()
    query, key, value = (array.astype(jnp.bfloat16) for array in (query, key, value))
    if rows > 1:  # causal within what is valid
        mask = mask & (jnp.arange(SLOTS)[:, None] >= jnp.arange(SLOTS))
    fused, plain = (value_and_gradients(kind, query, key, value, mask) for kind in ("cudnn", "plain"))
    for got, wanted in zip(fused, plain):
        np.testing.assert_allclose(got.astype(np.float32), wanted.astype(np.float32), rtol=0.05, atol=0.05)


def test_a_query_that_sees_nothing_reads_zeros():
    assert not np.any(attend(*inputs(), kind="plain")[2])


@pytest.mark.parametrize(("kind", "message"), [("cudnn", "there is no GPU"), ("splash", "must be multiples of 128")])
def test_what_cannot_be_had_is_said(kind, message):
    query, key, value, mask = inputs()
    with pytest.raises(MmtokError, match=message):
        attend(query[:, :7], key, value, mask, kind=kind)

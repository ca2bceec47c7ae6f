"""LayerNorm's own backward pass against plain differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmtok.model.layers import LayerNorm

pytestmark = pytest.mark.usefixtures("optimised")

EPS = 1e-6


def plain(x, scale, bias):
    x = x.astype(jnp.float32)
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + EPS) * scale + bias


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("spread", [1e-4, 1.0, 1e3])
def test_values_and_gradients_are_those_of_plain_differentiation(dtype, spread):
    keys = jax.random.split(jax.random.key(0), 4)
    x = (3 + spread * jax.random.normal(keys[0], (2, 5, 24))).astype(dtype)
    scale, bias = (1 + jax.random.normal(key, (24,)) for key in keys[1:3])
    weights = jax.random.normal(keys[3], x.shape)

    def own(x, scale, bias):
        norm = LayerNorm(24, eps=EPS, bias=True)
        assert norm.bias is not None
        norm.scale[...], norm.bias[...] = scale, bias
        return norm(x)

    def value_and_gradients(function):
        def loss(x, scale, bias):
            y = function(x, scale, bias)
            return jnp.sum(y * weights), y

        (_, y), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(x, scale, bias)
        return y, *grads

    for got, wanted in zip(value_and_gradients(own), value_and_gradients(plain)):
        wanted = np.asarray(wanted, np.float32)
        most = 1e-2 if got.dtype == jnp.bfloat16 else 2e-3 if spread == 1e-4 else 1e-5
        np.testing.assert_allclose(np.asarray(got, np.float32), wanted, rtol=most, atol=most * abs(wanted).max())


def test_the_backward_pass_keeps_no_copy_of_the_rows():
    norm, x = LayerNorm(24, eps=EPS, bias=False), jnp.ones((5, 24))
    kept = jax.tree.leaves(jax.vjp(norm, x)[1])
    assert [leaf.shape for leaf in kept if leaf.shape == x.shape] == [x.shape]  # x itself

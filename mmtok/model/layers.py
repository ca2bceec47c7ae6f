"""Dense layer and LayerNorm, with named axes and mixed precision."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mmtok.axes import param, whole_width


class Linear(nnx.Module):
    """x W + b, Xavier-uniform weights and zero bias; the product is taken in `dtype`."""

    def __init__(
        self, inputs: int, outputs: int, *, axes: tuple[str | None, str | None], bias: bool, dtype: str, rngs: nnx.Rngs
    ) -> None:
        limit = math.sqrt(6 / (inputs + outputs))
        self.kernel = param(jax.random.uniform(rngs.params(), (inputs, outputs), minval=-limit, maxval=limit), axes)
        self.bias = param(jnp.zeros(outputs), axes[1:]) if bias else None
        self.dtype, self.axes = dtype, axes

    def __call__(self, x: Float[Array, "*rows inputs"]) -> Float[Array, "*rows outputs"]:
        """Returns the outputs in the compute dtype."""
        kernel = whole_width(self.kernel[...].astype(self.dtype), self.axes)
        flat = x.reshape(-1, x.shape[-1]).astype(self.dtype)  # three-dimensional products cost a transpose on CPU
        y = flat @ kernel
        if self.bias is not None:
            y = y + whole_width(self.bias[...].astype(self.dtype), self.axes[1:])
        return y.reshape(*x.shape[:-1], -1)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, in float32."""

    def __init__(self, dim: int, *, eps: float, bias: bool, axis: str | None = "embed") -> None:
        self.scale = param(jnp.ones(dim), (axis,))
        self.bias = param(jnp.zeros(dim), (axis,)) if bias else None
        self.eps, self.axes = eps, (axis,)

    def __call__(self, x: Float[Array, "*rows dim"]) -> Float[Array, "*rows dim"]:
        """Returns the normalised values in float32."""
        y = jnp.asarray(_normalise(self.eps, x.astype(jnp.float32))) * whole_width(self.scale[...], self.axes)
        return y if self.bias is None else y + whole_width(self.bias[...], self.axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _normalise(eps: float, x: Float[Array, "*rows dim"]) -> Float[Array, "*rows dim"]:
    """Returns rows of mean 0 and variance 1.

    The backward pass keeps the rows, which the residual stream keeps anyway, and two numbers of each. Left to itself
    it would keep two more copies of all of them.
    """
    return _normalised(eps, x)[0]


def _normalised(eps: float, x: Array) -> tuple[Array, Array, Array]:
    mean = x.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + eps)
    return (x - mean) * inverse, mean, inverse


def _normalise_forward(eps: float, x: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    y, mean, inverse = _normalised(eps, x)
    return y, (x, mean, inverse)


def _normalise_backward(eps: float, saved: tuple[Array, Array, Array], cotangent: Array) -> tuple[Array]:
    x, mean, inverse = saved
    y = (x - mean) * inverse
    along = (cotangent * y).mean(-1, keepdims=True)
    return ((cotangent - cotangent.mean(-1, keepdims=True) - y * along) * inverse,)


_normalise.defvjp(_normalise_forward, _normalise_backward)

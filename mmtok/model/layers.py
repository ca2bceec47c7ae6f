"""Dense layer and LayerNorm, with named axes and mixed precision."""

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
        x = x.astype(jnp.float32)
        x = x - x.mean(-1, keepdims=True)
        y = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + self.eps) * whole_width(self.scale[...], self.axes)
        return y if self.bias is None else y + whole_width(self.bias[...], self.axes)

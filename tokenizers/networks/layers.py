"""Layers that the networks share."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mmtok.axes import param

HEAD_GAIN = 0.1  # of the last layer: at first a network is a small correction of the linear path beside it


class Dense(nnx.Module):
    """Affine map of the last axis; leading axes are flattened, which is faster on CPUs."""

    def __init__(
        self, inputs: int, outputs: int, *, rngs: nnx.Rngs, axes: tuple[str | None, str | None], gain: float = 1.0
    ):
        self.kernel = param(gain * jax.nn.initializers.lecun_normal()(rngs.params(), (inputs, outputs)), axes)
        self.bias = param(jnp.zeros(outputs), axes[1:])

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        """Returns x @ kernel + bias."""
        flat = x.reshape(-1, x.shape[-1]) @ self.kernel[...] + self.bias[...]
        return flat.reshape(*x.shape[:-1], flat.shape[-1])


class LayerNorm(nnx.Module):
    """Layer normalisation of the last axis in float32."""

    def __init__(self, size: int):
        self.scale = param(jnp.ones(size), ("embed",))
        self.bias = param(jnp.zeros(size), ("embed",))

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Returns the normalised x."""
        x = x.astype(jnp.float32)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + 1e-6) * self.scale[...] + self.bias[...]

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

    def __init__(self, size: int, *, eps: float = 1e-6):
        self.scale = param(jnp.ones(size), ("embed",))
        self.bias = param(jnp.zeros(size), ("embed",))
        self.eps = eps

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Returns the normalised x."""
        x = x.astype(jnp.float32)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + self.eps) * self.scale[...] + self.bias[...]


class GroupNorm(nnx.Module):
    """Normalisation over space and groups of channels (Wu and He, arXiv 1803.08494) in float32."""

    def __init__(self, size: int, *, groups: int = 32, eps: float = 1e-5):
        self.scale = param(jnp.ones(size), (None,))
        self.bias = param(jnp.zeros(size), (None,))
        self.groups, self.eps = groups, eps

    def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
        """Returns the normalised x."""
        grouped = x.astype(jnp.float32).reshape(len(x), -1, self.groups, x.shape[-1] // self.groups)
        centred = grouped - jnp.mean(grouped, axis=(1, 3), keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=(1, 3), keepdims=True)
        return (centred * jax.lax.rsqrt(variance + self.eps)).reshape(x.shape) * self.scale[...] + self.bias[...]


class Convolution(nnx.Module):
    """Square convolution; `padding` zeros on each side, `groups` of channels that do not mix."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: int,
        rngs: nnx.Rngs,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        gain: float = 1.0,
    ):
        shape = (size, size, inputs // groups, outputs)
        self.kernel = param(
            gain * jax.nn.initializers.lecun_normal()(rngs.params(), shape), (None, None, None, "embed")
        )
        self.bias = param(jnp.zeros(outputs), ("embed",))
        self.stride, self.padding, self.groups = stride, padding, groups

    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B h w O"]:
        """Returns the convolved x."""
        y = jax.lax.conv_general_dilated(
            x,
            self.kernel[...],
            (self.stride, self.stride),
            [(self.padding, self.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )
        return y + self.bias[...]

"""Residual convolutions of denoising networks (Ho et al., arXiv 2006.11239, appendix B)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Int

from mmtok.tokenizers.networks.layers import Convolution, Dense, GroupNorm

_LONGEST = 10_000  # steps; the slowest wave of the time embedding turns by 1 radian in so many


class TimeEmbedding(nnx.Module):
    """(B,) steps -> (B, outputs): waves of `inputs` frequencies and phases, then two layers."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.count = inputs // 2
        self.first = Dense(inputs, outputs, rngs=rngs, axes=(None, "embed"))
        self.second = Dense(outputs, outputs, rngs=rngs, axes=("embed", None))

    def __call__(self, time: Int[Array, " B"]) -> Float[Array, "B D"]:
        """Returns the embeddings."""
        angles = time.astype(jnp.float32)[:, None] * _rates(self.count)
        waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        return self.second(jax.nn.silu(self.first(waves)))


class ResidualBlock(nnx.Module):
    """Two convolutions, each after norm and SiLU, with the time added between; at first the branch gives 0."""

    def __init__(self, inputs: int, outputs: int, *, time: int, rngs: nnx.Rngs):
        self.norm_in = GroupNorm(inputs)
        self.conv_in = Convolution(inputs, outputs, size=3, padding=1, rngs=rngs)
        self.time = Dense(time, outputs, rngs=rngs, axes=("embed", None))
        self.norm_out = GroupNorm(outputs)
        self.conv_out = Convolution(outputs, outputs, size=3, padding=1, rngs=rngs, gain=0.0)
        self.shortcut = Dense(inputs, outputs, rngs=rngs, axes=(None, "embed")) if inputs != outputs else None

    def __call__(self, x: Float[Array, "B H W I"], time: Float[Array, "B T"]) -> Float[Array, "B H W O"]:
        """Returns the sum of shortcut and branch."""
        branch = self.conv_in(jax.nn.silu(self.norm_in(x)))
        branch = branch + self.time(jax.nn.silu(time))[:, None, None]
        branch = self.conv_out(jax.nn.silu(self.norm_out(branch)))
        return (x if self.shortcut is None else self.shortcut(x)) + branch


class Downsample(nnx.Module):
    """Half the resolution."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.conv = Convolution(width, width, size=3, stride=2, padding=1, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B h w D"]:
        """Returns the reduced x."""
        return self.conv(x)


class Upsample(nnx.Module):
    """Twice the resolution: each cell four times, then a convolution."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.conv = Convolution(width, width, size=3, padding=1, rngs=rngs)

    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B H W D"]:
        """Returns the enlarged x."""
        return self.conv(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))


def _rates(count: int) -> Float32[np.ndarray, " F"]:
    """Radians per step of each wave.

    The exponent is rounded to float32 first, as PyTorch implementations do: over a thousand steps it shows.
    """
    exponents = np.float32(-math.log(_LONGEST)) * np.arange(count, dtype=np.float32) / np.float32(count)
    return np.exp(exponents.astype(np.float64)).astype(np.float32)

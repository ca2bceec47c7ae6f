"""Finite Scalar Quantization (Mentzer et al., arXiv 2309.15505)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mmtok.errors import MmtokError


@dataclasses.dataclass(frozen=True, kw_only=True)
class FSQ:
    """Rounds each latent dimension to one of a few levels; the codebook is implicit: the grid of all levels.

    Attributes:
      levels: Number of levels per dimension, at least 2 each.
    """

    levels: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 2:
            raise MmtokError(f"FSQ levels {self.levels}: expected at least one dimension with at least 2 levels each")

    @property
    def size(self) -> int:
        """Number of codes."""
        return math.prod(self.levels)

    @property
    def dim(self) -> int:
        """Number of latent dimensions."""
        return len(self.levels)

    def quantize(self, latent: Float[Array, "*B d"]) -> Float[Array, "*B d"]:
        """Returns the nearest codes, in [-1, 1]; gradients pass straight through the rounding (section 3.1)."""
        levels = jnp.asarray(self.levels, jnp.float32)
        half = (levels - 1) * (1 + 1e-3) / 2
        offset = jnp.where(levels % 2 == 0, 0.5, 0.0)  # an even number of levels lies unevenly around zero
        shift = jnp.arctanh(offset / half)
        bounded = jnp.tanh(latent.astype(jnp.float32) + shift) * half - offset
        rounded = bounded + jax.lax.stop_gradient(jnp.round(bounded) - bounded)
        return rounded / (levels // 2)

    def indices(self, codes: Float[Array, "*B d"]) -> Int[Array, "*B"]:
        """Returns the ids of codes that `quantize` gave."""
        half = jnp.asarray(self.levels, jnp.float32) // 2
        digits = jnp.round(codes * half + half).astype(jnp.int32)
        return jnp.sum(digits * jnp.asarray(self._basis), axis=-1)

    def vectors(self, indices: Int[Array, "*B"]) -> Float[Array, "*B d"]:
        """Returns the codes with the given ids."""
        levels = jnp.asarray(self.levels)
        digits = indices[..., None] // jnp.asarray(self._basis) % levels
        half = levels // 2
        return (digits - half).astype(jnp.float32) / half

    def codes(self) -> Float[np.ndarray, "K d"]:
        """Returns the whole codebook."""
        levels = np.asarray(self.levels)
        digits = np.arange(self.size)[:, None] // self._basis % levels
        return ((digits - levels // 2) / (levels // 2)).astype(np.float32)

    @property
    def _basis(self) -> Int[np.ndarray, " d"]:
        return np.cumprod((1, *self.levels[:-1])).astype(np.int32)

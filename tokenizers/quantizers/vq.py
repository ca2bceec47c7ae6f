"""Vector quantization (van den Oord et al., arXiv 1711.00937) with a codebook of moving averages (its appendix A.1)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from mmtok.errors import MmtokError
from mmtok.tokenizers.networks.layers import Dense

_SMOOTHING = 1e-5  # of the counts that a Euclidean codebook divides by
_SPLIT_NOISE = 1e-10


@dataclasses.dataclass(frozen=True, kw_only=True)
class VQConfig:
    """A codebook that latents are assigned to.

    Attributes:
      size: Number of codes.
      latent: Length of a latent, and of a code.
      codes: Ids per position: so many projections of the latent are looked up in the one codebook.
      cosine: Assign by cosine similarity (ViT-VQGAN, arXiv 2110.04627) instead of Euclidean distance.
      raw: Hand out the moving averages of a cosine codebook as they are instead of with unit length.
      decay: Of the moving averages.
      dead: A code whose moving count of latents falls below this is replaced; 0 never.
      replacement: By latents of the batch, or by the most used codes plus a little noise (Linde, Buzo and Gray 1980).
      commitment: Weight of the loss that pulls latents to their codes.
      unit_latents: Whether latents are normalised before they are assigned, and in that loss.
    """

    size: int = 8192
    latent: int = 32
    codes: int = 1
    cosine: bool = True
    raw: bool = False
    decay: float = 0.99
    dead: float = 0.25
    replacement: Literal["batch", "split"] = "batch"
    commitment: float = 1.0
    unit_latents: bool = False

    def __post_init__(self) -> None:
        if min(self.size, self.latent, self.codes) < 1 or not 0 <= self.decay < 1:
            raise MmtokError(
                f"VQ of {self.size} codes of length {self.latent}, {self.codes} per position, decay {self.decay}:"
                " counts must be at least 1 and the decay in [0, 1)"
            )


class VQ(nnx.Module):
    """Latents to ids and back; `straight_through` also moves the codebook."""

    def __init__(self, config: VQConfig, *, rngs: nnx.Rngs):
        self.config = config
        limit = (6 / config.latent) ** 0.5
        table = jax.random.uniform(rngs.params(), (config.size, config.latent), minval=-limit, maxval=limit)
        table = unit(table) if config.cosine else table
        self.table = nnx.Variable(table)
        self.counts = nnx.Variable(jnp.zeros(config.size))
        self.sums = None if config.cosine else nnx.Variable(jnp.copy(table))
        width = config.codes * config.latent
        split = config.codes > 1
        self.split = Dense(config.latent, width, rngs=rngs, axes=(None, "embed")) if split else None
        self.join = Dense(width, config.latent, rngs=rngs, axes=("embed", None)) if split else None

    def ids(self, latents: Float[Array, "*B latent"]) -> Int[Array, "*B K"]:
        """Returns the ids of the nearest codes."""
        return self._nearest(self._split(latents))

    def vectors(self, ids: Int[Array, "*B K"]) -> Float[Array, "*B latent"]:
        """Returns what the ids stand for."""
        return self._join(self._codes()[ids])

    def straight_through(
        self, latents: Float[Array, "*B latent"], key: Array
    ) -> tuple[Float[Array, "*B latent"], Array]:
        """Quantizes with straight-through gradients, and updates the codebook.

        Returns:
          The quantized latents, and the commitment loss.
        """
        config, parts = self.config, self._split(latents)
        ids = self._nearest(parts)
        codes = self._codes()[ids]
        loss = config.commitment * jnp.mean(jnp.square(codes - parts))
        quantized = self._join(parts + jax.lax.stop_gradient(codes - parts))
        flat = jax.lax.stop_gradient(parts.reshape(-1, config.latent))
        self._update(flat, ids.reshape(-1), key)
        return quantized, loss

    def _split(self, latents: Array) -> Array:
        parts = latents.astype(jnp.float32)
        parts = parts if self.split is None else self.split(parts)
        parts = parts.reshape(*latents.shape[:-1], self.config.codes, self.config.latent)
        return unit(parts) if self.config.unit_latents else parts

    def _join(self, parts: Array) -> Array:
        flat = parts.reshape(*parts.shape[:-2], -1)
        return flat if self.join is None else self.join(flat)

    def _codes(self) -> Array:
        table = self.table[...]
        return unit(table) if self.config.cosine and not self.config.raw else table

    def _nearest(self, parts: Array) -> Array:
        table = self.table[...]
        if self.config.cosine:
            return jnp.argmax(unit(parts) @ unit(table).T, axis=-1)
        return jnp.argmin(jnp.sum(jnp.square(table), axis=-1) - 2 * (parts @ table.T), axis=-1)

    def _update(self, latents: Float[Array, "N d"], ids: Int[Array, " N"], key: Array) -> None:
        config, table = self.config, self.table[...]
        members = unit(latents) if config.cosine else latents
        found = jax.ops.segment_sum(jnp.ones(len(ids)), ids, config.size)
        sums = jax.ops.segment_sum(members, ids, config.size)
        counts = _moved(self.counts[...], found, config.decay)
        if self.sums is None:
            means = jnp.where(found[:, None] > 0, unit(sums / jnp.maximum(found, 1)[:, None]), unit(table))
            table = _moved(table, means, config.decay)
        else:
            self.sums[...] = _moved(self.sums[...], sums, config.decay)
            total = jnp.sum(counts)
            smooth = (counts + _SMOOTHING) / (total + config.size * _SMOOTHING) * total
            table = self.sums[...] / jnp.maximum(smooth, 1e-12)[:, None]
        dead = counts < config.dead
        self.table[...] = jnp.where(dead[:, None], self._replacements(table, counts, latents, key), table)
        self.counts[...] = counts

    def _replacements(self, table: Array, counts: Array, latents: Array, key: Array) -> Array:
        """One new code for each old one, in case it is dead."""
        size = self.config.size
        if self.config.replacement == "batch":
            enough = len(latents) >= size
            rows = (
                jax.random.permutation(key, len(latents))[:size]
                if enough
                else jax.random.randint(key, (size,), 0, len(latents))
            )
            return unit(latents[rows])
        rank = jnp.cumsum(counts < self.config.dead) - 1  # the n-th dead code gets the n-th most used one
        used = table[jnp.argsort(-counts)[rank]]
        return unit(used + _SPLIT_NOISE * jax.random.normal(key, used.shape))

    def code_vectors(self) -> np.ndarray | None:
        """Returns the codebook, (size, latent); None where a position has several ids."""
        return np.asarray(self._codes()) if self.config.codes == 1 else None


def unit(x: Float[Array, "*B d"]) -> Float[Array, "*B d"]:
    """Returns x with unit length."""
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x / jnp.maximum(jnp.sqrt(jnp.maximum(squares, 1e-30)), 1e-12)


def _moved(mean: Array, value: Array, decay: float) -> Array:
    return decay * mean + (1 - decay) * value

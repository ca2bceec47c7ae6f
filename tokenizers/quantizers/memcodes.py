"""Memory codes (NWT, arXiv 2106.04283, section 3.2): latents ask keys of learned codes and get their values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from mmtok.axes import param
from mmtok.errors import MmtokError


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemcodesConfig:
    """Codebooks side by side, each with its share of the latent.

    Attributes:
      size: Codes in each codebook.
      latent: Length of a latent; a multiple of `codes`.
      codes: Number of codebooks: ids per position.
      temperature: Of the Gumbel softmax that chooses in training.
    """

    size: int = 8192
    latent: int = 1024
    codes: int = 16
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if min(self.size, self.codes) < 1 or self.latent < 1 or self.latent % self.codes:
            raise MmtokError(
                f"memcodes: {self.codes} codebooks of {self.size} codes must share a latent of length"
                f" {self.latent} evenly"
            )


class Memcodes(nnx.Module):
    """Latents to ids and back."""

    def __init__(self, config: MemcodesConfig, *, rngs: nnx.Rngs):
        self.config = config
        heads, part = config.codes, config.latent // config.codes
        draw = jax.nn.initializers.lecun_normal(batch_axis=0)
        self.codes = param(jax.random.normal(rngs.params(), (heads, config.size, part)), (None, None, None))
        self.keys = param(draw(rngs.params(), (heads, part, part)), (None, None, None))
        self.values = param(draw(rngs.params(), (heads, part, part)), (None, None, None))

    def ids(self, latents: Float[Array, "*B latent"]) -> Int[Array, "*B K"]:
        """Returns the ids of the codes whose keys answer best."""
        return jnp.argmax(self._logits(latents), axis=-1)

    def vectors(self, ids: Int[Array, "*B K"]) -> Float[Array, "*B latent"]:
        """Returns the values of the codes."""
        codes = self.codes[...][jnp.arange(self.config.codes), ids]
        values = jnp.einsum("...hd,hdc->...hc", codes, self.values[...])
        return values.reshape(*ids.shape[:-1], self.config.latent)

    def straight_through(
        self, latents: Float[Array, "*B latent"], key: Array
    ) -> tuple[Float[Array, "*B latent"], Array]:
        """Quantizes by a straight-through Gumbel softmax (Jang et al., arXiv 1611.01144).

        Returns:
          The quantized latents, and 0: there is no loss of its own.
        """
        logits = self._logits(latents)
        noisy = (logits + jax.random.gumbel(key, logits.shape)) / self.config.temperature
        soft = jax.nn.softmax(noisy, axis=-1)
        hard = jax.nn.one_hot(jnp.argmax(noisy, axis=-1), self.config.size)
        choice = soft + jax.lax.stop_gradient(hard - soft)
        values = jnp.einsum("hnd,hdc->hnc", self.codes[...], self.values[...])
        return jnp.einsum("...hn,hnc->...hc", choice, values).reshape(latents.shape), jnp.float32(0)

    def code_vectors(self) -> np.ndarray | None:
        """Returns None: each codebook has vectors of its own."""
        return None

    def _logits(self, latents: Array) -> Array:
        heads = self.config.codes
        queries = latents.astype(jnp.float32).reshape(*latents.shape[:-1], heads, -1)
        queries = queries * queries.shape[-1] ** -0.5
        keys = jnp.einsum("hnd,hdc->hnc", self.codes[...], self.keys[...])
        return jnp.einsum("...hd,hnd->...hn", queries, keys)

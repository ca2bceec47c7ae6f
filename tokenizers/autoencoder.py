"""Quantized auto-encoders of square grids: what images and feature maps have in common."""

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from mmtok.axes import param
from mmtok.errors import MmtokError
from mmtok.tokenizers.artifact import Fitted
from mmtok.tokenizers.networks import NETWORKS
from mmtok.tokenizers.networks.patches import patchify, unpatchify
from mmtok.tokenizers.neural import NeuralTokenizer
from mmtok.tokenizers.quantizers import FSQ
from mmtok.tokenizers.start import LinearStart, components, sample, synthesis


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """An encoder, its mirror image and what lies between.

    Attributes:
      network: `vit` or `conv`.
      width: Width of the blocks; for `vit` a multiple of 32.
      depth: Blocks of the encoder, and of the decoder; for `conv` at each resolution.
      levels: FSQ levels; their product is the vocabulary size.
      codes: Codes per position: the latent is split into so many groups, each with its own id (a product code).
    """

    network: Literal["vit", "conv"] = "vit"
    width: int = 128
    depth: int = 1
    levels: tuple[int, ...] = (8, 8, 8, 5)
    codes: int = 1


class AutoEncoder(nnx.Module):
    """Encoder, FSQ and decoder between (B, size, size, C) and (B, L, codes) ids.

    Beside each network runs a linear path, which the training starts from (`mmtok.tokenizers.start`).
    """

    def __init__(
        self,
        config: NetworkConfig,
        *,
        size: int,
        patch: int,
        channels: int,
        rngs: nnx.Rngs,
        start: LinearStart | None = None,
    ):
        encoder, decoder = NETWORKS[config.network]
        self.quantizer, self.codes, self.patch = FSQ(levels=config.levels), config.codes, patch
        latent = config.codes * self.quantizer.dim
        common = {"size": size, "patch": patch, "latent": latent, "width": config.width, "depth": config.depth}
        self.encoder = encoder(channels=channels, rngs=rngs, **common)
        self.decoder = decoder(channels=channels, rngs=rngs, **common)
        start = start or _random_start(rngs, (size // patch) ** 2, patch**2 * channels, latent)
        self.mean = param(jnp.asarray(start.mean), (None, None))
        self.analysis = param(jnp.asarray(start.analysis), (None, None))
        self.synthesis = param(jnp.asarray(start.synthesis), (None, None))

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Returns the reconstruction; gradients pass through the quantization."""
        return self._decode(self._codes(x))

    def encode(self, x: Float[Array, "B H W C"]) -> Int[Array, "B L K"]:
        """Returns the ids."""
        return self.quantizer.indices(self._codes(x))

    def decode(self, ids: Int[Array, "B L K"]) -> Float[Array, "B H W C"]:
        """Returns what the ids stand for."""
        return self._decode(self.quantizer.vectors(ids))

    @property
    def flops(self) -> float:
        """Floating-point operations of one forward pass per sample."""
        return self.encoder.flops + self.decoder.flops + 4.0 * self.mean.shape[0] * self.analysis.size

    def _codes(self, x: Float[Array, "B H W C"]) -> Float[Array, "B L K d"]:
        patches = patchify(x, patch=self.patch) - self.mean[...]
        latent = self.encoder(unpatchify(patches, patch=self.patch)) + patches @ self.analysis[...]
        return self.quantizer.quantize(latent.reshape(*latent.shape[:2], self.codes, self.quantizer.dim))

    def _decode(self, codes: Float[Array, "B L K d"]) -> Float[Array, "B H W C"]:
        flat = codes.reshape(*codes.shape[:2], -1)
        return self.decoder(flat) + unpatchify(flat @ self.synthesis[...] + self.mean[...], patch=self.patch)


def _random_start(rngs: nnx.Rngs, positions: int, patch: int, latent: int) -> LinearStart:
    draw = jax.nn.initializers.lecun_normal()
    analysis, synthesis = draw(rngs.params(), (patch, latent)), draw(rngs.params(), (latent, patch))
    return LinearStart(mean=jnp.zeros((positions, patch)), analysis=analysis, synthesis=synthesis)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GridTokenizer(NeuralTokenizer, Fitted):
    """Tokenizes arrays on a square grid with an `AutoEncoder`; a family says what the numbers mean.

    Attributes:
      start: What `fit` found; the training starts from it.
    """

    start: LinearStart | None = dataclasses.field(default=None, repr=False)

    @property
    def picture_size(self) -> int | None:
        """Height and width in pixels or cells."""
        return self.config.size

    @property
    def patch(self) -> int:
        """Side of what one token stands for."""
        raise NotImplementedError

    def fit(self, values: Iterable[Any]) -> "GridTokenizer":
        """Returns the tokenizer with the linear auto-encoder of the values as the start of its training."""
        values = [value for value in values if value is not None]
        if not values:
            raise MmtokError(f"tokenizer '{self.name}': no values to fit to")
        one = self.inputs(jnp.asarray(self.prepare(values[:1])))
        batch = self.prepare([values[index] for index in sample(len(values), one.size)])
        patches = np.asarray(patchify(self.inputs(jnp.asarray(batch)), patch=self.patch))
        net, quantizer = self.config.net, FSQ(levels=self.config.net.levels)
        mean, analysis = components(patches, latent=net.codes * quantizer.dim)
        latent = ((patches - mean) @ analysis).reshape(*patches.shape[:2], net.codes, quantizer.dim)
        codes = np.asarray(quantizer.quantize(jnp.asarray(latent))).reshape(*patches.shape[:2], -1)
        start = LinearStart(mean=mean, analysis=analysis, synthesis=synthesis(patches, mean, codes))
        return dataclasses.replace(self, start=start)

    def code_vectors(self) -> np.ndarray:
        """Returns the codebook, scaled to unit variance along each dimension."""
        codes = FSQ(levels=self.config.net.levels).codes()
        return (codes - codes.mean(axis=0)) / codes.std(axis=0)

    def flops(self, batch: int) -> float:
        """Returns the floating-point operations of one training step on `batch` samples."""
        return 3.0 * batch * self._abstract().flops


def check_grid(*, size: int, patch: int, name: str) -> int:
    """Returns the side of the token grid.

    Raises:
      MmtokError: the patch does not divide the size.
    """
    if patch < 1 or size < 1 or size % patch:
        raise MmtokError(f"modality '{name}': patch {patch} must divide size {size}")
    return size // patch


def masked_mean(values: Array, mask: Array) -> tuple[Array, Array]:
    """Returns the sum of the values where the mask holds, and how many there are (both float32)."""
    return jnp.sum(jnp.where(mask, values, 0.0)), jnp.sum(jnp.broadcast_to(mask, values.shape).astype(jnp.float32))

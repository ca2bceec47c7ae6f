"""Single vectors, such as global features and poses: a few tokens each, from codebooks side by side."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from mmtok.errors import MmtokError
from mmtok.metrics import Mean
from mmtok.modality import Modality, Vocabulary
from mmtok.tokenizers.networks.layers import Dense
from mmtok.tokenizers.networks.mlp import BottleneckMLP, MLPConfig
from mmtok.tokenizers.neural import NeuralTokenizer
from mmtok.tokenizers.preprocess import vectors
from mmtok.tokenizers.quantizers import Memcodes, MemcodesConfig
from mmtok.tokenizers.vq import distance, exact


@dataclasses.dataclass(frozen=True, kw_only=True)
class VectorConfig:
    """A vector tokenizer.

    Attributes:
      length: Numbers in a vector.
      encoder: Network before the tokens.
      decoder: Network after them.
      quantizer: The codebooks, one for each token.
      loss: Distance of the reconstruction.
      show: How `mmtok.show` draws it.
    """

    family: ClassVar[str] = "memcodes"

    length: int
    encoder: MLPConfig = dataclasses.field(default_factory=MLPConfig)
    decoder: MLPConfig = dataclasses.field(default_factory=MLPConfig)
    quantizer: MemcodesConfig = dataclasses.field(default_factory=MemcodesConfig)
    loss: Literal["mse", "l1", "smooth_l1", "cosine"] = "cosine"
    show: str = "values"

    def __post_init__(self) -> None:
        if self.length < 1:
            raise MmtokError(f"vector tokenizer: length must be at least 1, found {self.length}")


class VectorAutoEncoder(nnx.Module):
    """Vectors to tokens and back."""

    def __init__(self, config: VectorConfig, *, rngs: nnx.Rngs):
        encoder, decoder, latent = config.encoder, config.decoder, config.quantizer.latent
        self.encoder = BottleneckMLP(encoder, inputs=config.length, outputs=encoder.width, rngs=rngs)
        self.to_latent = Dense(encoder.width, latent, rngs=rngs, axes=("embed", None))
        self.quantizer = Memcodes(config.quantizer, rngs=rngs)
        self.from_latent = Dense(latent, decoder.width, rngs=rngs, axes=(None, "embed"))
        self.decoder = BottleneckMLP(decoder, inputs=decoder.width, outputs=config.length, rngs=rngs)

    def latents(self, inputs: Float[Array, "*B length"]) -> Float[Array, "*B latent"]:
        """Returns what is quantized."""
        return self.to_latent(self.encoder(inputs))

    def encode(self, inputs: Float[Array, "*B length"]) -> Int[Array, "*B K"]:
        """Returns the ids."""
        return self.quantizer.ids(self.latents(inputs))

    def decode(self, ids: Int[Array, "*B K"]) -> Float[Array, "*B length"]:
        """Returns what the ids stand for."""
        return self.reconstruct(self.quantizer.vectors(ids))

    def reconstruct(self, quantized: Float[Array, "*B latent"]) -> Float[Array, "*B length"]:
        """Returns the vectors for quantized latents."""
        return self.decoder(self.from_latent(quantized))


class VectorTokenizer(NeuralTokenizer):
    """Tokenizes vectors as they are; each token has a place and a codebook of its own."""

    Config = VectorConfig
    config: VectorConfig

    @functools.cached_property
    def modality(self) -> Modality:
        """A row of tokens."""
        return Modality(
            name=self.name,
            kind="grid",
            shape=(self.config.quantizer.codes,),
            vocabulary=Vocabulary(size=self.config.quantizer.size),
            learned_positions=True,
            source=self.source,
            show=self.config.show,
            fingerprint=self.fingerprint,
        )

    def init(self, key: jax.Array) -> nnx.Module:
        """Returns the network with fresh parameters."""
        return VectorAutoEncoder(self.config, rngs=nnx.Rngs(key))

    def prepare(self, values: Sequence[Any]) -> np.ndarray:
        """Returns (B, length) float32; zeros for a None."""
        return vectors(values, length=self.config.length, name=self.name)

    def inputs(self, batch: Any) -> Float[Array, "B length"]:
        """Returns the vectors."""
        return jnp.asarray(batch)

    def encoded(self, module: Any, inputs: Any) -> Int[Array, "B L 1"]:
        """Returns the ids."""
        with exact():
            return module.encode(inputs)[..., None]

    def decoded(self, module: Any, ids: Int[Array, "B L 1"]) -> Float[Array, "B length"]:
        """Returns the vectors."""
        with exact():
            return module.decode(ids[..., 0])

    def values(self, output: Float[np.ndarray, "B length"]) -> list[np.ndarray]:
        """Returns one vector for each sample."""
        return list(output)

    def loss(self, module: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
        """Returns the mean distance of the reconstructions."""
        quantized, _ = module.quantizer.straight_through(module.latents(batch), key)
        losses = distance(module.reconstruct(quantized), jnp.asarray(batch), self.config.loss)
        mean = Mean(jnp.sum(losses), jnp.float32(losses.size))
        return mean.value, {self.config.loss: mean}

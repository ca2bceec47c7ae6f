"""Vector-quantized auto-encoders of images, labels and feature maps (ViT-VQGAN, arXiv 2110.04627, without its GAN)."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from mmtok.axes import param
from mmtok.errors import MmtokError
from mmtok.metrics import Mean
from mmtok.modality import Modality, Vocabulary
from mmtok.tokenizers.autoencoder import check_grid
from mmtok.tokenizers.networks.layers import Dense
from mmtok.tokenizers.networks.resizable import ResizableDecoder, ResizableEncoder, ViTConfig
from mmtok.tokenizers.neural import NeuralTokenizer
from mmtok.tokenizers.quantizers import VQ, VQConfig
from mmtok.tokenizers.units import Units

Loss = Literal["mse", "l1", "smooth_l1", "cosine", "cross_entropy", "binary_cross_entropy"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Everything before the tokens.

    Attributes:
      size: Height and width of what is tokenized (cells, for feature maps); other sizes are cropped and resized.
      patch: Pixels along one side of the square that one token stands for; 1 for feature maps.
      units: What the numbers mean, and how the network sees them.
      embedding: Length of the vector that a class is embedded in; only for classes.
      network: The encoder.
      quantizer: The codebook.
    """

    size: int
    patch: int = 16
    units: Units = dataclasses.field(default_factory=Units)
    embedding: int = 64
    network: ViTConfig = dataclasses.field(default_factory=ViTConfig)
    quantizer: VQConfig = dataclasses.field(default_factory=VQConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VQTokenizerConfig:
    """An image tokenizer with a learned codebook.

    Attributes:
      encoder: From pictures to tokens.
      patch: Pixels that the decoder makes of one token, along one side.
      network: The decoder.
      loss: Distance of the reconstruction: `cosine` over the channels, `cross_entropy` for classes,
        `binary_cross_entropy` for masks.
      show: How `mmtok.show` draws it.
    """

    family: ClassVar[str] = "vq"

    encoder: EncoderConfig
    patch: int = 16
    network: ViTConfig = dataclasses.field(default_factory=ViTConfig)
    loss: Loss = "mse"
    show: str = "rgb"

    def __post_init__(self) -> None:
        special = {"classes": "cross_entropy", "mask": "binary_cross_entropy"}
        wanted = special.get(self.encoder.units.values)
        if wanted not in (None, self.loss) or (wanted is None and self.loss in special.values()):
            raise MmtokError(
                f"vq tokenizer: values '{self.encoder.units.values}' need loss"
                f" {wanted or 'mse, l1, smooth_l1 or cosine'}, not {self.loss}"
            )


class VQEncoder(nnx.Module):
    """Pictures to tokens, and tokens to the vectors that a decoder is given."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        units, network, latent = config.units, config.network, config.quantizer.latent
        channels = config.embedding if units.classes else units.channels
        table = jax.random.normal(rngs.params(), (units.classes, config.embedding))
        self.labels = param(table, ("vocab", None)) if units.classes else None
        self.encoder = ResizableEncoder(network, channels=channels, patch=config.patch, rngs=rngs)
        self.to_latent = Dense(network.width, latent, rngs=rngs, axes=("embed", None))
        self.quantizer = VQ(config.quantizer, rngs=rngs)

    def latents(self, inputs: Float[Array, "B H W C"] | Int[Array, "B H W"]) -> Float[Array, "B h w latent"]:
        """Returns what is quantized, for pictures as `Units.inputs` gives them."""
        return self.to_latent(self.encoder(inputs if self.labels is None else self.labels[...][inputs]))

    def encode(self, inputs: Float[Array, "B H W C"] | Int[Array, "B H W"]) -> Int[Array, "B h w K"]:
        """Returns the ids."""
        return self.quantizer.ids(self.latents(inputs))


class VQAutoEncoder(VQEncoder):
    """Pictures to tokens and back."""

    def __init__(self, config: VQTokenizerConfig, *, rngs: nnx.Rngs):
        super().__init__(config.encoder, rngs=rngs)
        network = config.network
        self.from_latent = Dense(config.encoder.quantizer.latent, network.width, rngs=rngs, axes=(None, "embed"))
        self.decoder = ResizableDecoder(network, channels=config.encoder.units.width, patch=config.patch, rngs=rngs)

    def decode(self, ids: Int[Array, "B h w K"]) -> Float[Array, "B H W C"]:
        """Returns what the ids stand for, as the network sees it; classes as logits."""
        return self.reconstruct(self.quantizer.vectors(ids))

    def reconstruct(self, quantized: Float[Array, "B h w latent"]) -> Float[Array, "B H W C"]:
        """Returns the output for quantized latents."""
        return self.decoder(self.from_latent(quantized))


class GridVQTokenizer(NeuralTokenizer):
    """What tokenizers with a `VQEncoder` have in common: a square grid of tokens, the same ids on every machine."""

    batches: ClassVar[tuple[int, ...]] = (1, 16)

    @property
    def _encoder_config(self) -> EncoderConfig:
        return self.config.encoder

    @functools.cached_property
    def modality(self) -> Modality:
        """A square grid of patches."""
        config = self._encoder_config
        grid = check_grid(size=config.size, patch=config.patch, name=self.name)
        return Modality(
            name=self.name,
            kind="grid",
            shape=(grid, grid),
            vocabulary=Vocabulary(size=config.quantizer.size),
            codes=config.quantizer.codes,
            source=self.source,
            show=self.config.show,
            fingerprint=self.fingerprint,
        )

    @property
    def picture_size(self) -> int | None:
        """Height and width in pixels or cells."""
        return self._encoder_config.size

    def prepare(self, values: Sequence[Any]) -> np.ndarray:
        """Returns (B, size, size[, channels]) in the stored dtype; zeros for a None."""
        return self._encoder_config.units.prepare(values, size=self._encoder_config.size, name=self.name)

    def inputs(self, batch: Any) -> Array:
        """Returns what the network sees."""
        return self._encoder_config.units.inputs(batch)

    def encoded(self, module: Any, inputs: Any) -> Int[Array, "B L K"]:
        """Returns the ids."""
        with exact():
            return module.encode(inputs).reshape(len(inputs), self.modality.size, -1)

    def values(self, output: Float[np.ndarray, "B H W C"]) -> list[np.ndarray]:
        """Returns raw values."""
        return self._encoder_config.units.outputs(output)

    def code_vectors(self) -> np.ndarray | None:
        """Returns the codebook."""
        return self.module().quantizer.code_vectors()

    def _grid(self, ids: Int[Array, "B L K"]) -> Int[Array, "B h w K"]:
        return ids.reshape(len(ids), *self.modality.shape, -1)


class VQTokenizer(GridVQTokenizer):
    """Tokenizes one kind of picture and decodes it in one pass."""

    Config = VQTokenizerConfig
    config: VQTokenizerConfig

    def init(self, key: jax.Array) -> nnx.Module:
        """Returns the network with fresh parameters."""
        return VQAutoEncoder(self.config, rngs=nnx.Rngs(key))

    def decoded(self, module: Any, ids: Int[Array, "B L K"]) -> Float[Array, "B H W C"]:
        """Returns the network's output."""
        with exact():
            return module.decode(self._grid(ids))

    def loss(self, module: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
        """Returns reconstruction plus commitment loss, and both; the codebook of `module` moves."""
        inputs = self.inputs(batch)
        quantized, commitment = module.quantizer.straight_through(module.latents(inputs), key)
        losses = distance(module.reconstruct(quantized), inputs, self.config.loss)
        mean = Mean(jnp.sum(losses), jnp.float32(losses.size))
        return mean.value + commitment, {self.config.loss: mean, "commitment": Mean(commitment, jnp.float32(1))}


def exact() -> Any:
    """Products in full float32 on every device, so that ids do not depend on it."""
    return jax.default_matmul_precision("highest")


def distance(output: Array, target: Array, loss: Loss) -> Array:
    """Returns the loss of each number (of each pixel, for `cosine` and `cross_entropy`), not yet averaged."""
    match loss:
        case "mse":
            return jnp.square(output - target)
        case "l1":
            return jnp.abs(output - target)
        case "smooth_l1":
            return optax.huber_loss(output, target, delta=1.0)
        case "cosine":
            return optax.cosine_distance(output, target, epsilon=1e-6)
        case "cross_entropy":
            return optax.softmax_cross_entropy_with_integer_labels(output, target)
        case "binary_cross_entropy":
            return optax.sigmoid_binary_cross_entropy(output, target)

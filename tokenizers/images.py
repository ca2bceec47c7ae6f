"""Image-like modalities: colours, depth, surface normals, classes."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from mmtok.errors import MmtokError
from mmtok.metrics import Mean
from mmtok.modality import Modality, Vocabulary
from mmtok.tokenizers.autoencoder import AutoEncoder, GridTokenizer, NetworkConfig, check_grid, masked_mean
from mmtok.tokenizers.preprocess import ImagePreprocess

Values = Literal["uint8", "depth", "unit", "classes"]
Loss = Literal["l1", "mse", "cosine", "cross_entropy"]

_VALIDITY_WEIGHT = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """An image tokenizer.

    Attributes:
      size: Height and width in pixels; other images are cropped to the centre square and resized.
      patch: Pixels along one side of the square that one token stands for.
      values: What the numbers mean. `uint8`: intensities 0 .. 255. `depth`: metres, not finite where undefined. `unit`:
        unit vectors, zero where undefined. `classes`: class ids 0 .. `classes` - 1.
      channels: Number of channels of `uint8` and `unit` values; `depth` and `classes` have one.
      classes: Number of classes.
      near: Metres; lesser depths are stored as this.
      far: Metres; greater depths are stored as this.
      mapping: Scale on which depths are compared.
      loss: `l1` or `mse` of the values, `cosine` for unit vectors, `cross_entropy` for classes.
      net: Network and codebook.
      show: How `mmtok.show` draws it.
    """

    family: ClassVar[str] = "image"

    size: int
    patch: int = 8
    values: Values = "uint8"
    channels: int = 3
    classes: int = 0
    near: float = 0.5
    far: float = 50.0
    mapping: Literal["log", "inverse"] = "log"
    loss: Loss = "l1"
    net: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    show: str = "rgb"

    def __post_init__(self) -> None:
        fitting = {"classes": ("cross_entropy",), "unit": ("cosine", "l1", "mse")}.get(self.values, ("l1", "mse"))
        if self.loss not in fitting:
            raise MmtokError(
                f"image tokenizer: values '{self.values}' need loss {' or '.join(fitting)}, not {self.loss}"
            )
        if (self.values == "classes") != (self.classes > 0) or self.classes == 1:
            raise MmtokError(f"image tokenizer: classes is {self.classes}; values 'classes' need 2 or more, others 0")
        if self.values in ("depth", "classes") and self.channels != 1:
            raise MmtokError(f"image tokenizer: values '{self.values}' have 1 channel, not {self.channels}")
        if self.values == "depth" and not 0 < self.near < self.far:
            raise MmtokError(f"image tokenizer: near {self.near} and far {self.far} must be 0 < near < far")


class ImageTokenizer(GridTokenizer):
    """Tokenizes one kind of image; undefined pixels are left out of the loss and reconstructed as undefined."""

    Config = ImageConfig
    config: ImageConfig

    @functools.cached_property
    def modality(self) -> Modality:
        """A square grid of patches."""
        grid = check_grid(size=self.config.size, patch=self.config.patch, name=self.name)
        return Modality(
            name=self.name,
            kind="grid",
            shape=(grid, grid),
            vocabulary=Vocabulary(size=int(np.prod(self.config.net.levels))),
            codes=self.config.net.codes,
            source=self.source,
            show=self.config.show,
            fingerprint=self.fingerprint,
        )

    @property
    def patch(self) -> int:
        """Pixels along one side of what one token stands for."""
        return self.config.patch

    def init(self, key: jax.Array) -> nnx.Module:
        """Returns the network with fresh parameters."""
        check_grid(size=self.config.size, patch=self.config.patch, name=self.name)
        width = self.config.classes or self.config.channels + (self.config.values in ("depth", "unit"))
        return AutoEncoder(
            self.config.net,
            size=self.config.size,
            patch=self.config.patch,
            channels=width,
            rngs=nnx.Rngs(key),
            start=self.start,
        )

    def prepare(self, values: Sequence[Any]) -> np.ndarray:
        """Returns (B, H, W[, C]): uint8, or float32 where the values are floats; zeros for a None."""
        return preprocess(self.config).batch(values, name=self.name)

    def inputs(self, batch: Any) -> Float[Array, "B H W C"]:
        """Returns intensities in [-1, 1], values and their validity, or one channel per class."""
        config = self.config
        if config.values == "classes":
            return jax.nn.one_hot(batch, config.classes)
        values, defined = self._scaled(batch)
        if config.values == "uint8":
            return values
        return jnp.concatenate([values, jnp.where(defined, 1.0, -1.0)], axis=-1)

    def loss(self, module: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
        """Returns the mean loss of the defined pixels (plus that of the validity channel) and its parts."""
        config, output = self.config, module(self.inputs(batch))
        if config.loss == "cross_entropy":
            losses = optax.softmax_cross_entropy_with_integer_labels(output, batch.astype(jnp.int32))
            mean = Mean(*masked_mean(losses, jnp.ones_like(losses, bool)))
            return mean.value, {"cross_entropy": mean}
        target, defined = self._scaled(batch)
        values = output[..., : config.channels]
        mean = Mean(*masked_mean(_distances(values, target, config.loss), defined))
        if config.values == "uint8":
            return mean.value, {config.loss: mean}
        validity = optax.sigmoid_binary_cross_entropy(output[..., -1:], defined.astype(jnp.float32))
        parts = {config.loss: mean, "validity": Mean(*masked_mean(validity, jnp.ones_like(defined)))}
        return mean.value + _VALIDITY_WEIGHT * parts["validity"].value, parts

    def values(self, output: Float[np.ndarray, "B H W C"]) -> list[np.ndarray]:
        """Returns raw values: uint8 intensities or class ids, float32 metres or unit vectors."""
        config = self.config
        if config.values == "classes":
            return list(np.argmax(output, axis=-1).astype(np.uint8 if config.classes <= 256 else np.int32))
        if config.values == "uint8":
            images = np.clip(np.rint((output + 1) * 127.5), 0, 255).astype(np.uint8)
            return list(images[..., 0] if config.channels == 1 else images)
        values, defined = output[..., : config.channels], output[..., -1] > 0
        if config.values == "depth":
            return list(np.where(defined, _metres(np.clip(values[..., 0], -1, 1), config), np.inf).astype(np.float32))
        norm = np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-6)
        return list(np.where(defined[..., None], values / norm, 0).astype(np.float32))

    def _scaled(self, batch: Any) -> tuple[Array, Array]:
        """Values on the scale of the network, (B, H, W, channels), and which are defined, (B, H, W, 1)."""
        config, batch = self.config, jnp.asarray(batch)
        batch = batch[..., None] if config.channels == 1 else batch
        if config.values == "uint8":
            return batch.astype(jnp.float32) / 127.5 - 1, jnp.ones((*batch.shape[:-1], 1), bool)
        if config.values == "unit":
            return batch, jnp.any(batch != 0, axis=-1, keepdims=True)
        defined = jnp.isfinite(batch)
        depth = jnp.clip(jnp.where(defined, batch, config.far), config.near, config.far)
        near, far = _stretched(config.near, config), _stretched(config.far, config)
        scaled = (_stretched(depth, config) - near) / (far - near) * 2 - 1
        return jnp.where(defined, scaled, 0.0), defined


def preprocess(config: ImageConfig) -> ImagePreprocess:
    """Returns what is done to a raw image before the network sees it."""
    common: dict[str, Any] = {"size": config.size, "channels": config.channels}
    match config.values:
        case "uint8":
            return ImagePreprocess(**common, dtype="uint8")
        case "classes":
            return ImagePreprocess(**common, dtype="integer", resize="nearest", maximum=config.classes - 1)
        case "depth":
            return ImagePreprocess(**common, dtype="float32", undefined="nonfinite")
        case "unit":
            return ImagePreprocess(**common, dtype="float32", undefined="zero", unit=True)


def _distances(values: Array, target: Array, loss: str) -> Array:
    if loss == "l1":
        return jnp.abs(values - target)
    if loss == "mse":
        return jnp.square(values - target)
    norm = jnp.sqrt(jnp.sum(jnp.square(values), axis=-1, keepdims=True) + 1e-6)
    return 1 - jnp.sum(values / norm * target, axis=-1, keepdims=True)


def _stretched(depth: Any, config: ImageConfig) -> Any:
    return jnp.log(depth) if config.mapping == "log" else -1.0 / depth


def _metres(scaled: np.ndarray, config: ImageConfig) -> np.ndarray:
    share = (scaled + 1) / 2
    if config.mapping == "log":
        return config.near * (config.far / config.near) ** share
    return 1 / (1 / config.near - share * (1 / config.near - 1 / config.far))

"""Between raw pictures and the numbers that a quantized auto-encoder sees."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmtok.errors import MmtokError
from mmtok.tokenizers.preprocess import ImagePreprocess

Values = Literal["uint8", "unit", "depth", "mask", "classes", "features"]

_TRIM = 0.1  # share of the pixels left out at each end before depth is standardised


@dataclasses.dataclass(frozen=True, kw_only=True)
class Units:
    """What the numbers of a picture mean.

    Attributes:
      values: `uint8`: intensities 0 .. 255, seen as [-1, 1]. `unit`: unit vectors, zero where undefined. `depth`:
        depths on any scale, not finite where undefined; standardised per picture by mean and spread of all but its
        nearest and farthest tenth, and decoded on that scale. `mask`: 0 or 1. `classes`: ids 0 .. `classes` - 1.
        `features`: numbers as they are.
      channels: Channels of `uint8`, `unit` and `features`; the others have one.
      classes: Number of classes.
      resize: Filter for pictures of another size; `depth`, `mask` and `classes` always take the nearest pixel.
    """

    values: Values = "uint8"
    channels: int = 3
    classes: int = 0
    resize: Literal["bilinear", "bicubic", "nearest"] = "bilinear"

    def __post_init__(self) -> None:
        if (self.values == "classes") != (self.classes > 0) or self.classes == 1:
            raise MmtokError(f"values '{self.values}' with {self.classes} classes: 'classes' need 2 or more, others 0")
        if self.channels < 1 or (self.channels > 1 and self.values in ("depth", "mask", "classes")):
            raise MmtokError(f"values '{self.values}' with {self.channels} channels: depth, mask and classes have one")

    @property
    def width(self) -> int:
        """Numbers per pixel that a decoder gives."""
        return self.classes or self.channels

    def prepare(self, values: Sequence[Any], *, size: int, name: str) -> np.ndarray:
        """Returns (B, size, size[, channels]) in the stored dtype; zeros for a None.

        Raises:
          MmtokError: a value does not fit, saying which one and why.
        """
        batch = self._preprocess(size).batch(values, name=name)
        return np.stack([_standardised(image) for image in batch]) if self.values == "depth" and len(batch) else batch

    def inputs(self, batch: Any) -> Array:
        """Returns what the network sees of prepared values: (B, H, W, channels) float32, or (B, H, W) ids; traced."""
        batch = jnp.asarray(batch)
        if self.values == "classes":
            return batch.astype(jnp.int32)
        batch = batch[..., None] if self.channels == 1 else batch
        return batch.astype(jnp.float32) / 127.5 - 1 if self.values == "uint8" else batch.astype(jnp.float32)

    def outputs(self, output: Float[np.ndarray, "B H W C"]) -> list[np.ndarray]:
        """Returns raw values from what the network gave; undefined pixels come back as defined ones."""
        if self.values == "classes":
            return list(np.argmax(output, axis=-1).astype(np.uint8 if self.classes <= 256 else np.int32))
        if self.values == "uint8":
            output = np.clip(np.rint((output + 1) * 127.5), 0, 255).astype(np.uint8)
        if self.values == "unit":
            output = output / np.maximum(np.linalg.norm(output, axis=-1, keepdims=True), 1e-6)
        if self.values == "mask":  # the network gives log-odds
            output = (output > 0).astype(np.uint8)
        return list(output[..., 0] if self.channels == 1 else output)

    def _preprocess(self, size: int) -> ImagePreprocess:
        common: dict[str, Any] = {"size": size, "channels": self.channels}
        match self.values:
            case "uint8":
                return ImagePreprocess(**common, resize=self.resize, dtype="uint8")
            case "unit":
                return ImagePreprocess(**common, resize=self.resize, dtype="float32", undefined="zero", unit=True)
            case "features":
                return ImagePreprocess(**common, resize=self.resize, dtype="float32")
            case "depth":
                return ImagePreprocess(**common, resize="nearest", dtype="float32", undefined="nonfinite")
            case "mask" | "classes":
                maximum = self.classes - 1 if self.classes else 1
                return ImagePreprocess(**common, resize="nearest", dtype="integer", maximum=maximum)


def _standardised(depth: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """Depth less the mean, over the spread, of its middle values; undefined pixels are as far as the farthest."""
    defined = np.isfinite(depth)
    ordered = np.sort(depth[defined])
    middle = ordered[int(_TRIM * len(ordered)) : int((1 - _TRIM) * len(ordered))].astype(np.float64)
    if len(middle) < 2:
        return np.zeros_like(depth)
    spread = np.sqrt(middle.var(ddof=1) + 1e-6)
    filled = np.where(defined, depth, ordered[-1])
    return ((filled - middle.mean()) / spread).astype(np.float32)

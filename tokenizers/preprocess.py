"""From a raw array to the exact array that a tokenizer takes, or one sentence on why not."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image

from mmtok.errors import MmtokError

Dtype = Literal["uint8", "integer", "float32"]
Undefined = Literal["error", "nonfinite", "zero"]

_UNIT_TOLERANCE = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagePreprocess:
    """What a tokenizer takes: rows from the top, columns from the left, channels last; no channel axis for 1 channel.

    Attributes:
      size: Height and width in pixels. Other sizes are cropped to the centre square and resized.
      channels: Number of channels.
      dtype: `uint8`, `integer` (any integers or booleans 0 .. `maximum`, kept as uint8 or int32) or `float32`.
      resize: Filter; `nearest` for classes.
      maximum: Greatest value of `integer` pixels.
      undefined: How a float pixel says that it has no value: `nonfinite` (any channel), `zero` (all channels), or
        `error`: every value must be finite.
      unit: Whether the channels are a unit vector (or undefined); re-normalised after resizing.
    """

    size: int
    channels: int
    dtype: Dtype
    resize: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    maximum: int = 255
    undefined: Undefined = "error"
    unit: bool = False

    def __call__(self, value: Any, *, what: str) -> np.ndarray:
        """Returns the checked and resized value: (size, size) or (size, size, channels) of the stored dtype.

        Args:
          value: Raw array.
          what: Begins the error message: modality and sample.

        Raises:
          MmtokError: rank, channels, dtype or range do not fit.
        """
        array = self._check(value, what)
        if array.shape[:2] != (self.size, self.size):
            array = self._resized(centre_square(array))
        return array[..., 0] if self.channels == 1 else array

    def batch(self, values: Sequence[Any], *, name: str) -> np.ndarray:
        """Returns B values in one array; a None gives zeros."""
        shape = (self.size, self.size) if self.channels == 1 else (self.size, self.size, self.channels)
        out = np.zeros((len(values), *shape), self._stored)
        for row, value in enumerate(values):
            if value is not None:
                out[row] = self(value, what=f"modality '{name}', sample {row} of the batch")
        return out

    @property
    def _stored(self) -> Any:
        if self.dtype == "integer":
            return np.uint8 if self.maximum < 256 else np.int32
        return np.dtype(self.dtype)

    def _check(self, value: Any, what: str) -> np.ndarray:
        if not isinstance(value, np.ndarray):
            raise MmtokError(f"{what}: expected an array of {self._wanted}, found {type(value).__name__}")
        array = value[..., None] if self.channels == 1 and value.ndim == 2 else value
        fits = array.ndim == 3 and array.shape[-1] == self.channels and min(array.shape) > 0
        if not fits or not self._takes(array.dtype):
            raise MmtokError(f"{what}: expected {self._wanted}, found {value.dtype} of shape {value.shape}")
        if self.dtype == "integer" and (array.min() < 0 or array.max() > self.maximum):
            found = f"{array.min()} .. {array.max()}"
            raise MmtokError(f"{what}: expected integers 0 .. {self.maximum}, found {found}")
        array = array.astype(self._stored, copy=False)
        if self.dtype == "float32":
            self._check_floats(array, what)
        return array

    def _check_floats(self, array: np.ndarray, what: str) -> None:
        if self.undefined != "nonfinite" and not np.isfinite(array).all():
            raise MmtokError(f"{what}: expected finite numbers, found {np.sum(~np.isfinite(array))} that are not")
        if self.unit:
            norm = np.linalg.norm(array, axis=-1)[self.defined(array)]
            if np.any(np.abs(norm - 1) > _UNIT_TOLERANCE):
                found = f"lengths {norm.min():.3g} .. {norm.max():.3g}"
                raise MmtokError(f"{what}: expected unit vectors (or zeros where undefined), found {found}")

    def _takes(self, dtype: np.dtype) -> bool:
        if self.dtype == "uint8":
            return dtype == np.uint8
        return dtype.kind in ("biu" if self.dtype == "integer" else "f")

    @property
    def _wanted(self) -> str:
        shape = "(height, width)" if self.channels == 1 else f"(height, width, {self.channels})"
        return f"{'floats' if self.dtype == 'float32' else self.dtype} of shape {shape}"

    def defined(self, array: np.ndarray) -> np.ndarray:
        """Returns which pixels of (..., H, W, channels) have a value, as (..., H, W)."""
        if self.undefined == "nonfinite":
            return np.all(np.isfinite(array), axis=-1)
        if self.undefined == "zero":
            return np.any(array != 0, axis=-1)
        return np.ones(array.shape[:-1], bool)

    def _resized(self, array: np.ndarray) -> np.ndarray:
        if self.dtype != "float32":
            return self._resample(array).astype(array.dtype)
        if self.resize == "nearest" or self.undefined == "error":
            return self._resample(array)
        # undefined pixels must not bleed into their neighbours: average the defined ones only
        defined = self.defined(array)
        share = self._resample(defined[..., None].astype(np.float32))
        mean = self._resample(np.where(defined[..., None], array, 0)) / np.maximum(share, 1e-6)
        if self.unit:
            mean /= np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-6)
        return np.where(share >= 0.5, mean, 0 if self.undefined == "zero" else np.inf).astype(np.float32)

    def _resample(self, array: np.ndarray) -> np.ndarray:
        size = (self.size, self.size)
        if self.resize == "nearest":
            rows, columns = (np.arange(self.size) * 2 + 1) * np.array(array.shape[:2])[:, None] // (2 * self.size)
            return array[rows[:, None], columns]
        method = Image.Resampling[self.resize.upper()]
        if array.dtype == np.uint8 and array.shape[-1] == 3:
            return np.asarray(Image.fromarray(array).resize(size, method))
        planes = [Image.fromarray(plane).resize(size, method) for plane in np.moveaxis(array, -1, 0)]
        return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def centre_square(array: np.ndarray) -> np.ndarray:
    """Returns the largest square around the centre of (H, W, ...), which is all that a picture tokenizer takes."""
    height, width = array.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(array[top : top + side, left : left + side])


def vectors(values: Sequence[Any], *, length: int, name: str) -> np.ndarray:
    """Returns B vectors in one (B, length) float32 array; a None gives zeros.

    Raises:
      MmtokError: a value is not `length` finite numbers, saying which one and why.
    """
    out = np.zeros((len(values), length), np.float32)
    for row, value in enumerate(values):
        if value is None:
            continue
        vector = np.asarray(value)
        what = f"modality '{name}', sample {row} of the batch: expected {length} finite numbers"
        if vector.shape != (length,) or vector.dtype.kind not in "fiu":
            raise MmtokError(f"{what}, found {vector.dtype} of shape {vector.shape}")
        if not np.isfinite(vector).all():
            raise MmtokError(f"{what}, found {vector[~np.isfinite(vector)][0]}")
        out[row] = vector
    return out

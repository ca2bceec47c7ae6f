"""Pixel patches as they are: encoder input only."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from mmtok.batch import TokenColumn
from mmtok.modality import Modality
from mmtok.tokenizers.artifact import Tokenizer
from mmtok.tokenizers.autoencoder import check_grid
from mmtok.tokenizers.neural import check_ids
from mmtok.tokenizers.preprocess import ImagePreprocess


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelConfig:
    """Pixel patches of a uint8 image.

    Attributes:
      size: Height and width in pixels; other images are cropped to the centre square and resized.
      patch: Pixels along one side of a patch.
      channels: Number of channels.
      mean: Of the intensities 0 .. 255 by channel, or one for all; the model subtracts it.
      std: Of the intensities by channel, or one for all; the model divides by it.
      show: How `mmtok.show` draws it.
    """

    family: ClassVar[str] = "pixels"

    size: int
    patch: int = 8
    channels: int = 3
    mean: tuple[float, ...] = (127.5,)
    std: tuple[float, ...] = (63.75,)
    show: str = "rgb"


class PixelTokenizer(Tokenizer):
    """Cuts images into patches, row-major; the vector of a patch is ordered (row, column, channel)."""

    Config = PixelConfig
    config: PixelConfig

    @functools.cached_property
    def modality(self) -> Modality:
        """A continuous grid of patches."""
        grid = check_grid(size=self.config.size, patch=self.config.patch, name=self.name)
        return Modality(
            name=self.name,
            kind="continuous",
            shape=(grid, grid),
            channels=self.config.patch**2 * self.config.channels,
            mean=self.config.mean,
            std=self.config.std,
            source=self.source,
            show=self.config.show,
            fingerprint=self.fingerprint,
        )

    @property
    def picture_size(self) -> int | None:
        """Height and width in pixels."""
        return self.config.size

    def encode(self, values: Sequence[Any]) -> TokenColumn:
        """Encodes images to uint8 patches (see `mmtok.codec.Codec`)."""
        size, patch, channels = self.config.size, self.config.patch, self.config.channels
        images = ImagePreprocess(size=size, channels=channels, dtype="uint8").batch(values, name=self.name)
        grid = size // patch
        patches = images.reshape(len(images), grid, patch, grid, patch, channels).swapaxes(2, 3)
        length = np.array([0 if value is None else grid * grid for value in values], np.int32)
        return TokenColumn(np.ascontiguousarray(patches).reshape(len(images), grid * grid, -1), length)

    def decode(self, column: TokenColumn) -> list[Any]:
        """Puts the patches together again (see `mmtok.codec.Codec`)."""
        size, patch, channels = self.config.size, self.config.patch, self.config.channels
        grid = size // patch
        patches = check_ids(column, size=grid * grid, codes=patch**2 * channels, name=self.name)
        patches = np.clip(np.rint(patches), 0, 255).astype(np.uint8).reshape(-1, grid, grid, patch, patch, channels)
        images = patches.swapaxes(2, 3).reshape(-1, size, size, channels)
        images = images[..., 0] if channels == 1 else images
        return [image if length else None for image, length in zip(images, column.length, strict=True)]

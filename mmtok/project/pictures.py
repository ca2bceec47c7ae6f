"""Rows of raw values as rows of pictures that can be compared."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmtok.show import FeatureBasis, feature_basis, picture
from mmtok.tokenizers.preprocess import centre_square

Shown = tuple[Any, str]
"""A raw value and the way to show it (`Modality.show`)."""


def draw(rows: Sequence[Sequence[Shown]], *, size: int) -> list[list[np.ndarray]]:
    """Draws raw values.

    Boxes lie on the first colour picture of their row, or rather on its centre square, which is all that tokenizers
    take. Feature maps of one kind share their colours.

    Args:
      rows: One sample each.
      size: Side of a picture in pixels.

    Returns:
      For each value a picture, (size, size, 3) uint8.
    """
    bases = _bases(rows)
    drawn = []
    for row in rows:
        ground = next((centre_square(value) for value, show in row if show == "rgb" and value is not None), None)
        drawn.append(
            [
                picture(value, show, size=size, context=ground, basis=bases.get(_kind(value, show)))
                for value, show in row
            ]
        )
    return drawn


def _bases(rows: Sequence[Sequence[Shown]]) -> dict[int, FeatureBasis]:
    maps: dict[int, list[np.ndarray]] = {}
    for value, show in (item for row in rows for item in row):
        if _kind(value, show):
            maps.setdefault(_kind(value, show), []).append(value)
    return {channels: feature_basis(values) for channels, values in maps.items()}


def _kind(value: Any, show: str) -> int:
    """Number of channels of a feature map; 0 for everything else."""
    return value.shape[-1] if show == "feature" and value is not None else 0

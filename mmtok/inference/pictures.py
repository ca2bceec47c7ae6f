"""Rows of raw values as rows of pictures that can be compared."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmtok.modality import Modality
from mmtok.show import FeatureBasis, feature_basis, picture
from mmtok.tokenizers.preprocess import centre_square

Shown = tuple[Any, Modality]
"""A raw value, and the modality that says how to show it."""


def draw(rows: Sequence[Sequence[Shown]], *, size: int) -> list[list[np.ndarray]]:
    """Draws raw values.

    Boxes, persons and instances lie on the first colour picture of their row, or rather on its centre square, which is
    all that tokenizers take. Feature maps of one kind share their colours.

    Args:
      rows: One sample each.
      size: Side of a picture in pixels.

    Returns:
      For each value a picture, (size, size, 3) uint8.
    """
    bases = _bases(rows)
    drawn = []
    for row in rows:
        ground = next((centre_square(value) for value, item in row if item.show == "rgb" and value is not None), None)
        drawn.append(
            [
                picture(
                    value,
                    item.show,
                    size=size,
                    context=ground,
                    names=item.names,
                    basis=bases.get(_channels(value, item)),
                )
                for value, item in row
            ]
        )
    return drawn


def _bases(rows: Sequence[Sequence[Shown]]) -> dict[int, FeatureBasis]:
    maps: dict[int, list[np.ndarray]] = {}
    for value, item in (shown for row in rows for shown in row):
        if _channels(value, item):
            maps.setdefault(_channels(value, item), []).append(value)
    return {channels: feature_basis(values) for channels, values in maps.items()}


def _channels(value: Any, item: Modality) -> int:
    """Number of channels of a feature map; 0 for everything else."""
    return value.shape[-1] if item.show == "feature" and value is not None else 0

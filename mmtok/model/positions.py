"""Position embeddings: fixed sine-cosine tables for grids of any rank."""

import math

import numpy as np
from jaxtyping import Float, Int

from mmtok.modality import Modality

TEMPERATURE = 10_000.0  # Vaswani et al. 2017


def sincos(shape: tuple[int, ...], *, dim: int, temperature: float = TEMPERATURE) -> Float[np.ndarray, "positions dim"]:
    """Returns the sine-cosine table of a grid, one row per position in row-major order.

    The width is divided among the axes, first axis first; each part is [sin | cos] of its coordinate at
    `dim // (2 * rank)` frequencies from 1 to about 1 / temperature (Vaswani et al. 2017, section 3.5). Columns that
    remain are zero. Rank 1 is the usual table of a sequence; rank 2 is 4M's on square grids and stays row-major on
    others.
    """
    frequencies = dim // (2 * len(shape))
    omega = temperature ** (-np.arange(frequencies) / max(frequencies, 1))
    table = np.zeros((math.prod(shape), dim), np.float32)
    for axis, coordinate in enumerate(np.indices(shape).reshape(len(shape), -1)):
        angle = coordinate[:, None] * omega
        table[:, 2 * axis * frequencies :][:, : 2 * frequencies] = np.concatenate([np.sin(angle), np.cos(angle)], 1)
    return table


class PositionLayout:
    """Where each modality's positions lie in one concatenated table.

    Fixed tables come first, one per distinct grid: all one-dimensional modalities share the longest table, of which
    theirs is the beginning. Learned rows follow, for each modality its own.
    """

    def __init__(self, modalities: tuple[Modality, ...]) -> None:
        grids: dict[int | tuple[int, ...], tuple[int, ...]] = {}
        for modality in modalities:
            if not modality.learned_positions:
                shape = (modality.positions,) if len(modality.shape) == 1 else modality.shape
                key = 1 if len(shape) == 1 else shape
                grids[key] = max(grids.get(key, shape), shape)
        self.grids = tuple(grids.values())
        starts = dict(zip(grids, np.cumsum([0, *map(math.prod, self.grids)]).tolist()))
        self.fixed_rows = sum(map(math.prod, self.grids))
        self.learned_rows = 0
        offsets = []
        for modality in modalities:
            if modality.learned_positions:
                offsets.append(self.fixed_rows + self.learned_rows)
                self.learned_rows += modality.positions
            else:
                offsets.append(starts[1 if len(modality.shape) == 1 else modality.shape])
        self.offsets: Int[np.ndarray, " modalities"] = np.array(offsets, np.int32)

    def fixed(self, *, dim: int, temperature: float = TEMPERATURE) -> Float[np.ndarray, "rows dim"]:
        """Returns the fixed part of the table."""
        tables = (sincos(shape, dim=dim, temperature=temperature) for shape in self.grids)
        return np.concatenate([np.zeros((0, dim), np.float32), *tables])

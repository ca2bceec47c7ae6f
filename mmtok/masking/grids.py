"""Grid masks: disjoint random sets of visible and asked positions, vectorised over the batch."""

import dataclasses

import numpy as np
from jaxtyping import Int

from mmtok.masking.random import Draws
from mmtok.masking.rows import ragged


@dataclasses.dataclass(frozen=True)
class Choice:
    """Flat positions, row after row.

    Attributes:
      shown: Visible positions.
      asked: Positions to predict.
    """

    shown: Int[np.ndarray, " n"]
    asked: Int[np.ndarray, " q"]


def choose(draws: Draws, size: int, *, shown: Int[np.ndarray, " B"], asked: Int[np.ndarray, " B"]) -> Choice:
    """Chooses `shown` and `asked` of `size` positions per row at random; no position is in both."""
    rows = np.nonzero(shown + asked)[0]
    order = draws[rows].permutation(size)
    shown, asked = shown[rows], asked[rows]
    first = order[ragged(shown)]
    row, rank = ragged(asked)
    return Choice(first, order[row, rank + shown[row]])

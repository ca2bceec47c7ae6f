"""Memory for the vectors of a batch, used again: touching fresh pages costs several times what filling them does."""

import collections
import dataclasses
import weakref

import numpy as np
from jaxtyping import Int, Shaped


@dataclasses.dataclass
class _Block:
    """An array's memory.

    Attributes:
      array: Owner of the memory.
      used: Rows of each sample that may differ from zero.
    """

    array: Shaped[np.ndarray, "B rows channels"]
    used: Int[np.ndarray, " B"]


class Memory:
    """Lends arrays; one comes back by itself when its last view is gone, and is lent anew, to whatever thread."""

    def __init__(self) -> None:
        self._free: dict[tuple[tuple[int, ...], np.dtype], collections.deque[_Block]] = {}

    def lend(
        self, shape: tuple[int, int, int], dtype: np.dtype, *, used: Int[np.ndarray, " B"]
    ) -> Shaped[np.ndarray, "B rows channels"]:
        """Returns an array of (B, rows, channels): zeros but for the first `used` rows of each sample, to be filled."""
        free = self._free.setdefault((shape, dtype), collections.deque())
        try:
            block = free.pop()
        except IndexError:
            block = _Block(np.zeros(shape, dtype), np.zeros(len(used), np.int64))
        for sample in np.nonzero(block.used > used)[0]:
            block.array[sample, used[sample] : block.used[sample]] = 0
        block.used = used
        # numpy makes a view refer to the array that owns the memory; with a buffer between, that is `lent`.
        lent = np.asarray(block.array.data)
        weakref.finalize(lent, free.append, block)
        return lent

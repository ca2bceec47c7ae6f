"""The order of samples: a keyed permutation computed where it is needed, never stored.

A Feistel network over the next power of two, with cycle walking for indices that fall outside the range (Black and
Rogaway, "Ciphers with arbitrary finite domains", 2002).
"""

import dataclasses

import numpy as np
from jaxtyping import Int, UInt64

from mmtok.errors import MmtokError

_ROUNDS = 8


def permute(index: Int[np.ndarray, " B"], *, size: int, seed: int, epoch: int) -> Int[np.ndarray, " B"]:
    """Returns where a random permutation of 0..size-1 sends each index.

    Args:
      index: Values in 0..size-1.
      size: Length of the permuted range.
      seed: With `epoch` the key: another pair gives an unrelated permutation.
      epoch: See `seed`; both are at least 0.

    Raises:
      IndexError: an index is outside the range.
    """
    if index.size and not (index.min() >= 0 and index.max() < size):
        raise IndexError(f"indices {index.min()}..{index.max()} outside 0..{size - 1}")
    keys = np.random.SeedSequence([seed, epoch]).generate_state(_ROUNDS, np.uint64)
    bits = max((size - 1).bit_length(), 2)
    image = _feistel(index.astype(np.uint64), keys, bits)
    while (outside := image >= size).any():
        image[outside] = _feistel(image[outside], keys, bits)
    return image.astype(np.int64)


def _feistel(value: UInt64[np.ndarray, " B"], keys: UInt64[np.ndarray, " R"], bits: int) -> UInt64[np.ndarray, " B"]:
    half = np.uint64(bits // 2)
    low_mask = (np.uint64(1) << half) - np.uint64(1)
    high_mask = (np.uint64(1) << np.uint64(bits) - half) - np.uint64(1)
    low, high = value & low_mask, value >> half
    for even, odd in keys.reshape(-1, 2):
        low = low ^ (_mix(high ^ even) & low_mask)
        high = high ^ (_mix(low ^ odd) & high_mask)
    return high << half | low


def _mix(x: UInt64[np.ndarray, " B"]) -> UInt64[np.ndarray, " B"]:
    """The finaliser of SplitMix64: every input bit changes every output bit with probability one half."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """Which samples a step sees: epochs of all samples, each in an order of its own, cut into batches.

    A batch may span epochs; no sample is dropped. Each row of a batch can be asked for by itself, so processes that
    share a batch each read their own rows only, and their number changes nothing.

    Attributes:
      size: Number of samples.
      batch_size: Rows of the whole batch.
      seed: Of the order.
    """

    size: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if min(self.size, self.batch_size) < 1:
            raise MmtokError(f"{self.size} samples in batches of {self.batch_size}: both must be positive")

    def ordinals(self, step: int, rows: Int[np.ndarray, " b"] | None = None) -> Int[np.ndarray, " b"]:
        """Returns the places of rows of a batch (None: all) in the endless stream of samples: epoch * size + place."""
        rows = np.arange(self.batch_size) if rows is None else rows
        return step * self.batch_size + rows.astype(np.int64)

    def indices(self, ordinals: Int[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
        """Returns the sample at each place of the stream."""
        epoch, place = np.divmod(ordinals, self.size)
        found = np.empty_like(ordinals)
        for e in np.unique(epoch):
            here = epoch == e
            found[here] = permute(place[here], size=self.size, seed=self.seed, epoch=int(e))
        return found

"""Counter-based random numbers: each is a pure function of its key and counter, whatever batch it is drawn in."""

import dataclasses
import enum
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt64
from scipy.special import ndtri

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1
_INDEX_BITS = 20  # low bits of a sort key hold the index, the upper 44 are random
_INDEX = np.uint64((1 << _INDEX_BITS) - 1)
_FRACTION = np.uint64(12)  # bits that a float64 below 1 has no room for


class Stream(enum.IntEnum):
    """What the masker draws random numbers for."""

    COMPONENT = 0
    TOTALS = 1
    KEEP = 2
    WHOLE = 3
    INPUT_SHARES = 4
    TARGET_SHARES = 5
    ROUNDING = 6
    ORDER = 7
    CROP = 8
    GRID = 9


_SHIFTS = np.array([30, 27, 31], np.uint64)
_FACTORS = np.array([0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)


def _mix(x: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """Scrambles `x` in place: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    x ^= x >> _SHIFTS[0]
    x *= _FACTORS[0]
    x ^= x >> _SHIFTS[1]
    x *= _FACTORS[1]
    x ^= x >> _SHIFTS[2]
    return x


@functools.lru_cache
def _word(value: int) -> np.uint64:
    return np.uint64((value * _GOLDEN) & _WORD)


@dataclasses.dataclass(frozen=True)
class Draws:
    """One stream of random numbers per row.

    Attributes:
      keys: One key per row; rows with equal keys draw equal numbers.
    """

    keys: UInt64[np.ndarray, " B"]

    @classmethod
    def of(cls, samples: Int[np.ndarray, " B"], *, seed: int, step: int) -> "Draws":
        """Returns the streams of these samples at this step."""
        keys = np.full(len(samples), 1, np.uint64)
        for word in (_word(seed), _word(step), samples.astype(np.uint64) * np.uint64(_GOLDEN)):
            keys = _mix(keys ^ word) + np.uint64(1)
        return cls(keys)

    def stream(self, *path: int) -> "Draws":
        """Returns independent streams, told apart by `path`."""
        keys = self.keys
        for index in path:
            keys = _mix(keys ^ _word(index + 1))
        return Draws(keys)

    def each(self, indices: Sequence[int]) -> "Draws":
        """Returns the rows of `stream(index)` of each index, one stream after the other."""
        words = np.array([_word(index + 1) for index in indices])
        return Draws(_mix(self.keys ^ words[:, None]).reshape(-1))

    def __getitem__(self, rows: Any) -> "Draws":
        return Draws(self.keys[rows])

    def bits(self, count: int) -> UInt64[np.ndarray, "B count"]:
        """Returns `count` uniform 64-bit words per row; the first ones do not depend on `count`."""
        return _mix(self.keys[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _word(1))

    def uniform(self, count: int) -> Float[np.ndarray, "B count"]:
        """Returns `count` numbers per row, uniform in the open interval (0, 1)."""
        return as_uniform(self.bits(count))

    def permutation(self, size: int) -> Int[np.ndarray, "B size"]:
        """Returns a uniformly random order of 0..size-1 per row."""
        return indices(np.sort(indexed(self.bits(size)), axis=1))

    def log_gamma(self, alpha: Float[np.ndarray, "B m"]) -> Float[np.ndarray, "B m"]:
        """Returns logarithms of Gamma(alpha, 1) variates; exact for any alpha > 0, however small.

        Gamma(alpha) is Gamma(alpha + 1) times U^(1 / alpha); the former by the rejection of Marsaglia and Tsang
        (2000), which accepts more than 95 of 100 tries.
        """
        count = alpha.shape[1]
        d = alpha + (1 - 1 / 3)
        result = np.log(self.stream(0).uniform(count)) / alpha
        todo = np.ones(alpha.shape, bool)
        attempt = 0
        rows = np.arange(len(alpha))
        while len(rows):
            attempt += 1
            normal, uniform = self[rows].stream(attempt).each((0, 1)).uniform(count).reshape(2, len(rows), count)
            x = ndtri(normal)
            v = np.maximum(1 + x / np.sqrt(9 * d[rows]), 1e-100) ** 3
            bound = x * x / 2 + d[rows] * (1 - v + np.log(v))
            accept = todo[rows] & (np.log(uniform) < bound)
            result[rows] += np.where(accept, np.log(d[rows] * v), 0.0)
            todo[rows] &= ~accept
            rows = rows[todo[rows].any(axis=1)]
        return result


def as_uniform(bits: UInt64[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Turns 64-bit words into numbers in the open interval (0, 1), keeping their order."""
    return ((bits >> _FRACTION).astype(np.float64) + 0.5) * 2.0**-52


def indexed(bits: UInt64[np.ndarray, "B n"]) -> UInt64[np.ndarray, "B n"]:
    """Puts each column's index into the low bits, so that sorting the words alone carries the indices along."""
    return (bits & ~_INDEX) | np.arange(bits.shape[1], dtype=np.uint64)


def indices(words: UInt64[np.ndarray, "B n"]) -> Int[np.ndarray, "B n"]:
    """Returns the indices that `indexed` put into the words."""
    return (words & _INDEX).astype(np.int32)

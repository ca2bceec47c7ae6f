"""Random numbers that are a pure function of their counters, drawn for many scenes at once."""

import numpy as np
from jaxtyping import Float64, UInt64

_GOLDEN = 0x9E3779B97F4A7C15
_STEP = np.uint64(_GOLDEN)


def keys(seed: int, numbers: UInt64[np.ndarray, " B"]) -> UInt64[np.ndarray, " B"]:
    """Returns one key per number, unlike for every (seed, number)."""
    start = np.full(numbers.shape, seed % 2**64, np.uint64)
    return _mix(_mix(start + _STEP) + _STEP * (numbers + np.uint64(1)))


def uniform(key: UInt64[np.ndarray, " B"], stream: int, count: int) -> Float64[np.ndarray, "B count"]:
    """Draws from [0, 1): the same numbers for the same (key, stream), whatever the other keys are.

    Args:
      key: One key per row, from `keys`.
      stream: Number of an independent stream of draws.
      count: Draws per row.
    """
    base = _mix(key + np.uint64(_GOLDEN * (stream + 1) % 2**64))
    bits = _mix(base[:, None] + _STEP * np.arange(1, count + 1, dtype=np.uint64))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    # Finalizer of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

"""How fast a run is, and how fast the device could be."""

import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

TIMINGS = 3  # of a device's peak


class Clock:
    """Training time: stands still while compiling, goes on after a resume.

    Args:
      seconds: Training time so far.
    """

    def __init__(self, seconds: float):
        self._before, self._began = seconds, None

    def start(self) -> None:
        """Starts, or goes on."""
        self._began = time.perf_counter()

    @property
    def running(self) -> bool:
        """Whether it was started."""
        return self._began is not None

    @property
    def seconds(self) -> float:
        """Training time so far."""
        return self._before + (time.perf_counter() - self._began if self._began is not None else 0.0)


def measure_peak(device: Any) -> float:
    """Measures the FLOP/s of large matrix products on one device: float32 on a CPU, bfloat16 elsewhere.

    Of random numbers: GPUs slow down when many bits change, which ones would not show. Several in a row: the time to
    start a program does not count.
    """
    size, count, dtype = (1024, 2, jnp.float32) if device.platform == "cpu" else (8192, 10, jnp.bfloat16)
    normal = jax.random.normal(jax.random.key(0), (size, size)) / math.sqrt(size)  # products stay as large
    matrix = jax.device_put(normal.astype(dtype), device)
    products = jax.jit(functools.partial(_products, count=count))
    products(matrix).block_until_ready()
    best = float("inf")
    for _ in range(TIMINGS):
        start = time.perf_counter()
        products(matrix).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return count * 2 * size**3 / best


def _products(matrix: Float[Array, "n n"], *, count: int) -> Float[Array, "n n"]:
    x = matrix
    for _ in range(count):
        x = x @ matrix
    return x

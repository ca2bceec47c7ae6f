"""How fast a run is, and how fast the device could be."""

import time
from typing import Any

import jax
import jax.numpy as jnp


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
    """Measures the FLOP/s of a large matrix product on one device: float32 on a CPU, bfloat16 elsewhere."""
    size, dtype = (1024, jnp.float32) if device.platform == "cpu" else (8192, jnp.bfloat16)
    matrix = jax.device_put(jnp.ones((size, size), dtype), device)
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best

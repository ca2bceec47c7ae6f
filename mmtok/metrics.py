"""Metrics that add across devices, steps and modalities."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean as (total, count), so that partial means add up exactly.

    Attributes:
      total: Sum of the values, float32.
      count: Number (or weight) of the values, float32.
    """

    total: Any  # a device's array, a host's, or only its shape: a pytree may hold each
    count: Any

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> Float[Array, ""]:
        """Total / count; 0 where nothing was counted."""
        return self.total / jnp.maximum(self.count, 1e-9)

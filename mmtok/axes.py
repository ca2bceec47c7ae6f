"""Parameters that say what each of their axes means.

Layers name their axes here; the table that places the names on a device mesh is `mmtok.train.sharding`.
Names in use: `layers` (stacked blocks), `embed` (model width), `heads` (all attention heads side by side), `mlp`
(hidden width), `vocab` (rows of a table), None (never split).
"""

from collections.abc import Callable
from typing import TypeVar

import jax
from flax import nnx
from jaxtyping import Array

M = TypeVar("M")


def param(value: Array, axes: tuple[str | None, ...]) -> nnx.Param:
    """Returns a parameter whose axes carry the given names.

    Raises:
      ValueError: the number of names differs from the rank.
    """
    if len(axes) != value.ndim:
        raise ValueError(f"{len(axes)} axis names {axes} for a parameter of shape {value.shape}")
    return nnx.Param(value, out_sharding=axes, eager_sharding=False)


def stack(make: Callable[[nnx.Rngs], M], *, count: int, rngs: nnx.Rngs) -> M:
    """Returns `count` modules made by `make` as one module whose parameters have a leading `layers` axis.

    `jax.vmap` over `nnx.transform_metadata` instead of `nnx.vmap`, which drops the name of the new axis outside
    graph mode.
    """
    return jax.vmap(nnx.transform_metadata(make, partition="layers"))(rngs.split(count))

"""Tables over a square grid: sine-cosine positions, and their resizing to another grid."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_SHARPNESS = -0.75  # of the cubic kernel: the value of PyTorch, which 4M was trained with (others take -0.5)


def sine_cosine(grid: int, width: int) -> Float[np.ndarray, "grid grid width"]:
    """Returns the position embeddings of MoCo v3 (arXiv 2104.02057): [sin row | cos row | sin column | cos column]."""
    rates = (1 / 10000 ** (np.arange(width // 4) / (width // 4))).astype(np.float32)
    angles = np.arange(grid, dtype=np.float32)[:, None] * rates
    line = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    shape = (grid, grid, width // 2)
    table = [np.broadcast_to(line[:, None], shape), np.broadcast_to(line[None], shape)]
    return np.concatenate(table, axis=-1).astype(np.float32)


def bicubic(table: Float[Array, "h w D"], *, shape: tuple[int, int]) -> Float[Array, "H W D"]:
    """Resizes by cubic convolution (Keys 1981) without antialiasing, borders repeated; exact where sizes agree."""
    for axis, size in enumerate(shape):
        if table.shape[axis] != size:
            matrix = jnp.asarray(_cubic_matrix(table.shape[axis], size))
            table = jnp.moveaxis(
                jnp.tensordot(matrix, table, axes=(1, axis), precision=jax.lax.Precision.HIGHEST), 0, axis
            )
    return table


def nearest(x: Array, *, shape: tuple[int, int]) -> Array:
    """Resizes the axes 1 and 2 of x: cell i of n takes from cell floor(i * old / n), old / n rounded as in PyTorch."""
    rows, columns = (_nearest_cells(old, new) for old, new in zip(x.shape[1:3], shape, strict=True))
    return x[:, rows[:, None], columns]


def _nearest_cells(old: int, new: int) -> Int[np.ndarray, " new"]:
    return np.minimum(np.arange(new, dtype=np.float32) * np.float32(old / new), old - 1).astype(int)


@functools.cache
def _cubic_matrix(old: int, new: int) -> Float[np.ndarray, "new old"]:
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centre).astype(int)
    matrix = np.zeros((new, old))
    for tap in range(-1, 3):
        weight = _cubic(np.abs(centre - (first + tap)))
        np.add.at(matrix, (np.arange(new), np.clip(first + tap, 0, old - 1)), weight)
    return matrix.astype(np.float32)


def _cubic(distance: np.ndarray) -> np.ndarray:
    near = ((_SHARPNESS + 2) * distance - (_SHARPNESS + 3)) * distance**2 + 1
    far = _SHARPNESS * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)

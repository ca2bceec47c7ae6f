"""Batches of rows: indexing along them, and lists of different lengths."""

import numpy as np
from jaxtyping import Int, Shaped


def take(values: Shaped[np.ndarray, "B _m"], columns: Int[np.ndarray, "B n"]) -> Shaped[np.ndarray, "B n"]:
    """Returns `values[b, columns[b]]` for each row: `np.take_along_axis` of two dimensions in one call."""
    return values[_rows(values), columns]


def put(columns: Int[np.ndarray, "B n"], values: Shaped[np.ndarray, "B n"]) -> Shaped[np.ndarray, "B n"]:
    """Returns the array that has `values[b, i]` in column `columns[b, i]`; each row of `columns` is a permutation."""
    result = np.empty_like(values)
    result[_rows(columns), columns] = values
    return result


def ragged(counts: Int[np.ndarray, " B"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Returns (row, rank) of `counts[row]` items in each row, row after row."""
    row = np.arange(len(counts)).repeat(counts)
    return row, np.arange(len(row)) - (counts.cumsum() - counts)[row]


def _rows(values: Shaped[np.ndarray, "B n"]) -> Int[np.ndarray, "B 1"]:
    return np.arange(len(values))[:, None]

"""Halton order against the definition of the sequence, written out."""

import jax
import numpy as np
import pytest

from mmtok.generate.order import halton, halton_ranks


def radical_inverse(index: int, base: int) -> float:
    """The digits of an index mirrored at the point (van der Corput)."""
    result, scale = 0.0, 1.0
    while index:
        scale /= base
        index, digit = divmod(index, base)
        result += digit * scale
    return result


@pytest.mark.parametrize("shape", [(4, 4), (14, 14), (3, 7), (1, 5)])
def test_cells_come_in_the_order_of_the_sequence(shape):
    height, width = shape
    order: list[tuple[int, int]] = []
    for index in range(100 * height * width):
        cell = int(radical_inverse(index, 2) * height), int(radical_inverse(index, 3) * width)
        if cell not in order:
            order.append(cell)
    assert len(order) == height * width
    found = np.argsort(halton(*shape).ravel())
    assert [(position // width, position % width) for position in found.tolist()] == order


def test_the_first_cells_lie_evenly_over_the_grid():
    first = halton(16, 16) < 64
    quarters = [first[a : a + 4, b : b + 4].sum() for a in range(0, 16, 4) for b in range(0, 16, 4)]
    assert min(quarters) >= 2
    assert max(quarters) <= 6
    random = np.random.default_rng(0).permutation(256).reshape(16, 16) < 64
    spread = [random[a : a + 4, b : b + 4].sum() for a in range(0, 16, 4) for b in range(0, 16, 4)]
    assert np.var(quarters) < np.var(spread) / 3


def test_every_sample_shifts_the_pattern_around_the_edges():
    keys = jax.random.split(jax.random.key(0), 400)
    ranks = halton_ranks(keys, shape=(3, 4)).reshape(-1, 3, 4)
    pattern = halton(3, 4)
    shifts = [divmod(int(row.argmin()), 4) for row in ranks.reshape(400, -1)]
    assert all((np.roll(pattern, shift, axis=(0, 1)) == row).all() for row, shift in zip(ranks, shifts))
    assert len(set(shifts)) == 12  # every position comes first in some sample
    again = halton_ranks(keys[7:8], shape=(3, 4))
    assert (again[0] == ranks[7].ravel()).all()

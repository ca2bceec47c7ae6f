"""Sine-cosine tables against golden values and the formula, and their layout in one table."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtok.modality import Modality, Vocabulary
from mmtok.model.positions import PositionLayout, sincos


def test_golden_values_of_4m():
    row = sincos((14, 14), dim=768)[17]
    expected = {0: 0.841471, 1: 0.815251, 192: 0.540302, 384: 0.14112, 385: 0.27838, 576: -0.989992}
    for column, value in expected.items():
        assert row[column] == pytest.approx(value, abs=1e-6)
    row = sincos((512,), dim=768)[5]
    for column, value in {0: -0.958924, 1: -0.985735, 384: 0.283662}.items():
        assert row[column] == pytest.approx(value, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    st.sampled_from([16, 24, 30]),
    st.sampled_from([10.0, 10_000.0]),
)
def test_rows_follow_the_formula_in_row_major_order(shape, dim, temperature):
    table, count = sincos(shape, dim=dim, temperature=temperature), dim // (2 * len(shape))
    assert table.shape == (math.prod(shape), dim)
    flat = np.random.default_rng(0).integers(len(table))
    for axis, coordinate in enumerate(np.unravel_index(flat, shape)):
        for k in range(count):
            angle = coordinate / temperature ** (k / count)
            assert table[flat, 2 * axis * count + k] == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[flat, (2 * axis + 1) * count + k] == pytest.approx(math.cos(angle), abs=1e-6)
    assert not table[:, 2 * len(shape) * count :].any()


def test_positions_of_a_grid_differ():
    table = sincos((4, 6, 5), dim=48)
    assert len(np.unique(table.round(5), axis=0)) == 120


def test_equal_grids_share_rows_and_learned_ones_have_their_own():
    def modality(name: str, *shape: int, **fields) -> Modality:
        return Modality(name=name, kind="grid", shape=shape, vocabulary=Vocabulary(size=4), **fields)

    text = Modality(name="t", kind="sequence", shape=(9,), vocabulary=Vocabulary(size=40, sentinel_count=8))
    modalities = (
        modality("a", 3, 5),
        modality("b", 7),
        text,
        modality("c", 3, 5),
        modality("d", 4, learned_positions=True),
        modality("e", 2, learned_positions=True),
        modality("f", 5, 3),
    )
    layout = PositionLayout(modalities)
    assert layout.fixed_rows == 15 + 20 + 15
    assert layout.learned_rows == 6
    table = layout.fixed(dim=16)
    assert table.shape == (50, 16)
    for item, offset in zip(modalities, layout.offsets):
        if not item.learned_positions:
            shape = (item.positions,) if len(item.shape) == 1 else item.shape
            np.testing.assert_array_equal(table[offset : offset + item.positions], sincos(shape, dim=16))
    assert layout.offsets[4:6].tolist() == [50, 54]

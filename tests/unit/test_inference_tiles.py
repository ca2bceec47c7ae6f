"""Tiles: windows cover the picture, blending is a partition of unity, and depths come back on one scale."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtok.errors import MmtokError
from mmtok.inference.kinds import unit
from mmtok.inference.tiles import Tiling, blend, common_scale

tilings = st.builds(
    lambda size, down, right, overlap: Tiling.over(size + down, size + right, size=size, overlap=overlap),
    st.integers(4, 24),
    st.integers(0, 30),
    st.integers(0, 30),
    st.floats(0, 0.9),
)


def coverage(tiling: Tiling) -> np.ndarray:
    count = np.zeros((tiling.height, tiling.width), int)
    for place in tiling.places():
        assert count[place].shape == (tiling.size, tiling.size)
        count[place] += 1
    return count


@settings(deadline=None, max_examples=40)
@given(tilings, st.integers(1, 30))
def test_windows_cover_every_pixel_at_every_size(tiling, size):
    assert coverage(tiling).min() >= 1
    assert coverage(tiling.resized(size)).min() >= 1
    assert tiling.resized(tiling.size) == tiling
    assert tiling.corners[-1] == (tiling.height - tiling.size, tiling.width - tiling.size)


@settings(deadline=None, max_examples=40)
@given(tilings, st.integers(1, 5))
def test_constant_fields_stay_exactly_constant(tiling, size):
    window = np.full((size, size, 3), np.float32(0.1))
    blended = blend([window] * len(tiling.corners), tiling, "feature")
    assert blended.dtype == np.float32
    assert (blended == np.float32(0.1)).all()


@pytest.mark.parametrize("overlap", [0, 0.3, 0.5, 0.9])
def test_neighbours_share_at_least_the_overlap(overlap):
    tiling = Tiling.over(16, 70, size=16, overlap=overlap)
    left = np.array([x for _, x in tiling.corners])
    assert (16 - np.diff(left) >= 16 * overlap - 1e-9).all()


def test_overlaps_are_the_same_pixels_seen_from_both():
    tiling = Tiling.over(30, 41, size=12, overlap=0.4)
    windows = tiling.cut(np.arange(30 * 41).reshape(30, 41))
    pairs = list(tiling.overlaps())
    for i, j, first, second in pairs:
        np.testing.assert_array_equal(windows[i][first], windows[j][second])
        assert windows[i][first].size
    rectangles = [{*window.ravel().tolist()} for window in windows]
    touching = {
        (i, j) for i in range(len(windows)) for j in range(i + 1, len(windows)) if rectangles[i] & rectangles[j]
    }
    assert {(i, j) for i, j, *_ in pairs} == touching


@pytest.mark.parametrize(("show", "dtype"), [("rgb", np.uint8), ("depth", np.float32), ("label", np.int32)])
def test_one_window_is_the_plain_result(show, dtype):
    value = np.random.default_rng(0).uniform(1, 250, (16, 16, 3) if show == "rgb" else (16, 16)).astype(dtype)
    if show == "depth":
        value[3:5, 2] = np.inf
    blended = blend([value], Tiling.over(32, 32, size=32, overlap=0.5), show)
    assert blended.dtype == dtype
    np.testing.assert_array_equal(blended, value)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width] / 40
    return 5 + 2 * np.sin(y + 0.3) + np.cos(1.7 * x) + 0.5 * x * y


@pytest.mark.parametrize(("show", "shape"), [("depth", (75, 130)), ("relative_depth", (40, 200))])
def test_depth_on_different_scales_is_recovered(show, shape):
    rng = np.random.default_rng(1)
    truth, tiling = smooth(*shape), Tiling.over(*shape, size=32, overlap=0.3)
    truth[10:14, 20:60] = np.inf
    windows = [(window * rng.uniform(0.5, 2) + rng.uniform(-3, 3)).astype(np.float32) for window in tiling.cut(truth)]
    found = blend(windows, tiling, show)
    finite = np.isfinite(truth)
    np.testing.assert_array_equal(np.isfinite(found), finite)
    design = np.stack([truth[finite], np.ones(finite.sum())], axis=1)
    fit, *_ = np.linalg.lstsq(design, found[finite].astype(np.float64), rcond=None)
    assert np.abs(design @ fit - found[finite]).max() < 1e-4 * np.ptp(found[finite])
    scale, shift = common_scale(windows, tiling)
    assert np.mean(scale) == pytest.approx(1)
    assert np.mean(shift) == pytest.approx(0, abs=1e-6)


def test_common_scale_is_the_least_squares_solution():
    rng = np.random.default_rng(2)
    tiling = Tiling.over(20, 44, size=20, overlap=0.4)
    depths = [window + rng.normal(0, 0.1, window.shape) for window in tiling.cut(smooth(20, 44))]
    scale, shift = common_scale(depths, tiling)

    def error(scale, shift):
        return sum(
            np.sum((scale[i] * depths[i][a] + shift[i] - scale[j] * depths[j][b] - shift[j]) ** 2)
            for i, j, a, b in tiling.overlaps()
        )

    assert error(scale, shift) < error(np.ones(len(depths)), np.zeros(len(depths)))
    for _ in range(50):  # along the constraints: neither the mean scale nor the mean shift changes; in standard units
        there, aside = (step - step.mean() for step in rng.normal(0, 1e-3, (2, len(depths))))
        assert error(scale + there, shift + aside - there * np.mean(depths)) >= error(scale, shift)


def test_windows_that_say_nothing_about_each_other_stay_as_they_are():
    tiling = Tiling.over(8, 16, size=8, overlap=0)
    depths = [np.full((8, 8), 2.0), np.arange(64.0).reshape(8, 8)]
    np.testing.assert_allclose(common_scale(depths, tiling), [[1, 1], [0, 0]], atol=1e-12)
    undefined = [np.full((8, 8), np.inf, np.float32)] * 2
    assert np.isinf(blend(undefined, tiling, "depth")).all()
    flat = [np.full((8, 8), value) for value in (1.0, 3.0, 8.0)]
    scale, shift = common_scale(flat, Tiling.over(8, 16, size=8, overlap=0.5))
    assert np.ptp(scale * [1, 3, 8] + shift) < 1e-9
    assert (scale > 0).all()


def test_windows_that_contradict_each_other_only_get_a_shift():
    tiling = Tiling.over(8, 20, size=8, overlap=0.5)
    rows = np.arange(8.0)[:, None] * np.ones((1, 8))
    scale, shift = common_scale([rows, 9 - rows, rows, 9 - rows], tiling)
    assert (scale == 1).all()
    assert shift.mean() == pytest.approx(0, abs=1e-12)


def test_labels_are_exact_and_disputed_ones_go_to_the_nearer_window():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 200, (33, 57)).astype(np.uint8)
    tiling = Tiling.over(33, 57, size=16, overlap=0.4)
    np.testing.assert_array_equal(blend(tiling.cut(labels), tiling, "label"), labels)
    pair = Tiling.over(8, 12, size=8, overlap=0.5)
    votes = blend([np.full((8, 8), 7, np.uint8), np.full((8, 8), 2, np.uint8)], pair, "mask")
    np.testing.assert_array_equal(votes, np.repeat([[7] * 6 + [2] * 6], 8, axis=0))


def test_directions_stay_unit_vectors_and_undefined_ones_do_not_count():
    rng = np.random.default_rng(4)
    tiling = Tiling.over(10, 16, size=10, overlap=0.4)
    windows = [unit(rng.normal(size=(10, 10, 3))).astype(np.float32) for _ in tiling.corners]
    windows[0][:, 8:] = 0
    blended = blend(windows, tiling, "normal")
    np.testing.assert_allclose(np.linalg.norm(blended, axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(blended[:, 8:10], windows[1][:, 2:4], atol=1e-6)  # windows[1] has more weight there
    windows[1][:, 2:4] = 0
    assert not blend(windows, tiling, "normal")[:, 8:10].any()


def test_what_cannot_be_tiled():
    with pytest.raises(MmtokError, match=r"0 to 0.9; it is 1"):
        Tiling.over(9, 9, size=8, overlap=1)
    with pytest.raises(MmtokError, match="picture of 9 x 7 pixels is smaller than one window of 8 x 8"):
        Tiling.over(7, 9, size=8, overlap=0)
    tiling = Tiling.over(8, 8, size=8, overlap=0)
    for value, show in (("a text", "text"), ([], "box"), (np.zeros(5), "values"), (np.zeros((8, 8), int), "instance")):
        with pytest.raises(MmtokError, match=f"tiles: what is shown as {show} belongs to a whole picture"):
            blend([value], tiling, show)

"""Pictures of single values: known pixels, never a crash on odd values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmtok.errors import MmtokError
from mmtok.show import SHOWS, feature_basis, picture
from mmtok.show.canvas import UNDEFINED, font, wrap
from mmtok.show.colours import class_colours

GRID = (6, 6)
BOX = st.lists(st.floats(0, 1), min_size=4, max_size=4)
ARRAYS = {
    "rgb": hnp.arrays(np.uint8, (*GRID, 3)),
    "grey": hnp.arrays(np.uint8, GRID),
    "depth": hnp.arrays(np.float32, GRID, elements=st.floats(width=32)),
    "normal": hnp.arrays(np.float32, (*GRID, 3), elements=st.floats(-1, 1, width=32)),
    "label": hnp.arrays(np.uint8, GRID),
    "instance": hnp.arrays(np.uint8, GRID),
    "edge": hnp.arrays(np.uint8, GRID, elements=st.integers(0, 1)),
    "mask": hnp.arrays(np.uint8, GRID),
    "text": st.text(max_size=300),
    "box": st.lists(
        st.builds(
            lambda label, box: {"label": label, "box": box},
            st.text(max_size=12),
            BOX,
        ),
        max_size=4,
    ),
    "pose": st.lists(
        st.fixed_dictionaries(
            {"box": BOX},
            optional={
                "pose": hnp.arrays(np.float32, (23, 3, 3), elements=st.floats(-1, 1, width=32)) | st.just([1] * 8),
                "global": st.lists(st.floats(-1, 1), min_size=9, max_size=9),
            },
        ),
        max_size=3,
    ),
    "segment": st.lists(
        st.fixed_dictionaries(
            {
                "point": st.lists(st.floats(0, 1), min_size=2, max_size=2),
                "instances": st.lists(
                    st.fixed_dictionaries(
                        {
                            "box": BOX,
                            "mask": hnp.arrays(np.uint8, (4, 4), elements=st.integers(0, 1)) | st.just([1] * 16),
                        }
                    ),
                    max_size=2,
                ),
            }
        ),
        max_size=3,
    ),
    "relative_depth": hnp.arrays(np.float32, GRID, elements=st.floats(width=32)),
    "sketch": hnp.arrays(np.uint8, (*GRID, 3)),
    "palette": hnp.arrays(np.uint8, st.tuples(st.integers(0, 7), st.just(3))),
    "values": st.dictionaries(st.text(max_size=20), st.floats(), max_size=30)
    | hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32)),
    "feature": hnp.arrays(np.float32, (3, 3, 5), elements=st.floats(-9, 9, width=32)),
    "amount": hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=6), elements=st.floats(0, width=16)),
    "array": hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=6), elements=st.floats(width=16))
    | st.text(max_size=20),
}


@pytest.mark.parametrize("show", sorted(SHOWS))
def test_every_show_draws_a_square_of_bytes(show):
    @settings(max_examples=15, deadline=None)
    @given(ARRAYS[show], st.integers(24, 80))
    def check(value, size):
        pixels = picture(value, show, size=size)
        assert pixels.shape == (size, size, 3)
        assert pixels.dtype == np.uint8

    check()


@pytest.mark.parametrize("shape", [(), (1,), (2, 1), (2, 2, 1), (1, 1, 1, 1), (2, 3, 4, 3)])
def test_arrays_of_any_rank_are_drawn(shape):
    assert picture(np.ones(shape, np.float32), "array", size=32).shape == (32, 32, 3)


def test_bright_is_much_and_grey_where_there_is_no_amount():
    tile = picture(np.array([[0.0, 1.0], [2.0, np.nan]], np.float32), "amount", size=128).astype(int)
    none, some, most = (tile[at].sum() for at in ((32, 32), (32, 96), (80, 32)))
    assert none < some < most
    assert tile[96, 96].tolist() == [*UNDEFINED]


def test_absent_and_unknown():
    assert picture(None, "rgb", size=64).std() > 0
    assert np.array_equal(picture(None, "rgb", size=64), picture(None, "box", size=64))
    with pytest.raises(MmtokError, match="did you mean 'depth'"):
        picture(np.zeros((2, 2)), "deph", size=64)


def test_rgb_grows_by_nearest_neighbour_and_keeps_proportions():
    value = np.random.default_rng(0).integers(0, 256, (4, 2, 3), dtype=np.uint8)
    pixels = picture(value, "rgb", size=8)
    assert np.array_equal(pixels[:, 2:6], value.repeat(2, 0).repeat(2, 1))
    assert (pixels[:, :2] == pixels[0, 0]).all()


def test_rgb_shrinks_by_area_average():
    value = np.zeros((4, 4, 3), np.uint8)
    value[::2] = 200
    assert (picture(value, "rgb", size=2) == 100).all()


def test_depth_is_brighter_when_nearer_and_grey_where_undefined():
    pixels = picture(np.array([[4.0, 12.0], [np.inf, 0.0]], np.float32), "depth", size=2)
    assert pixels[0, 0].sum() > pixels[0, 1].sum()
    assert tuple(pixels[1, 0]) == tuple(pixels[1, 1]) == UNDEFINED


def test_depth_range_is_fixed():
    near = picture(np.full((2, 2), 4, np.float32), "depth", size=2)
    both = picture(np.array([[4, 9], [4, 9]], np.float32), "depth", size=2)
    assert np.array_equal(near[:, 0], both[:, 0])


def test_relative_depth_has_a_range_of_its_own():
    depth = np.linspace(-2, 3, 400, dtype=np.float32).reshape(20, 20)
    pixels = picture(depth, "relative_depth", size=20)
    assert (np.diff(pixels.astype(int).sum(-1).ravel()) <= 6).all()  # the nearest is the brightest
    assert pixels[0, 0].sum() > 600 > 60 > pixels[-1, -1].sum()
    assert np.array_equal(pixels, picture(depth * 50 + 7, "relative_depth", size=20))
    depth[0, 0], depth[-1, -1] = np.inf, 1e6
    spoiled = picture(depth, "relative_depth", size=20)
    assert tuple(spoiled[0, 0]) == UNDEFINED
    assert np.abs(spoiled[1:-1].astype(int) - pixels[1:-1]).max() < 12


def test_normals_use_the_usual_colours():
    pixels = picture(np.array([[[0, 0, 1], [1, 0, 0]], [[0, 1, 0], [0, 0, 0]]], np.float32), "normal", size=2)
    assert pixels[0, 0].tolist() == [128, 128, 255]
    assert pixels[0, 1].tolist() == [255, 128, 128]
    assert tuple(pixels[1, 1]) == UNDEFINED


def test_labels_use_the_table_and_only_those():
    value = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(picture(value, "label", size=8), class_colours()[value])
    shrunk = picture(value, "label", size=5).reshape(-1, 3)
    assert {tuple(pixel) for pixel in shrunk} <= {tuple(colour) for colour in class_colours()}


def test_class_colours_differ():
    table = class_colours()[:40].astype(int)
    distance = np.abs(table[:, None] - table[None]).sum(-1) + 999 * np.eye(40)
    assert distance.min() > 10


def test_a_legend_is_drawn_for_named_classes():
    value = np.ones((8, 8), np.uint8)
    assert not np.array_equal(
        picture(value, "label", size=96), picture(value, "label", size=96, names=("sky", "floor"))
    )


def test_a_legend_names_the_commonest_classes():
    value = np.repeat(np.arange(8, dtype=np.uint8) % 4, 8).reshape(8, 8)
    value[0, 0] = 4
    names = ("a", "b", "c", "d", "e")
    pixels = picture(value, "label", size=96, names=names)
    assert (pixels[:60] == picture(value, "label", size=96)[:60]).all()
    assert np.array_equal(pixels, picture(value, "label", size=96, names=("a", "b", "c", "d", "x")))
    assert not np.array_equal(pixels, picture(value, "label", size=96, names=("a", "b", "c", "x", "e")))
    assert np.array_equal(
        picture(value, "label", size=96, names=("a", "b", "c")),
        picture(value, "label", size=96, names=("a", "b", "c", "class 3")),
    )


def test_edges_are_ink_on_paper_whatever_the_range():
    value = np.eye(4, dtype=np.uint8)
    assert np.array_equal(picture(value, "edge", size=4), picture(value * 255, "edge", size=4))
    assert (picture(value, "edge", size=4)[0, 1] == 255).all()


def test_a_box_stays_where_it_is_on_a_wide_picture():
    wide = np.zeros((10, 20, 3), np.uint8)
    blank = picture([], "box", size=200, context=wide)
    drawn = picture([{"label": "", "box": [0.5, 0.0, 1.0, 1.0]}], "box", size=200, context=wide)
    rows, columns = np.nonzero((blank != drawn).any(-1))
    assert columns.min() in range(98, 103)
    assert columns.max() == 199
    assert rows.max() in range(146, 152)


def test_palette_shows_its_colours():
    pixels = picture(np.array([[255, 0, 0], [0, 0, 255]], np.uint8), "palette", size=60)
    assert pixels[2, 2].tolist() == [255, 0, 0]
    assert pixels[57, 2].tolist() == [0, 0, 255]


def test_features_with_a_shared_basis_can_be_compared():
    first, second = np.random.default_rng(0).normal(size=(2, 4, 4, 6)).astype(np.float32)
    basis = feature_basis([first, second])
    both = picture(np.concatenate([first, second], 1), "feature", size=8, basis=basis)
    assert np.array_equal(picture(first, "feature", size=4, basis=basis), both[2:6, :4])


def test_basis_is_the_principal_components_with_fixed_signs():
    points = np.random.default_rng(1).gamma(1.0, size=(500, 5)) * [5, 3, 2, 1, 0.5]
    basis = feature_basis([points])
    axes = np.linalg.eigh(np.cov(points.T))[1][:, :-4:-1]
    assert np.allclose(np.abs((basis.axes * axes).sum(0)), 1, atol=1e-6)
    assert ((((points - points.mean(0)) @ basis.axes) ** 3).sum(0) > 0).all()
    assert np.allclose(feature_basis([points[::-1]]).axes, basis.axes)


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=60), st.integers(20, 90))
def test_wrapping_loses_no_letter(text, width):
    lines = wrap(text, width=width, face=font(10))
    assert "".join(lines) == text
    assert all(font(10).getlength(line) <= width or len(line) == 1 for line in lines)

"""Known parts of pictures: by box, by mask, and pictures put into larger ones."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmtok.errors import MmtokError
from mmtok.generate import Known
from mmtok.inference.regions import (
    Part,
    check_box,
    keep_parts,
    known_parts,
    paste,
    place,
    read_mask,
    show_region,
    whole,
    whole_cells,
)
from mmtok.modality import Modality, Vocabulary

GRID = Modality(name="rgb", kind="grid", shape=(4, 4), vocabulary=Vocabulary(size=8))
LINE = Modality(name="sound", kind="grid", shape=(16,), vocabulary=Vocabulary(size=8))


def save(path: Path, levels: np.ndarray) -> Path:
    Image.fromarray(np.asarray(levels, np.uint8)).save(path)
    return path


def slow_cells(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Every pixel that overlaps a cell, in twelfths so that all edges are whole numbers."""
    height, width = shape
    fine = mask.repeat(height, axis=0).repeat(width, axis=1)
    blocks = fine.reshape(height, mask.shape[0], width, mask.shape[1])
    return np.asarray(blocks.all(axis=(1, 3)))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_cell_is_known_if_all_of_its_pixels_are(data):
    sides = st.integers(1, 9)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=81, max_size=81))).reshape(9, 9) | (
        np.random.default_rng(data.draw(st.integers(0, 99))).random((9, 9)) < 0.8
    )
    mask, shape = mask[: data.draw(sides), : data.draw(sides)], (data.draw(sides), data.draw(sides))
    np.testing.assert_array_equal(whole_cells(mask, shape), slow_cells(mask, shape))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 30), st.data())
def test_a_box_is_the_mask_of_its_pixels(height, width, cells, data):
    left, right = sorted(data.draw(st.lists(st.integers(0, width), min_size=2, max_size=2, unique=True)))
    top, bottom = sorted(data.draw(st.lists(st.integers(0, height), min_size=2, max_size=2, unique=True)))
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    box = (left / width, top / height, right / width, bottom / height)
    for shape in ((cells, cells), (height, width)):
        np.testing.assert_array_equal(whole_cells(box, shape), slow_cells(mask, shape))


def test_white_of_a_mask_file_is_to_be_painted(tmp_path):
    levels = np.array([[0, 127, 128], [0, 255, 0]], np.uint8)
    known = [[True, True, False], [True, False, True]]
    np.testing.assert_array_equal(read_mask(save(tmp_path / "grey.png", levels)), known)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "rgb.png", levels[..., None].repeat(3, 2))), known)
    Image.fromarray(levels > 127).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "bits.png"), known)
    clear = np.zeros((2, 3, 4), np.uint8)
    clear[..., 3] = 255 - levels  # black, and transparent where it is to be painted
    np.testing.assert_array_equal(read_mask(save(tmp_path / "clear.png", clear)), known)


def test_wrong_mask_files(tmp_path):
    colours = save(tmp_path / "colours.png", np.eye(3)[None].repeat(2, 0) * 255)
    with pytest.raises(MmtokError, match=r"colours.png: a mask is black \(known\) and white .* has colours"):
        read_mask(colours)
    with pytest.raises(MmtokError, match="all of the mask is black, so nothing is to be painted"):
        read_mask(save(tmp_path / "black.png", np.zeros((4, 4))))
    with pytest.raises(MmtokError, match="all of the mask is white, so all is to be painted"):
        read_mask(save(tmp_path / "white.png", np.full((4, 4), 255)))
    with pytest.raises(MmtokError, match="no such file"):
        read_mask(tmp_path / "nowhere.png")


def test_a_mask_has_the_proportions_of_its_picture_and_is_cut_like_it():
    mask = np.ones((10, 18), bool)
    mask[:, 4:10] = False
    picture = np.zeros((50, 90, 3), np.uint8)
    np.testing.assert_array_equal(Part(picture, mask).region, mask[:, 4:14])
    assert np.shape(Part(picture, np.eye(11, 20, dtype=bool)).region) == (11, 11)  # sides rounded
    with pytest.raises(MmtokError, match="a mask of 12 x 10 does not have the proportions of its picture, 90 x 50"):
        Part(picture, np.eye(10, 12, dtype=bool))
    with pytest.raises(MmtokError, match="a mask of 10 x 18 does not"):
        Part(picture, mask.T)
    mask[:, 4:10] = True
    mask[:, 0] = False
    with pytest.raises(MmtokError, match="all of the mask is known in the centre square"):
        Part(picture, mask)
    with pytest.raises(MmtokError, match="keep: 'caption' is not a picture; only a picture"):
        keep_parts([{"caption": "a text"}], {"caption": (0.0, 0.0, 0.5, 1.0)})


def test_samples_without_the_field_are_left_alone():
    picture, box = np.zeros((8, 8), np.uint8), (0.0, 0.0, 0.5, 1.0)
    samples = [{"rgb": picture, "caption": "x"}, {"caption": "y"}]
    kept = keep_parts(samples, {"rgb": box})
    assert [known_parts(sample) for sample in kept] == [{"rgb": box}, {}]
    assert whole(kept[0]["rgb"]) is picture
    assert whole("x") == "x"
    with pytest.raises(MmtokError, match="keep: the field 'depth' is not among the given ones"):
        keep_parts(samples, {"depth": box})


def test_only_tokens_in_the_known_part_are_visible():
    known = Known(np.arange(48).reshape(3, 16, 1) % 8, np.ones((3, 16), bool))
    mask = np.ones((8, 8), bool)
    mask[0, 0] = False
    shown = show_region(known, GRID, [(0.0, 0.0, 0.5, 1.0), mask, None])
    assert shown.visible.sum(1).tolist() == [8, 15, 16]
    assert shown.visible[0].reshape(4, 4).all(0).tolist() == [True, True, False, False]
    assert known.visible.all(), "what was given stays as it was"
    with pytest.raises(MmtokError, match="keep: none of the 4 x 4 tokens of 'rgb' lies wholly in the known part"):
        show_region(known, GRID, [(0.1, 0.1, 0.4, 0.4), None, None])
    with pytest.raises(MmtokError, match="keep: 'sound' is not a picture"):
        show_region(known, LINE, [mask, None, None])


@pytest.mark.parametrize("box", [(0.0, 0.0, 0.5, 0.5), (0.25, 0.0, 1.0, 0.3), (1 / 3, 0.2, 2 / 3, 1.0)])
@pytest.mark.parametrize("shape", [(30, 30), (47, 90, 3), (200, 60, 3)])
def test_a_placed_picture_is_in_its_part_unchanged(box, shape):
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    placed = place(picture, box)
    field = placed.value
    assert placed.known == box
    side = len(field)
    assert field.shape == (side, side, *shape[2:])
    assert field.dtype == np.uint8
    left, top, right, bottom = (round(edge * side) for edge in box)
    part = field[top:bottom, left:right]
    height, width = part.shape[:2]
    offsets = (shape[0] - height) // 2, (shape[1] - width) // 2
    assert min(offsets) == 0, "as much of the picture as has the proportions of the part"
    np.testing.assert_array_equal(part, picture[offsets[0] :, offsets[1] :][:height, :width])
    np.testing.assert_array_equal(field[:top, left:right], np.broadcast_to(part[:1], field[:top, left:right].shape))


def test_known_pixels_are_pasted_back():
    made, given = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 9, np.uint8)
    pasted = paste(made, given, (0.0, 0.0, 0.55, 1.0))
    assert (pasted[:, :4] == 9).all()
    assert (pasted[:, 4:] == 0).all()
    mask = np.ones((4, 4), bool)
    mask[0, 0] = False
    assert paste(made[..., 0], given[..., 0], mask).sum() == 9 * 60


@pytest.mark.parametrize(
    ("box", "sentence"),
    [
        ((0.0, 0.0, 2.0, 1.0), "place: .* must be left,top,right,bottom"),
        ((0.5, 0.0, 0.5, 1.0), "place: .* must be left,top,right,bottom"),
        ((0.0, 0.0, 1.0, 1.0), "place: .* is the whole picture, so nothing is left to be made"),
    ],
)
def test_wrong_boxes(box, sentence):
    with pytest.raises(MmtokError, match=sentence):
        check_box(box, what="place")


def test_a_part_too_narrow_for_the_picture():
    with pytest.raises(MmtokError, match="place: a picture of 4 x 4 pixels is too small for the part"):
        place(np.zeros((4, 4), np.uint8), (0.0, 0.0, 0.001, 1.0))

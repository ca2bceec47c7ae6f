"""Galleries, reconstruction pictures and curves."""

import numpy as np
import pytest
from PIL import Image

from mmtok.show import curves, gallery, picture, reconstruction, sheet


def _tile(level: int) -> np.ndarray:
    return np.full((40, 40, 3), level, np.uint8)


def test_every_tile_lies_whole_in_its_cell():
    pixels = sheet([[_tile(1), _tile(2)], [_tile(3), None]], titles=["a", "b"], labels=["first", "second"], title="T")
    for level in (1, 2, 3):
        rows, columns = np.nonzero((pixels == level).all(-1))
        assert (np.ptp(rows), np.ptp(columns), len(rows)) == (39, 39, 1600)
    place = {level: np.argwhere((pixels == level).all(-1))[0] for level in (1, 2, 3)}
    assert place[1][0] == place[2][0] < place[3][0]
    assert place[1][1] == place[3][1] < place[2][1]


def test_groups_are_parted():
    row = [_tile(1), _tile(2), _tile(3)]
    plain = sheet([row], titles=["a", "b", "c"])
    parted = sheet([row], titles=["a", "b", "c"], groups=[("given", 1), ("made", 2)])
    assert parted.shape[1] > plain.shape[1]
    assert parted.shape[0] > plain.shape[0]


def test_written_as_png_and_large(tmp_path):
    rows = [[_tile(i + j) for i in range(12)] for j in range(30)]
    path = gallery(tmp_path / "deep" / "gallery.png", rows, titles=[f"modality {i}" for i in range(12)])
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > 12 * 40
    assert [item.name for item in path.parent.iterdir()] == ["gallery.png"]


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        ([[_tile(0)]], {"titles": ["a", "b"]}),
        ([[_tile(0), np.zeros((8, 8, 3), np.uint8)]], {"titles": ["a", "b"]}),
        ([[_tile(0)]], {"titles": ["a"], "labels": ["x", "y"]}),
        ([[_tile(0)]], {"titles": ["a"], "groups": [("g", 2)]}),
    ],
)
def test_what_does_not_fit_is_refused(rows, options):
    with pytest.raises(ValueError, match=r"tiles|tile|labels|columns"):
        sheet(rows, **options)


@pytest.mark.parametrize(
    ("show", "value"),
    [
        ("rgb", np.zeros((8, 8, 3), np.uint8)),
        ("depth", np.array([[1, np.inf], [3, 4]], np.float32)),
        ("normal", np.zeros((4, 4, 3), np.float32)),
        ("label", np.ones((4, 4), np.uint8)),
        ("feature", np.random.default_rng(0).normal(size=(4, 4, 5)).astype(np.float32)),
        ("text", "a red cube"),
        ("box", [{"label": "cube", "box": [0.1, 0.1, 0.5, 0.5]}]),
    ],
)
def test_reconstruction_of_every_kind(tmp_path, show, value):
    path = reconstruction(tmp_path / "r.png", [value, value], [value, None], show=show, title="t")
    with Image.open(path) as image:
        assert image.width > 200


def test_reconstruction_error_is_black_where_there_is_none(tmp_path):
    value = np.full((8, 8, 3), 99, np.uint8)
    same = np.array(Image.open(reconstruction(tmp_path / "a.png", [value], [value], show="rgb")))
    other = np.array(Image.open(reconstruction(tmp_path / "b.png", [value], [value // 2], show="rgb")))
    black = picture(np.zeros((8, 8)), "array", size=8)[0, 0]
    assert (np.abs(same.astype(int) - black).sum(-1) < 8).sum() > 144 * 144 - 1 > (other.sum(-1) < 8).sum()


def test_curves(tmp_path):
    series = {name: ([0, 10, 20], [3.0, 2.0, 1.0]) for name in "abcde"}
    with Image.open(curves(tmp_path / "c.png", series, references={"a": 2.5})) as image:
        assert image.format == "PNG"

"""What is known of a picture: a part of it by a box or a mask, or all of it as a part of a larger one.

A picture is its centre square here, which is all that tokenizers take.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from mmtok.errors import MmtokError
from mmtok.generate import Known
from mmtok.modality import Modality
from mmtok.show.images import read_rgb
from mmtok.source import Sample
from mmtok.tokenizers.preprocess import centre_square

Box = tuple[float, float, float, float]
"""Left, top, right, bottom as fractions of the picture."""

Mask = Bool[np.ndarray, "_ _"]
"""Pixels that are known, at any resolution."""

Region = Box | Mask
"""The known part of a picture."""

_PAINT = 128  # from this level on a pixel of a mask file is to be painted
_TOLERANCE = 1e-6  # of the edges of a box


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """A picture of which only a part is known; it stands in a sample in the place of the picture.

    Attributes:
      value: The whole picture, (H, W, ...).
      known: A box on its centre square, or a mask of the whole picture at any resolution, True where it is known.

    Raises:
      MmtokError: the box is outside of the picture, the mask has other proportions, or all is known or nothing.
    """

    value: np.ndarray
    known: Region

    def __post_init__(self) -> None:
        if isinstance(self.known, tuple):
            check_box(self.known, what="known part")
        else:
            _fit(self.known, self.value)

    @property
    def region(self) -> Region:
        """What is known of the centre square."""
        return self.known if isinstance(self.known, tuple) else _fit(self.known, self.value)


def whole(value: Any) -> Any:
    """Returns a raw value without what is said about it."""
    return value.value if isinstance(value, Part) else value


def keep_parts(samples: Sequence[Sample], keep: Mapping[str, Region]) -> list[Sample]:
    """Returns samples of whose pictures only parts are known.

    Args:
      samples: Raw values.
      keep: Raw field -> what is known of it in each sample that has it.

    Raises:
      MmtokError: no sample has a field, it is no picture, or see `Part`.
    """
    for field in keep:
        values = [sample[field] for sample in samples if field in sample]
        if not values:
            raise MmtokError(f"keep: the field '{field}' is not among the given ones")
        if not all(isinstance(value, np.ndarray) and value.ndim >= 2 for value in values):
            raise MmtokError(f"keep: '{field}' is not a picture; only a picture can be known in part")
    return [{**sample, **{f: Part(sample[f], keep[f]) for f in keep if f in sample}} for sample in samples]


def known_parts(sample: Sample) -> dict[str, Region]:
    """Returns what is known of those fields that are known in part."""
    return {field: value.region for field, value in sample.items() if isinstance(value, Part)}


def read_mask(path: Path) -> Mask:
    """Reads a mask as in-painting tools write it: black is known, white (128 of 255 and above) is to be painted.

    Transparent is white. The known part is returned.

    Raises:
      MmtokError: not a picture, damaged, coloured, or all of it is of one kind.
    """
    levels = read_rgb(path)
    if np.any(levels != levels[..., :1]):
        raise MmtokError(f"{path}: a mask is black (known) and white (to be painted), this picture has colours")
    known = levels[..., 0] < _PAINT
    if known.all() or not known.any():
        raise MmtokError(
            f"{path}: all of the mask is {'black, so nothing is' if known.all() else 'white, so all is'} to be painted;"
            " paint the part white that is to be made anew, and leave the rest black"
        )
    return known


def check_box(box: Box, *, what: str) -> None:
    """Checks a part of a picture.

    Args:
      box: The part.
      what: Begins the error message.

    Raises:
      MmtokError: its edges are not in order or outside of the picture, or it is all of the picture.
    """
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise MmtokError(
            f"{what}: {box} must be left,top,right,bottom with 0 <= left < right <= 1, 0 <= top < bottom <= 1"
        )
    if box == (0, 0, 1, 1):
        raise MmtokError(f"{what}: {box} is the whole picture, so nothing is left to be made; give a part of it")


def whole_cells(region: Region, shape: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Returns which cells of a grid over the picture lie wholly in a region.

    The cells may be tokens, or the pixels of a picture of another size.
    """
    height, width = shape
    if isinstance(region, tuple):
        left, top, right, bottom = region
        return _inside(top, bottom, height)[:, None] & _inside(left, right, width)
    # Number of unknown pixels above and to the left of each corner, so that four of them count those of a rectangle.
    unknown = np.pad(np.cumsum(np.cumsum(~region, axis=0), axis=1), ((1, 0), (1, 0)))
    first_row, last_row = _covered(region.shape[0], height)
    first_column, last_column = _covered(region.shape[1], width)

    def corner(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return unknown[rows[:, None], columns]

    inside = corner(last_row, last_column) - corner(first_row, last_column)
    return inside - corner(last_row, first_column) + corner(first_row, first_column) == 0


def show_region(known: Known, modality: Modality, regions: Any) -> Known:
    """Hides the tokens of a picture that do not lie wholly in the known part.

    Args:
      known: Tokens or patches of B samples.
      modality: Theirs.
      regions: For each sample the known part, or None where all is known.

    Raises:
      MmtokError: the modality is no picture, or no token lies wholly in a region.
    """
    if len(modality.shape) != 2 or modality.kind == "sequence":
        raise MmtokError(f"keep: '{modality.name}' is not a picture; only a picture can be known in part")
    height, width = modality.shape
    visible = known.visible.copy()
    for row, region in enumerate(regions):
        if region is not None:
            cells = whole_cells(region, (height, width))
            if not cells.any():
                raise MmtokError(
                    f"keep: none of the {height} x {width} tokens of '{modality.name}' lies wholly in the known part;"
                    " make it larger"
                )
            visible[row] &= cells.reshape(-1)
    return dataclasses.replace(known, visible=visible)


def place(value: np.ndarray, box: Box) -> Part:
    """Returns a square picture that holds `value` in one part, which is known, for out-painting.

    No pixel is resampled: the centre of `value` with the proportions of the part fills it. The rest repeats the
    pixels at its edge; nobody sees it, but networks that read the whole picture read it too.

    Args:
      value: (H, W, ...) of any dtype.
      box: The part, as `check_box` allows.

    Raises:
      MmtokError: the picture has too few pixels for so narrow a part.
    """
    left, top, right, bottom = box
    height, width = value.shape[:2]
    side = int(min(height / (bottom - top), width / (right - left)) + _TOLERANCE)
    x, y = round(left * side), round(top * side)
    columns = min(width, round(right * side) - x)
    rows = min(height, round(bottom * side) - y)
    if min(rows, columns) < 1:
        raise MmtokError(f"place: a picture of {width} x {height} pixels is too small for the part {box}")
    first_row, first_column = (height - rows) // 2, (width - columns) // 2
    part = value[first_row : first_row + rows, first_column : first_column + columns]
    around = ((y, side - y - rows), (x, side - x - columns), *((0, 0) for _ in value.shape[2:]))
    return Part(np.pad(part, around, mode="edge"), box)


def paste(made: np.ndarray, given: np.ndarray, region: Region) -> np.ndarray:
    """Returns the made picture with the given pixels where they are known.

    Args:
      made: (H, W, ...).
      given: The whole given picture in the same units and size.
      region: Its known part; a pixel is known if all of it is.
    """
    known = whole_cells(region, (made.shape[0], made.shape[1]))
    return np.where(known.reshape(*known.shape, *(1 for _ in made.shape[2:])), given, made)


def _inside(low: float, high: float, count: int) -> Bool[np.ndarray, " count"]:
    """Which of `count` equal parts of 0..1 lie between two edges."""
    edges = np.arange(count + 1) / count
    return (edges[:-1] >= low - _TOLERANCE) & (edges[1:] <= high + _TOLERANCE)


def _covered(pixels: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """First pixel of each cell along a side, and the one after its last; pixels that are cut count on both sides."""
    index = np.arange(cells)
    return index * pixels // cells, -(-(index + 1) * pixels // cells)


def _fit(mask: Mask, value: np.ndarray) -> Mask:
    """The part of a mask that lies on the centre square of its picture."""
    (height, width), (rows, columns) = value.shape[:2], mask.shape
    # A picture that was resized has sides rounded to whole pixels.
    if abs(columns - rows * width / height) > 1 and abs(rows - columns * height / width) > 1:
        raise MmtokError(
            f"a mask of {columns} x {rows} does not have the proportions of its picture, {width} x {height}"
        )
    square = centre_square(mask)
    if square.all() or not square.any():
        raise MmtokError(
            f"all of the mask is {'known' if square.all() else 'unknown'} in the centre square of the picture, which is"
            " all that is taken of it; leave some to be made anew and some known"
        )
    return square

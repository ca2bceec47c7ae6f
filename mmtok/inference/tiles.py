"""Pictures larger than the tokenizers take: overlapping windows, each a sample of its own, blended into one."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from mmtok.errors import MmtokError
from mmtok.inference.kinds import Kind, channels_last, is_defined, kind_of, like, undefined, unit

RELATIVE = ("depth", "relative_depth")
"""Ways to show (`Modality.show`) values whose scale and shift a model gets right only within one window."""

Part = tuple[slice, slice]
"""Rows and columns of a picture."""


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Square windows over a picture, evenly spread.

    Attributes:
      height: Of the picture in pixels.
      width: Of the picture.
      size: Side of a window in pixels.
      corners: Upper edge and left edge of each window, row by row; the last ones end where the picture ends.
    """

    height: int
    width: int
    size: int
    corners: tuple[tuple[int, int], ...]

    @classmethod
    def over(cls, height: int, width: int, *, size: int, overlap: int | float) -> "Tiling":
        """Returns the fewest windows that cover a picture.

        Args:
          height: Of the picture in pixels.
          width: Of the picture.
          size: Side of a window in pixels.
          overlap: Least share of a side that a window has in common with the next, at most 0.9.

        Raises:
          MmtokError: the overlap is not in 0..0.9, or the picture is smaller than a window.
        """
        check_overlap(overlap)
        if min(height, width) < size:
            raise MmtokError(
                f"tiles: the picture of {width} x {height} pixels is smaller than one window of {size} x {size}; leave"
                " tiles out"
            )
        rows, columns = (_starts(length, size=size, overlap=overlap) for length in (height, width))
        return cls(height, width, size, tuple(itertools.product(rows, columns)))

    def cut(self, picture: np.ndarray) -> list[np.ndarray]:
        """Returns the windows of (height, width, ...)."""
        return [picture[place] for place in self.places()]

    def resized(self, size: int) -> "Tiling":
        """Returns the same windows of a picture that has another size, such that a window has side `size`."""
        scale = size / self.size
        height, width = _round(self.height * scale), _round(self.width * scale)
        corners = ((_round(y * scale), _round(x * scale)) for y, x in self.corners)
        return Tiling(height, width, size, tuple(corners))

    def places(self) -> Iterator[Part]:
        """Yields where in the picture each window lies."""
        for y, x in self.corners:
            yield slice(y, y + self.size), slice(x, x + self.size)

    def overlaps(self) -> Iterator[tuple[int, int, Part, Part]]:
        """Yields the numbers of two windows that overlap, and the common part as seen from each."""
        for (i, (y, x)), (j, (v, u)) in itertools.combinations(enumerate(self.corners), 2):
            down, right = v - y, u - x
            if abs(down) < self.size and abs(right) < self.size:
                first = _from(down, self.size), _from(right, self.size)
                second = _from(-down, self.size), _from(-right, self.size)
                yield i, j, first, second


def check_overlap(overlap: int | float) -> None:
    """Raises MmtokError unless two windows can overlap so."""
    if not 0 <= overlap <= 0.9:
        raise MmtokError(f"tiles: the overlap of two windows is a share of their side, 0 to 0.9; it is {overlap}")


def blend(values: Sequence[Any], tiling: Tiling, show: str) -> np.ndarray:
    """Returns one picture of the values of its windows.

    Where windows overlap, numbers are averaged and classes voted on, with weights that fall smoothly to the edge of a
    window and sum to 1 in each pixel. Directions are normalised again. Depths are first brought to a common scale. A
    pixel that has no value in windows of more than half the weight has none.

    Args:
      values: Decoded values of the windows, (size, size, ...) each, of any one size.
      tiling: The windows, in pixels of what was given.
      show: `Modality.show`.

    Raises:
      MmtokError: values of this kind cannot be blended.
    """
    kind, example = check_blend(values[0], show), values[0]
    tiling = tiling.resized(len(example))
    if kind == "classes":
        return _vote(values, tiling)
    if show in RELATIVE:
        scale, shift = common_scale([channels_last(value)[..., 0] for value in values], tiling)
        values = [value.astype(np.float64) * a + b for value, a, b in zip(values, scale, shift, strict=True)]
    weight = _weight(tiling.size)
    total = np.zeros((tiling.height, tiling.width, channels_last(example).shape[-1]))
    covered, present = np.zeros((2, tiling.height, tiling.width))
    for value, place in zip(map(channels_last, values), tiling.places(), strict=True):
        defined = is_defined(value, kind)
        total[place] += np.where(defined[..., None], value, 0) * weight[..., None]
        present[place] += weight * defined
        covered[place] += weight
    mean = total / np.where(present > 0, present, 1)[..., None]
    mean = unit(mean) if kind == "directions" else mean
    enough = present >= 0.5 * covered
    return like(np.where(enough[..., None], mean, undefined(kind)), example)


def check_blend(value: Any, show: str) -> Kind:
    """Returns the kind of a value that belongs to a window.

    Raises:
      MmtokError: it cannot be blended with those of other windows.
    """
    kind = kind_of(value, show)
    if kind is None or value.ndim < 2 or value.shape[0] != value.shape[1]:
        raise MmtokError(f"tiles: what is shown as {show} belongs to a whole picture, windows of it cannot be blended")
    return kind


def common_scale(depths: Sequence[np.ndarray], tiling: Tiling) -> tuple[np.ndarray, np.ndarray]:
    """Finds for each window a scale and a shift with which all overlaps agree best.

    All are found at once by least squares over the pixels that are finite in both windows of an overlap, such that
    the mean scale is 1 and the mean shift 0. Windows without overlap stay as they are. Where the windows contradict
    each other so much that a scale would not be positive, all get a shift only.

    Args:
      depths: (size, size) of each window.
      tiling: The windows, in pixels of `depths`.

    Returns:
      Scale and shift of each window, (W,) float64.
    """
    count = len(depths)
    finite = np.concatenate([depth[np.isfinite(depth)] for depth in depths]).astype(np.float64)
    if not len(finite):
        return np.ones(count), np.zeros(count)
    centre, spread = finite.mean(), finite.std() or 1.0
    normal = _normal_equations([(depth.astype(np.float64) - centre) / spread for depth in depths], tiling)
    gradient = normal[:, :count].sum(1)  # at scale 1 and shift 0
    scale, shift = np.split(_step(normal, gradient, groups=2), 2)
    if scale.min() <= -1:
        scale, shift = np.zeros(count), _step(normal[count:, count:], gradient[count:], groups=1)
    return 1 + scale, spread * shift - centre * scale


def _normal_equations(depths: Sequence[np.ndarray], tiling: Tiling) -> Float[np.ndarray, "unknowns unknowns"]:
    """Those of all differences `scale * depth + shift` of overlapping windows, scales before shifts."""
    count = len(depths)
    normal = np.zeros((2 * count, 2 * count))
    for i, j, first, second in tiling.overlaps():
        here, there = depths[i][first], depths[j][second]
        both = np.isfinite(here) & np.isfinite(there)
        ones = np.ones(both.sum())
        rows = np.stack([here[both], -there[both], ones, -ones])
        index = [i, j, count + i, count + j]
        normal[np.ix_(index, index)] += rows @ rows.T
    return normal


def _step(normal: np.ndarray, gradient: np.ndarray, *, groups: int) -> np.ndarray:
    """The shortest least-squares step whose mean is 0 in each of some groups of unknowns (Lagrange multipliers)."""
    means = np.kron(np.eye(groups), np.ones(len(normal) // groups)) * np.sqrt(np.abs(normal).max() or 1)
    system = np.block([[normal, means.T], [means, np.zeros((groups, groups))]])
    return np.linalg.lstsq(system, np.concatenate([-gradient, np.zeros(groups)]), rcond=1e-12)[0][: len(normal)]


def _vote(values: Sequence[np.ndarray], tiling: Tiling) -> np.ndarray:
    """The class with the greatest weight in each pixel; of equals, the lowest."""
    picture = np.zeros((tiling.height, tiling.width), values[0].dtype)
    most, weight = np.zeros(picture.shape), _weight(tiling.size)
    for number in np.unique(np.concatenate([np.unique(value) for value in values])):
        votes = np.zeros(picture.shape)
        for value, place in zip(values, tiling.places(), strict=True):
            votes[place] += weight * (value == number)
        picture, most = np.where(votes > most, number, picture), np.maximum(votes, most)
    return picture


def _starts(length: int, *, size: int, overlap: int | float) -> list[int]:
    """Where windows begin along one side."""
    step = max(1, int(size * (1 - overlap)))
    count = -(-(length - size) // step) + 1
    return [_round(start) for start in np.linspace(0, length - size, count).tolist()]


def _weight(size: int) -> Float[np.ndarray, "size size"]:
    """A raised cosine along both sides, above 0 everywhere."""
    side = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
    return side[:, None] * side


def _from(start: int, size: int) -> slice:
    """What a window shares along one side with a window that begins `start` further on."""
    return slice(max(start, 0), size + min(start, 0))


def _round(number: float) -> int:
    """To the nearest integer, halves always up, so that distances of whole numbers are kept."""
    return math.floor(number + 0.5)

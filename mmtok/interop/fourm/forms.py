"""The forms in which 4M writes boxes, metadata, palettes, human poses and instances as text, and how to read them.

A text is made of words `v0=12` (axis 0, bin 12), class names and control words, joined by single spaces.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from mmtok.errors import unknown
from mmtok.tokenizers.sequences import ordered

BINS = 1000  # of each axis
LEAST_SCORE = 0.6  # boxes that a detector is less sure of are left out
COLOURS = 7  # greatest number in a palette
LEVELS = 256  # of each of a colour's parts
PIXELS = 224  # instances are given in pixels of a picture of this size
HALF = 512  # tokens from this one on are written on the axis v1

_NUMBER = re.compile(r"v([0-3])=(\d{1,3})")


def coordinate(axis: int, bin: int) -> str:
    """Returns the word of a bin."""
    return f"v{axis}={bin}"


def bin_of(word: str, *, axis: int | None = None) -> int | None:
    """Returns the bin that a word stands for; None if it is no such word, or of another axis."""
    match = _NUMBER.fullmatch(word)
    return int(match[2]) if match and axis in (None, int(match[1])) else None


# --- boxes ------------------------------------------------------------------------------------------------------


def write_boxes(value: Any) -> list[str]:
    """`v0=xmin v1=ymin v2=xmax v3=ymax class` of each box, those nearest the upper left corner first.

    Args:
      value: List of {"label", "box": xmin, ymin, xmax, ymax as fractions}, perhaps with a "score".
    """
    boxes = []
    for item in value:
        if not item["label"].strip():
            raise ValueError("a box without a class")
        box = [min(max(float(edge), 0.0), 1.0) for edge in item["box"]]
        if item.get("score", 1.0) >= LEAST_SCORE and box[0] < box[2] and box[1] < box[3]:
            boxes.append((box[0] ** 2 + box[1] ** 2, _corners(box, BINS - 1), item["label"]))
    return [f"{corners} {label}" for _, corners, label in sorted(boxes, key=lambda box: box[0])]


def read_boxes(text: str) -> list[dict[str, Any]]:
    """Returns the boxes that are whole; the words between the corners of two are the class of the first.

    The corners may be swapped.
    """
    return [{"label": " ".join(label), "box": box} for box, label in _framed(text.split()) if label]


def _corners(box: Sequence[int | float], scale: int) -> str:
    return " ".join(coordinate(axis, min(max(round(scale * edge), 0), scale)) for axis, edge in enumerate(box))


def _read_corners(words: Sequence[str], scale: int) -> list[float] | None:
    """The box between the two corners that words begin with; None if they do not."""
    bins = [bin_of(word, axis=axis) for axis, word in enumerate(words[:4])]
    found = [bin for bin in bins if bin is not None]
    return [min(bin / scale, 1.0) for bin in ordered(found)] if len(found) == 4 else None


def _framed(words: Sequence[str]) -> Iterable[tuple[list[float], list[str]]]:
    """Yields the box of each run v0 v1 v2 v3, and the words after it that are no bins."""
    start = 0
    while start < len(words):
        corners = _read_corners(words[start:], BINS - 1)
        if corners is None:
            start += 1
            continue
        start += 4
        end = start
        while end < len(words) and bin_of(words[end]) is None:
            end += 1
        yield corners, list(words[start:end])


# --- metadata ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Steps:
    """Whole numbers, written in steps of `size`."""

    size: int = 1

    @property
    def bins(self) -> int:
        """How many bins are written."""
        return BINS

    def write(self, value: float) -> int:
        """Returns the bin of a value."""
        return min(max(int(value) // self.size, 0), BINS - 1)

    def read(self, bin: int) -> float:
        """Returns the value of a bin."""
        return float(bin * self.size)


@dataclasses.dataclass(frozen=True)
class Classes:
    """Numbers of which only the interval matters; `edges` are its bounds, the outer ones included."""

    edges: tuple[float, ...]

    @property
    def bins(self) -> int:
        """How many bins are written."""
        return len(self.edges) - 1

    def write(self, value: float) -> int:
        """Returns the bin of a value; an edge belongs to the interval above it."""
        return sum(value >= edge for edge in self.edges[1:-1])

    def read(self, bin: int) -> float:
        """Returns the middle of an interval."""
        low, high = self.edges[min(bin, self.bins - 1) :][:2]
        return (low + high) / 2


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers between 0 and `high`, in 50 bins."""

    high: float
    bins: ClassVar[int] = 50

    def write(self, value: float) -> int:
        """Returns the bin of a value, rounded down."""
        share = min(max(value, 0.0), self.high) / self.high
        return math.floor((self.bins - 1) * share + 1e-9)  # a value that was read from a bin falls into it again

    def read(self, bin: int) -> float:
        """Returns the value of a bin (the original divides by 50, which it never wrote)."""
        return min(bin / (self.bins - 1), 1.0) * self.high


METADATA: Mapping[str, Steps | Classes | Range] = {
    "original_width": Steps(32),
    "original_height": Steps(32),
    "caption_n_chars": Steps(),
    "caption_n_words": Steps(),
    "caption_n_sentences": Steps(),
    "n_humans": Steps(),
    "n_sam_instances": Steps(),
    "n_coco_instances": Steps(),
    "coco_instance_diversity": Steps(),
    "colorfulness": Range(150.0),
    "brightness": Range(255.0),
    "contrast": Range(127.0),
    "saturation": Range(255.0),
    "entropy": Range(10.0),
    "walkability": Range(1.0),
    "objectness": Range(1.0),
    "semantic_diversity": Steps(),
    "geometric_complexity": Range(0.75),
    "occlusion_score": Range(0.25),
    "watermark_score": Classes((0.0, 0.5, 1.0)),
    "aesthetic_score": Classes((1.0, 4.5, 5.5, 10.0)),
}
"""Key -> how its value is written; the place in this table is the number of the key."""


def write_metadata(value: Any) -> list[str]:
    """`v1=key v0=value` of each key, in the order of the table."""
    for key in value:
        if key not in METADATA:
            raise unknown("metadata key", str(key), METADATA)
    return [
        f"{coordinate(1, number)} {coordinate(0, rule.write(float(value[key])))}"
        for number, (key, rule) in enumerate(METADATA.items())
        if key in value
    ]


def read_metadata(text: str) -> dict[str, float]:
    """Returns the values that follow a key that there is; the last one where a key comes twice."""
    words, rules, numbers = text.split(), list(METADATA.items()), {}
    for first, second in itertools.pairwise(words):
        number, bin = bin_of(first, axis=1), bin_of(second, axis=0)
        if number is not None and bin is not None and number < len(rules):
            key, rule = rules[number]
            numbers[key] = rule.read(bin)
    return numbers


# --- palettes ---------------------------------------------------------------------------------------------------


def write_palette(value: Any) -> list[str]:
    """`v1=n`, then `v0=red v0=green v0=blue` of each of n colours, uint8 (n, 3)."""
    colours = np.asarray(value)
    if colours.ndim != 2 or colours.shape[1] != 3 or not 1 <= len(colours) <= COLOURS:
        raise ValueError(f"1 to {COLOURS} colours, (n, 3)")
    if colours.min() < 0 or colours.max() >= LEVELS:
        raise ValueError(f"levels of 0 to {LEVELS - 1} instead of {colours.min()} to {colours.max()}")
    return [" ".join([coordinate(1, len(colours)), *(coordinate(0, int(level)) for level in colours.ravel())])]


def read_palette(text: str) -> np.ndarray:
    """Returns the whole colours, no more than announced."""
    words = text.split()
    announced = [bin for bin in (bin_of(word, axis=1) for word in words) if bin is not None]
    levels = [bin for bin in (bin_of(word, axis=0) for word in words) if bin is not None]
    count = min([len(levels) // 3, COLOURS, *announced[:1]])
    return np.clip(levels[: 3 * count], 0, LEVELS - 1).astype(np.uint8).reshape(count, 3)


# --- human poses ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Affine:
    """Numbers of a fixed count, written as `round(scale * x + offset)` within the bins."""

    count: int
    scale: float
    offset: float

    def write(self, values: Any) -> str:
        """Returns the words of the numbers."""
        numbers = np.asarray(values, np.float64).ravel()
        if len(numbers) != self.count:
            raise ValueError(f"{self.count} numbers instead of {len(numbers)}")
        bins = np.clip(np.rint(self.scale * numbers + self.offset), 0, BINS - 1)
        return " ".join(coordinate(0, int(bin)) for bin in bins)

    def read(self, words: Sequence[str]) -> list[float] | None:
        """Returns the numbers; None where some are missing."""
        bins = [bin_of(word, axis=0) for word in words[: self.count]]
        found = [(bin - self.offset) / self.scale for bin in bins if bin is not None]
        return found if len(found) == self.count else None


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Token ids below 1024 of a tokenizer of its own."""

    count: int

    def write(self, values: Any) -> str:
        """Returns the words of the ids."""
        ids = [int(value) for value in np.asarray(values).ravel()]
        if len(ids) != self.count or not all(0 <= id < 2 * HALF for id in ids):
            raise ValueError(f"{self.count} token ids below {2 * HALF} instead of {ids}")
        return " ".join(coordinate(id // HALF, id % HALF) for id in ids)

    def read(self, words: Sequence[str]) -> list[int] | None:
        """Returns the ids; None where some are missing."""
        ids = []
        for word in words[: self.count]:
            match = _NUMBER.fullmatch(word)
            if match and int(match[1]) < 2 and int(match[2]) < HALF:
                ids.append(HALF * int(match[1]) + int(match[2]))
        return ids if len(ids) == self.count else None


POSE = Tokens(8)
PERSON: Mapping[str, Affine | Tokens] = {
    "pose": POSE,
    "global": Affine(9, 499.5, 499.5),
    "camera": Affine(3, 49.95, 49.95),
    "shape": Affine(10, 166.5, 499.5),
}
"""Groups of words after a person's box: tokens of the body's pose; rotation matrix of the whole, row-major; camera; and
the body's shape."""


def write_poses(value: Any) -> list[str]:
    """`human`, its box and the groups of each person; `none` without any.

    Args:
      value: List of {"box": fractions, "pose": 8 ids, "global": 9 numbers, "camera": 3, "shape": 10}.
    """
    return [
        " ".join(
            [
                "human",
                _corners(person["box"], BINS - 1),
                *(f"{name} {g.write(person[name])}" for name, g in PERSON.items()),
            ]
        )
        for person in value
    ] or ["none"]


def read_poses(text: str) -> list[dict[str, Any]]:
    """Returns the persons that have a box, each with those groups that are whole."""
    persons = []
    for words in _after(text.split(), "human"):
        box = _read_corners(words, BINS - 1)
        if box is not None:
            groups = {
                name: group.read(words[words.index(name) + 1 :]) for name, group in PERSON.items() if name in words
            }
            persons.append({"box": box, **{name: found for name, found in groups.items() if found is not None}})
    return persons


def _after(words: Sequence[str], mark: str) -> Iterable[list[str]]:
    """Yields the words after each `mark`, up to the next one."""
    starts = [index for index, word in enumerate(words) if word == mark]
    for start, end in zip(starts, [*starts[1:], len(words)]):
        yield list(words[start + 1 : end])


# --- instances --------------------------------------------------------------------------------------------------

MASK = Tokens(16)


def write_instances(value: Any) -> list[str]:
    """`point`, its y and x, then `polygon`, box and mask of each instance there, or `none`.

    Args:
      value: List of {"point": x, y, "instances": [{"box": xmin, ymin, xmax, ymax, "mask": 16 ids}]}, in fractions.
    """
    chunks = []
    for item in value:
        x, y = (min(max(round(PIXELS * float(number)), 0), PIXELS) for number in item["point"])
        found = [f"polygon {_corners(one['box'], PIXELS)} {MASK.write(one['mask'])}" for one in item["instances"]]
        first, *others = found or ["none"]
        chunks += [f"point {coordinate(0, y)} {coordinate(1, x)} {first}", *others]
    return chunks


def read_instances(text: str) -> list[dict[str, Any]]:
    """Returns the points that are whole, each with those of its instances that are."""
    points = []
    for words in _after(text.split(), "point"):
        y, x = (bin_of(word, axis=axis) for axis, word in enumerate([*words[:2], "", ""][:2]))
        if x is None or y is None:
            continue
        instances = []
        for part in _after(words, "polygon"):
            box, mask = _read_corners(part, PIXELS), MASK.read(part[4:])
            if box is not None and mask is not None:
                instances.append({"box": box, "mask": mask})
        points.append({"point": [min(x / PIXELS, 1.0), min(y / PIXELS, 1.0)], "instances": instances})
    return points


# --- all -----------------------------------------------------------------------------------------------------

Form = Literal["boxes", "metadata", "palette", "poses", "instances"]

FORMS: Mapping[str, tuple[Callable[[Any], list[str]], Callable[[str], Any]]] = {
    "boxes": (write_boxes, read_boxes),
    "metadata": (write_metadata, read_metadata),
    "palette": (write_palette, read_palette),
    "poses": (write_poses, read_poses),
    "instances": (write_instances, read_instances),
}
"""Form -> how a raw value is written, in chunks, and read."""

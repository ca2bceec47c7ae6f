"""Sequences of numbers and names: boxes, palettes and key-value metadata over one special vocabulary, as in 4M."""

import dataclasses
import functools
import itertools
import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError, unknown
from mmtok.grammar import Grammar
from mmtok.modality import Modality
from mmtok.tokenizers import coordinate_grammars as grammars
from mmtok.tokenizers.artifact import Fitted, Tokenizer
from mmtok.tokenizers.sequences import AXES, Coordinates, ids_of, ordered, pack

_SLACK = 1e-3  # by which a box may leave the picture through rounding


class CoordinateTokenizer(Tokenizer):
    """Base of the three: a family says how one raw value is written as ids and read from them."""

    unit_axis: ClassVar[int | None] = None
    """Axis whose bins open a masking unit; None: each token is its own unit."""

    @functools.cached_property
    def coordinates(self) -> Coordinates:
        """The vocabulary."""
        raise NotImplementedError

    @property
    def length(self) -> int:
        """Longest number of tokens, the end included."""
        raise NotImplementedError

    def write(self, value: Any, *, what: str) -> list[int]:
        """Returns the ids of one value, without the end; `what` begins the error message."""
        raise NotImplementedError

    def read(self, ids: Sequence[int]) -> Any:
        """Returns the value that ids stand for; parts that make no sense are skipped."""
        raise NotImplementedError

    @functools.cached_property
    def modality(self) -> Modality:
        """A sequence over the special vocabulary."""
        return Modality(
            name=self.name,
            kind="sequence",
            shape=(self.length,),
            vocabulary=self.coordinates.vocabulary(unit_axis=self.unit_axis),
            source=self.source,
            show=self.config.show,
            fingerprint=self.fingerprint,
        )

    def encode(self, values: Sequence[Any]) -> TokenColumn:
        """Encodes raw values (see `mmtok.codec.Codec`)."""
        self.require_complete()
        what = f"modality '{self.name}', sample {{}} of the batch"
        sequences = [
            None if value is None else self.write(value, what=what.format(row)) for row, value in enumerate(values)
        ]
        return pack(sequences, modality=self.modality)

    def decode(self, column: TokenColumn) -> list[Any]:
        """Decodes tokens to raw values (see `mmtok.codec.Codec`)."""
        self.require_complete()
        return [None if ids is None else self.read(ids) for ids in ids_of(column, modality=self.modality)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoxConfig:
    """A box tokenizer.

    Attributes:
      boxes: Greatest number of boxes; further ones are left out, so give the important ones first.
      bins: Steps from 0 to 1 of a coordinate.
      labels: Class names; empty takes those that occur in the data.
      sentinels: Number of sentinels.
      show: How `mmtok.show` draws it.
    """

    family: ClassVar[str] = "boxes"

    boxes: int
    bins: int = 64
    labels: tuple[str, ...] = ()
    sentinels: int = 64
    show: str = "box"


class BoxTokenizer(CoordinateTokenizer, Fitted):
    """Tokenizes boxes with a class: v0 = xmin, v1 = ymin, v2 = xmax, v3 = ymax, class; box after box.

    A raw value is a list of {"label", "box"} or a mapping of arrays {"label": (n,), "box": (n, 4)}, with coordinates
    as shares of width and height; it decodes to the list.
    """

    Config = BoxConfig
    config: BoxConfig

    @functools.cached_property
    def coordinates(self) -> Coordinates:
        """Bins, then labels."""
        labels = tuple(json.loads(self.files["labels.json"])) if self.files else self.config.labels
        return Coordinates(bins=self.config.bins, sentinels=self.config.sentinels, names=labels)

    @functools.cached_property
    def grammar(self) -> Grammar:
        """Whole boxes."""
        return grammars.boxes(self.coordinates)

    @property
    def length(self) -> int:
        """Five tokens per box and the end."""
        return 5 * self.config.boxes + 1

    def expected_files(self) -> tuple[str, ...]:
        """Returns the list of labels."""
        return ("labels.json",)

    def fit(self, values: Iterable[Any]) -> "BoxTokenizer":
        """Returns the tokenizer with the labels of the config, or else those of the data."""
        labels = self.config.labels
        if not labels:
            found = {label for row, value in enumerate(values) for label, _ in _boxes(value, f"sample {row}")}
            labels = tuple(sorted(found))
        if not labels:
            raise MmtokError(f"tokenizer '{self.name}': no box to fit to; give `labels` in its config")
        return dataclasses.replace(self, files={"labels.json": _to_bytes(labels)})

    def write(self, value: Any, *, what: str) -> list[int]:
        """Returns five ids per box."""
        ids, boxes = [], _boxes(value, what)
        if len(boxes) > self.config.boxes:
            warnings.warn(
                f"modality '{self.name}': only the first {self.config.boxes} boxes of a sample are kept; raise `boxes`",
                stacklevel=3,
            )
        for label, box in boxes[: self.config.boxes]:
            if label not in self.coordinates.names:
                raise MmtokError(f"{what}: {unknown('box label', label, self.coordinates.names)}")
            inside = all(-_SLACK <= number <= 1 + _SLACK for number in box)
            if not inside or box[0] > box[2] or box[1] > box[3]:
                found = [round(number, 4) for number in box]
                raise MmtokError(f"{what}: expected a box xmin, ymin, xmax, ymax ordered within 0 .. 1, found {found}")
            ids += [self.coordinates.at(axis, _to_bin(number, self.config.bins)) for axis, number in enumerate(box)]
            ids.append(self.coordinates.named(label))
        return ids

    def read(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """Returns the boxes whose five ids are whole and in order; their corners may be swapped."""
        places, boxes, start = [self.coordinates.place(id) for id in ids], [], 0
        while start + 5 <= len(places):
            five = places[start : start + 5]
            if [place and place[0] for place in five] != list(range(AXES + 1)):
                start += 1
                continue
            *corners, name = [place[1] for place in five if place]
            start += 5
            box = [corner / (self.config.bins - 1) for corner in ordered(corners)]
            boxes.append({"label": self.coordinates.names[name], "box": box})
        return boxes


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaletteConfig:
    """A colour palette tokenizer.

    Attributes:
      colours: Greatest number of colours.
      bins: Steps from 0 to 255 of an intensity; more than `colours`.
      sentinels: Number of sentinels.
      show: How `mmtok.show` draws it.
    """

    family: ClassVar[str] = "palette"

    colours: int = 5
    bins: int = 256
    sentinels: int = 64
    show: str = "palette"

    def __post_init__(self) -> None:
        if self.bins <= self.colours:
            raise MmtokError(f"palette tokenizer: {self.bins} bins cannot count {self.colours} colours; raise `bins`")


class PaletteTokenizer(CoordinateTokenizer):
    """Tokenizes palettes, uint8 (n, 3): v1 = n, then v0 = red, v0 = green, v0 = blue of each colour."""

    Config = PaletteConfig
    config: PaletteConfig

    @functools.cached_property
    def coordinates(self) -> Coordinates:
        """Bins only."""
        return Coordinates(bins=self.config.bins, sentinels=self.config.sentinels)

    @functools.cached_property
    def grammar(self) -> Grammar:
        """As many colours as announced."""
        return grammars.palette(self.coordinates, colours=self.config.colours)

    @property
    def length(self) -> int:
        """The number of colours, three tokens per colour and the end."""
        return 3 * self.config.colours + 2

    def write(self, value: Any, *, what: str) -> list[int]:
        """Returns the number of colours and their intensities."""
        colours = np.asarray(value)
        if colours.ndim != 2 or colours.shape[1] != 3 or colours.dtype.kind not in "iu":
            raise MmtokError(f"{what}: expected colours, uint8 (n, 3), found {colours.dtype} {colours.shape}")
        if len(colours) > self.config.colours:
            raise MmtokError(f"{what}: expected at most {self.config.colours} colours, found {len(colours)}")
        levels = (_to_bin(intensity / 255, self.config.bins) for intensity in colours.ravel())
        return [self.coordinates.at(1, len(colours)), *(self.coordinates.at(0, level) for level in levels)]

    def read(self, ids: Sequence[int]) -> np.ndarray:
        """Returns the whole colours; no more than announced."""
        places = [self.coordinates.place(id) for id in ids]
        levels = [place[1] for place in places if place and place[0] == 0]
        announced = [place[1] for place in places if place and place[0] == 1]
        count = min([len(levels) // 3, self.config.colours, *announced[:1]])
        intensities = np.rint(np.array(levels[: 3 * count]) * 255 / (self.config.bins - 1))
        return intensities.astype(np.uint8).reshape(count, 3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetadataConfig:
    """A metadata tokenizer.

    Attributes:
      ranges: Least and greatest value by key; empty takes keys and ranges from the data. Values beyond are stored as
        the nearest end.
      bins: Steps of a range; at least the number of keys.
      sentinels: Number of sentinels.
      show: How `mmtok.show` draws it.
    """

    family: ClassVar[str] = "metadata"

    ranges: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    bins: int = 50
    sentinels: int = 64
    show: str = "values"


class MetadataTokenizer(CoordinateTokenizer, Fitted):
    """Tokenizes mappings of numbers: for each key, in a fixed order, v1 = key and v0 = value.

    A key opens a masking unit, so that a pair is masked as a whole.
    """

    Config = MetadataConfig
    config: MetadataConfig
    unit_axis = 1

    @functools.cached_property
    def coordinates(self) -> Coordinates:
        """Bins only."""
        return Coordinates(bins=self.config.bins, sentinels=self.config.sentinels)

    @functools.cached_property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Least and greatest value by key, in the order of the keys' ids."""
        fitted = json.loads(self.files["ranges.json"]) if self.files else self.config.ranges
        return {key: (float(low), float(high)) for key, (low, high) in fitted.items()}

    @functools.cached_property
    def grammar(self) -> Grammar:
        """Keys in their order, each at most once and with a value."""
        return grammars.metadata(self.coordinates, keys=len(self.ranges))

    @property
    def length(self) -> int:
        """Two tokens per key and the end."""
        return 2 * len(self.ranges) + 1

    def expected_files(self) -> tuple[str, ...]:
        """Returns the table of ranges."""
        return ("ranges.json",)

    def fit(self, values: Iterable[Any]) -> "MetadataTokenizer":
        """Returns the tokenizer with the ranges of the config, or else those of the data."""
        ranges = dict(self.config.ranges) or _measured(values, bins=self.config.bins, name=self.name)
        if len(ranges) > self.config.bins:
            raise MmtokError(f"tokenizer '{self.name}': {len(ranges)} keys need as many bins, found {self.config.bins}")
        return dataclasses.replace(self, files={"ranges.json": _to_bytes(ranges)})

    def write(self, value: Any, *, what: str) -> list[int]:
        """Returns two ids per key."""
        numbers = _numbers(value, what)
        for key in numbers:
            if key not in self.ranges:
                raise MmtokError(f"{what}: {unknown('metadata key', key, self.ranges)}")
        ids = []
        for index, (key, (low, high)) in enumerate(self.ranges.items()):
            if key in numbers:
                share = (numbers[key] - low) / (high - low) if high > low else 0.0
                ids += [self.coordinates.at(1, index), self.coordinates.at(0, _to_bin(share, self.config.bins))]
        return ids

    def read(self, ids: Sequence[int]) -> dict[str, float]:
        """Returns the numbers whose key is followed by a value; the last one where a key comes twice."""
        places, numbers, keys = [self.coordinates.place(id) for id in ids], {}, list(self.ranges)
        for key, value in itertools.pairwise(places):
            if key and value and key[0] == 1 and value[0] == 0 and key[1] < len(keys):
                low, high = self.ranges[keys[key[1]]]
                numbers[keys[key[1]]] = low + (high - low) * value[1] / (self.config.bins - 1)
        return numbers


def _boxes(value: Any, what: str) -> list[tuple[str, list[float]]]:
    """Label and corners of each box of a raw value in either form."""
    try:
        if value is None:
            pairs = []
        elif isinstance(value, Mapping):
            pairs = list(zip(value["label"], value["box"], strict=True))
        else:
            pairs = [(item["label"], item["box"]) for item in value]
        boxes = [(str(label), [float(number) for number in box]) for label, box in pairs]
    except (TypeError, KeyError, ValueError):
        wanted = 'a list of {"label": text, "box": four numbers}'
        raise MmtokError(f"{what}: expected {wanted}, found {_shortly(value)}") from None
    for label, box in boxes:
        if len(box) != 4 or not all(map(math.isfinite, box)):
            raise MmtokError(f"{what}: expected four finite numbers for the box of '{label}', found {_shortly(box)}")
    return boxes


def _numbers(value: Any, what: str) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise MmtokError(f"{what}: expected a mapping of numbers, found {_shortly(value)}")
    numbers = {}
    for key, item in value.items():
        try:
            numbers[str(key)] = float(item)
        except (TypeError, ValueError):
            raise MmtokError(f"{what}: expected a number for '{key}', found {_shortly(item)}") from None
        if not math.isfinite(numbers[str(key)]):
            raise MmtokError(f"{what}: expected a finite number for '{key}', found {_shortly(item)}")
    return numbers


def _measured(values: Iterable[Any], *, bins: int, name: str) -> dict[str, tuple[float, float]]:
    """Least and greatest value of each key, in order of first appearance."""
    found: dict[str, list[float]] = {}
    for row, value in enumerate(values):
        for key, number in _numbers(value or {}, f"modality '{name}', sample {row}").items():
            found.setdefault(key, []).append(number)
    if not found:
        raise MmtokError(f"tokenizer '{name}': no metadata to fit to; give `ranges` in its config")
    return {key: _range(numbers, bins) for key, numbers in found.items()}


def _range(numbers: Sequence[float], bins: int) -> tuple[float, float]:
    low, high = min(numbers), max(numbers)
    if high - low < bins and all(number.is_integer() for number in numbers):
        return low, low + bins - 1  # one bin per count, so that counts stay exact
    return low, high


def _to_bin(share: float, bins: int) -> int:
    return round(min(max(share, 0.0), 1.0) * (bins - 1))


def _to_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _shortly(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

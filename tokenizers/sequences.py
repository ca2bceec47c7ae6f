"""What all tokenizers of sequences share: packing, and the special vocabulary of 4M.

Ids: PAD, UNK, SOS, EOS, sentinels, then (coordinates only) the bins of v0, v1, v2 and v3, then names.
"""

import dataclasses
import warnings
from collections.abc import Iterable, Sequence

import numpy as np

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.modality import Modality, Vocabulary

PAD, UNKNOWN, END, SENTINEL = 0, 1, 3, 4

AXES = 4  # v0 .. v3


def pack(sequences: Sequence[Sequence[int] | None], *, modality: Modality) -> TokenColumn:
    """Returns the sequences with their end appended and padded to the length of the modality; None has length 0."""
    values = np.full((len(sequences), modality.size, 1), PAD, np.int32)
    length = np.zeros(len(sequences), np.int32)
    for row, ids in enumerate(sequences):
        if ids is not None:
            length[row] = len(ids) + 1
            values[row, : length[row], 0] = [*ids, END]
    return TokenColumn(values, length)


def pack_text(
    texts: Iterable[Iterable[Sequence[int]] | None], *, modality: Modality, whole_chunks: bool = False
) -> TokenColumn:
    """Packs texts, given as chunks of ids, truncated to the length of the modality; warns once if any is.

    Args:
      texts: Chunks of each text; None is absent.
      modality: What they are tokens of.
      whole_chunks: Leaves out the first chunk that does not fit, instead of cutting it, as all after it.
    """
    limit, truncated = modality.size - 1, False
    sequences: list[list[int] | None] = []
    for chunks in texts:
        ids: list[int] = []
        for chunk in chunks or ():
            if len(ids) + len(chunk) > limit:
                truncated = True
                ids += () if whole_chunks else chunk[: limit - len(ids)]
                break
            ids += chunk
        sequences.append(None if chunks is None else ids)
    if truncated:
        warnings.warn(
            f"modality '{modality.name}': a text of more than {limit} tokens is truncated; raise its `length`",
            stacklevel=3,
        )
    return pack(sequences, modality=modality)


def ids_of(column: TokenColumn, *, modality: Modality) -> list[list[int] | None]:
    """Returns the ids before the end of each sequence; None where the length is 0.

    Raises:
      MmtokError: the column is not (B, L, 1).
    """
    if column.values.ndim != 3 or column.values.shape[2] != 1:
        found = tuple(column.values.shape)
        raise MmtokError(f"modality '{modality.name}': expected tokens of shape (samples, length, 1), found {found}")
    rows: list[list[int] | None] = []
    for values, length in zip(column.values[..., 0], column.length, strict=True):
        ids = [int(id) for id in values[:length] if id < modality.vocab_size]
        rows.append((ids[: ids.index(END)] if END in ids else ids) if length else None)
    return rows


def ordered(corners: Sequence[int]) -> list[int]:
    """Returns xmin, ymin, xmax, ymax of the box between two opposite corners x, y, x, y."""
    x, y, other_x, other_y = corners
    return [min(x, other_x), min(y, other_y), max(x, other_x), max(y, other_y)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coordinates:
    """The special vocabulary: where the ids of bins and names lie.

    Attributes:
      bins: Bins of each of v0 .. v3.
      sentinels: Number of sentinels.
      names: Words with an id of their own.
    """

    bins: int
    sentinels: int
    names: tuple[str, ...] = ()

    @property
    def first(self) -> int:
        """Id of the first bin of v0."""
        return SENTINEL + self.sentinels

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.first + AXES * self.bins + len(self.names)

    def vocabulary(self, *, unit_axis: int | None = None) -> Vocabulary:
        """Returns the vocabulary; a bin of `unit_axis`, if given, opens a new masking unit."""
        unit = {} if unit_axis is None else {"unit_first": self.at(unit_axis, 0), "unit_count": self.bins}
        return Vocabulary(size=self.size, sentinel_count=self.sentinels, **unit)

    def at(self, axis: int, bin: int) -> int:
        """Returns the id of a bin of v`axis`."""
        return self.first + axis * self.bins + bin

    def axis(self, axis: int) -> range:
        """Returns the ids of the bins of v`axis`, or of the names after the last axis."""
        first = self.at(axis, 0)
        return range(first, first + self.bins if axis < AXES else self.size)

    def named(self, name: str) -> int:
        """Returns the id of a name."""
        return self.at(AXES, self.names.index(name))

    def place(self, id: int) -> tuple[int, int] | None:
        """Returns axis and bin of an id, (AXES, index) for a name, None for a special one."""
        if not self.first <= id < self.size:
            return None
        axis, bin = divmod(id - self.first, self.bins)
        return (axis, bin) if axis < AXES else (AXES, id - self.first - AXES * self.bins)

"""Vectors of a fixed number of scalars: one token per entry."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.modality import Modality, Vocabulary
from mmtok.tokenizers.artifact import Fitted
from mmtok.tokenizers.neural import check_ids
from mmtok.tokenizers.preprocess import vectors


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalarConfig:
    """A tokenizer of scalars.

    Attributes:
      length: Entries of the vector.
      bins: Bins of each entry.
      spacing: `quantile`: as many training values in each bin. `linear`: equal widths.
      show: How `mmtok.show` draws it.
    """

    family: ClassVar[str] = "scalars"

    length: int
    bins: int = 64
    spacing: Literal["quantile", "linear"] = "quantile"
    show: str = "values"

    def __post_init__(self) -> None:
        if self.length < 1 or self.bins < 2:
            raise MmtokError(
                f"scalar tokenizer: length {self.length} must be at least 1 and bins {self.bins} at least 2"
            )


class ScalarTokenizer(Fitted):
    """Tokenizes float vectors (length,); a token decodes to the mean of the training values in its bin."""

    Config = ScalarConfig
    config: ScalarConfig

    @functools.cached_property
    def modality(self) -> Modality:
        """A 1-D grid; positions are learned, for neighbouring entries have nothing in common."""
        return Modality(
            name=self.name,
            kind="grid",
            shape=(self.config.length,),
            vocabulary=Vocabulary(size=self.config.bins),
            learned_positions=True,
            source=self.source,
            show=self.config.show,
            fingerprint=self.fingerprint,
        )

    def expected(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Returns shape and dtype of the tables."""
        length, bins, single = self.config.length, self.config.bins, np.dtype(np.float32)
        return {"edges": ((length, bins - 1), single), "centres": ((length, bins), single)}

    def fit(self, values: Iterable[Any]) -> "ScalarTokenizer":
        """Returns the tokenizer with edges and centres of the bins."""
        rows = vectors([value for value in values if value is not None], length=self.config.length, name=self.name)
        if not len(rows):
            raise MmtokError(f"tokenizer '{self.name}': no values to fit to")
        tables = [_bins(entry, self.config.bins, self.config.spacing) for entry in rows.T]
        edges, centres = (np.stack(table) for table in zip(*tables, strict=True))
        return dataclasses.replace(self, arrays={"edges": edges, "centres": centres})

    def encode(self, values: Sequence[Any]) -> TokenColumn:
        """Encodes vectors (see `mmtok.codec.Codec`)."""
        self.require_complete()
        rows, edges = vectors(values, length=self.config.length, name=self.name), self.arrays["edges"]
        ids = [np.searchsorted(line, entry, side="right") for line, entry in zip(edges, rows.T, strict=True)]
        length = np.array([0 if value is None else self.config.length for value in values], np.int32)
        ids = np.stack(ids, axis=1).astype(np.int32)
        return TokenColumn(np.where(length[:, None] > 0, ids, 0)[..., None], length)

    def decode(self, column: TokenColumn) -> list[Any]:
        """Decodes tokens to float32 vectors (see `mmtok.codec.Codec`)."""
        self.require_complete()
        ids = check_ids(column, size=self.config.length, codes=1, name=self.name)[..., 0]
        rows = self.arrays["centres"][np.arange(self.config.length), np.clip(ids, 0, self.config.bins - 1)]
        return [row if length else None for row, length in zip(rows, column.length, strict=True)]


def _bins(values: np.ndarray, bins: int, spacing: str) -> tuple[np.ndarray, np.ndarray]:
    """Inner edges, (bins - 1,), and centres, (bins,)."""
    values = values.astype(np.float64)
    low, high = values.min(), values.max()
    if spacing == "quantile":
        bounds = np.quantile(values, np.linspace(0, 1, bins + 1))
    else:
        bounds = np.linspace(low, high, bins + 1)
    edges = bounds[1:-1].astype(np.float32)
    index = np.searchsorted(edges, values.astype(np.float32), side="right")
    counts = np.bincount(index, minlength=bins)
    sums = np.bincount(index, weights=values, minlength=bins)
    middles = (bounds[:-1] + bounds[1:]) / 2  # of bins without a value
    return edges, np.where(counts > 0, sums / np.maximum(counts, 1), middles).astype(np.float32)

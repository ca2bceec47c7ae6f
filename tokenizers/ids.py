"""Tokens as they are: for modalities whose tokens come from elsewhere, and that nothing here can decode."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.modality import Modality, Vocabulary
from mmtok.tokenizers.artifact import Tokenizer
from mmtok.tokenizers.neural import check_ids
from mmtok.tokenizers.sequences import ids_of, pack


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdConfig:
    """Tokens of a modality.

    Attributes:
      kind: `grid` or `sequence`.
      shape: Of the grid; for a sequence `(longest number of tokens, end included,)`.
      vocabulary: The ids.
      learned_positions: Whether the model learns an embedding for each position.
      show: How `mmtok.show` draws the ids.
    """

    family: ClassVar[str] = "ids"

    kind: Literal["grid", "sequence"]
    shape: tuple[int, ...]
    vocabulary: Vocabulary
    learned_positions: bool = False
    show: str = "array"


class IdTokenizer(Tokenizer):
    """Takes and gives integer arrays: of the grid's shape, or (n,) ids of a sequence without its end."""

    Config = IdConfig
    config: IdConfig

    @functools.cached_property
    def modality(self) -> Modality:
        """A grid or a sequence, one code per position."""
        return Modality(
            name=self.name,
            kind=self.config.kind,
            shape=self.config.shape,
            vocabulary=self.config.vocabulary,
            learned_positions=self.config.learned_positions,
            source=self.source,
            show=self.config.show,
            fingerprint=self.fingerprint,
        )

    def encode(self, values: Sequence[Any]) -> TokenColumn:
        """Encodes arrays of ids (see `mmtok.codec.Codec`)."""
        rows = [None if value is None else self._checked(value, row) for row, value in enumerate(values)]
        if self.config.kind == "sequence":
            return pack([None if ids is None else ids.tolist() for ids in rows], modality=self.modality)
        empty = np.zeros(self.modality.size, np.int32)
        length = np.array([0 if ids is None else self.modality.size for ids in rows], np.int32)
        return TokenColumn(np.stack([empty if ids is None else ids for ids in rows])[..., None], length)

    def decode(self, column: TokenColumn) -> list[Any]:
        """Decodes to int32 arrays of ids (see `mmtok.codec.Codec`)."""
        if self.config.kind == "sequence":
            rows = ids_of(column, modality=self.modality)
            return [None if ids is None else np.array(ids, np.int32) for ids in rows]
        grids = check_ids(column, size=self.modality.size, codes=1, name=self.name)[..., 0].astype(np.int32)
        return [ids.reshape(self.config.shape) if length else None for ids, length in zip(grids, column.length)]

    def _checked(self, value: Any, row: int) -> np.ndarray:
        """The ids of one sample, flat."""
        ids, size = np.asarray(value), self.modality.vocab_size
        fits = ids.shape in (self.config.shape, (math.prod(self.config.shape),))
        if self.config.kind == "sequence":
            fits = ids.ndim == 1 and len(ids) < self.modality.size
        if not fits or ids.dtype.kind not in "iu" or (ids.size and not 0 <= ids.min() <= ids.max() < size):
            wanted = (
                " x ".join(map(str, self.config.shape)) if self.config.kind == "grid" else f"< {self.modality.size}"
            )
            raise MmtokError(
                f"modality '{self.name}', sample {row} of the batch: expected {wanted} token ids below {size}, found"
                f" {ids.dtype} of shape {ids.shape}"
            )
        return ids.reshape(-1).astype(np.int32)

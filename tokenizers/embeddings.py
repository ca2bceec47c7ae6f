"""Sequences of vectors as they are, such as a text encoder's outputs: encoder input only."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.modality import Modality
from mmtok.tokenizers.artifact import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """A sequence of vectors.

    Attributes:
      length: Longest number of vectors; further ones are left out.
      channels: Length of a vector.
      bias: Whether the model's projection of the vectors has a bias.
      show: How `mmtok.show` draws it.
    """

    family: ClassVar[str] = "embeddings"

    length: int
    channels: int
    bias: bool = True
    show: str = "array"


class EmbeddingTokenizer(Tokenizer):
    """Takes float arrays (n, channels), n at least 1."""

    Config = EmbeddingConfig
    config: EmbeddingConfig

    @functools.cached_property
    def modality(self) -> Modality:
        """A variable number of vectors."""
        return Modality(
            name=self.name,
            kind="continuous",
            shape=(self.config.length,),
            channels=self.config.channels,
            bias=self.config.bias,
            variable=True,
            source=self.source,
            show=self.config.show,
            fingerprint=self.fingerprint,
        )

    def encode(self, values: Sequence[Any]) -> TokenColumn:
        """Encodes float arrays (see `mmtok.codec.Codec`)."""
        vectors = np.zeros((len(values), self.config.length, self.config.channels), np.float32)
        length = np.zeros(len(values), np.int32)
        for row, value in enumerate(values):
            if value is None:
                continue
            array = np.asarray(value)
            what = f"modality '{self.name}', sample {row} of the batch: expected numbers (n, {self.config.channels})"
            if array.ndim != 2 or array.shape[1] != self.config.channels or not len(array) or array.dtype.kind != "f":
                raise MmtokError(f"{what}, found {array.dtype} of shape {array.shape}")
            if not np.isfinite(array).all():
                raise MmtokError(f"{what}, found {array[~np.isfinite(array)][0]}")
            length[row] = min(len(array), self.config.length)
            vectors[row, : length[row]] = array[: length[row]]
        return TokenColumn(vectors, length)

    def decode(self, column: TokenColumn) -> list[Any]:
        """Gives the vectors back (see `mmtok.codec.Codec`)."""
        return [
            values[:length] if length else None for values, length in zip(column.values, column.length, strict=True)
        ]

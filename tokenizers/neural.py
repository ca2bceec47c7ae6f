"""Tokenizers whose network does the work: batching, compilation, and checks of tokens."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.tokenizers.artifact import Learned
from mmtok.tokenizers.flops import flops


class NeuralTokenizer(Learned):
    """A grid tokenizer with a network; a family says what the numbers mean.

    Attributes:
      batches: Compiled batch sizes: one for a few samples, one for data sets.
    """

    batches: ClassVar[tuple[int, ...]] = (8, 128)

    def inputs(self, batch: Any) -> Any:
        """Returns what the network sees of prepared values; traced."""
        raise NotImplementedError

    def values(self, output: Float[np.ndarray, "B ..."]) -> list[np.ndarray]:
        """Returns raw values from what the network gave."""
        raise NotImplementedError

    def encoded(self, module: Any, inputs: Any) -> Int[Array, "B L K"]:
        """Returns the ids of inputs; traced."""
        return module.encode(inputs)

    def decoded(self, module: Any, ids: Int[Array, "B L K"]) -> Float[Array, "B ..."]:
        """Returns the outputs for ids; traced."""
        return module.decode(ids)

    def encode(self, values: Sequence[Any]) -> TokenColumn:
        """Encodes raw values (see `mmtok.codec.Codec`)."""
        apply, state = self._encoder
        ids = _in_batches(lambda rows: apply(state, rows), self.prepare(values), sizes=self.batches)
        length = np.where([value is None for value in values], 0, self.modality.size).astype(np.int32)
        return TokenColumn(np.where(length[:, None, None] > 0, ids, 0).astype(np.int32), length)

    def decode(self, column: TokenColumn) -> list[Any]:
        """Decodes tokens to raw values (see `mmtok.codec.Codec`)."""
        apply, state = self._decoder
        ids = check_ids(column, size=self.modality.size, codes=self.modality.codes, name=self.name)
        ids = np.clip(ids, 0, self.modality.vocab_size - 1)
        outputs = _in_batches(lambda rows: apply(state, rows), ids.astype(np.int32), sizes=self.batches)
        return [value if length else None for value, length in zip(self.values(outputs), column.length, strict=True)]

    def flops(self, batch: int) -> float:
        """Returns the floating-point operations of one training step on `batch` samples."""
        graph, state = nnx.split(self._abstract())
        rows = self.prepare([None])

        def forward(state: Any, rows: Any, key: Array) -> Array:
            return self.loss(nnx.merge(graph, state), rows, key)[0]

        return 3.0 * batch * flops(forward, state, rows, jax.random.key(0))

    @functools.cached_property
    def _encoder(self) -> tuple[Callable[[Any, Any], Array], Any]:
        graph, state = nnx.split(self.module())
        return jax.jit(lambda state, rows: self.encoded(nnx.merge(graph, state), self.inputs(rows))), state

    @functools.cached_property
    def _decoder(self) -> tuple[Callable[[Any, Any], Array], Any]:
        graph, state = nnx.split(self.module())
        return jax.jit(lambda state, rows: self.decoded(nnx.merge(graph, state), rows)), state


def check_ids(column: TokenColumn, *, size: int, codes: int, name: str) -> np.ndarray:
    """Returns the ids of a column of a grid modality.

    Raises:
      MmtokError: the column is not (B, size, codes).
    """
    if column.values.ndim != 3 or column.values.shape[1:] != (size, codes):
        found = tuple(column.values.shape)
        raise MmtokError(f"modality '{name}': expected tokens of shape (samples, {size}, {codes}), found {found}")
    return column.values


def _in_batches(apply: Callable[[np.ndarray], Array], rows: np.ndarray, *, sizes: tuple[int, ...]) -> np.ndarray:
    """Applies a compiled function to rows in padded batches of few sizes, so that it is not compiled for others."""
    size = next((size for size in sizes if len(rows) <= size), sizes[-1])
    pieces = []
    for start in range(0, len(rows), size) if len(rows) else (0,):
        piece = rows[start : start + size]
        missing = np.zeros((size - len(piece), *rows.shape[1:]), rows.dtype)
        pieces.append(np.asarray(apply(np.concatenate([piece, missing])))[: len(piece)])
    return np.concatenate(pieces)

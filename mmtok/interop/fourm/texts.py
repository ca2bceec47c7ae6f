"""Tokenizers of what 4M writes as text (`mmtok.interop.fourm.forms`)."""

import copy
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mmtok.batch import TokenColumn
from mmtok.errors import MismatchError, MmtokError
from mmtok.grammar import Grammar
from mmtok.interop.fourm.forms import FORMS, HALF, MASK, POSE, Form, Tokens, bin_of
from mmtok.interop.fourm.grammars import Words, text_grammar
from mmtok.tokenizers.artifact import Tokenizer, create
from mmtok.tokenizers.vectors import VectorConfig
from mmtok.tokenizers.vq import VQTokenizerConfig
from mmtok.tokenizers.wordpiece import WordPieceConfig, WordPieceTokenizer

_INNER = "inner."  # begins the names of the inner tokenizer's weights


@dataclasses.dataclass(frozen=True)
class Coded:
    """The parts of a value that its text holds as tokens of a tokenizer of their own.

    Attributes:
      key: Their name.
      tokens: How their tokens are written.
      items: Finds the mappings with that key in a value.
      shape: Of the numbers that stand for the tokens, in a row for their tokenizer; None for pictures of any size.
    """

    key: str
    tokens: Tokens
    items: Callable[[Any], list[dict[str, Any]]]
    shape: tuple[int, ...] | None = None

    def replace(self, value: Any, convert: Callable[[list[Any]], Sequence[Any]]) -> Any:
        """Returns a copy of a value with all such parts converted."""
        value = copy.deepcopy(value)
        items = [item for item in self.items(value) if self.key in item]
        if items:
            for item, converted in zip(items, convert([item[self.key] for item in items]), strict=True):
                item[self.key] = converted
        return value


CODED: Mapping[Form, Coded] = {
    "poses": Coded("pose", POSE, list, shape=(23, 3, 3)),
    "instances": Coded("mask", MASK, lambda points: [one for point in points for one in point["instances"]]),
}
"""The pose of a body: rotation matrices of its joints; the mask of an instance in its box."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FourMTextConfig(WordPieceConfig):
    """Values that 4M writes as text.

    Attributes:
      form: How they are written.
      inner: Tokenizer of the parts in `CODED`; without one a value holds their token ids.
    """

    family: ClassVar[str] = "4m-text"

    form: Form
    inner: VectorConfig | VQTokenizerConfig | None = None


class FourMTextTokenizer(WordPieceTokenizer):
    """Tokenizes the text of a value; in metadata each key opens a masking unit.

    The weights of the inner tokenizer, where there is one, are its own, their names prefixed.
    """

    Config = FourMTextConfig
    config: FourMTextConfig  # pyright: ignore[reportIncompatibleVariableOverride]  (narrowed, as in every family)
    whole_chunks = True

    @functools.cached_property
    def chunk_prefix(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]  (decided by the form)
        """The words that open a masking unit."""
        return "v1=" if self.config.form == "metadata" else ""

    @functools.cached_property
    def grammar(self) -> Grammar:
        """Texts of the form."""
        tokens = {} if self.inner is None else {"tokens": self.inner.modality.vocab_size}
        return text_grammar(self.config.form, Words(pieces=self._pieces, vocabulary=self.vocabulary, **tokens))

    @functools.cached_property
    def inner(self) -> Tokenizer | None:
        """The tokenizer of the parts that the text holds as tokens."""
        if self.config.inner is None:
            return None
        made = create(name=f"{self.name} {CODED[self.config.form].key}", source=self.source, config=self.config.inner)
        arrays = {name.removeprefix(_INNER): array for name, array in self.arrays.items()}
        return dataclasses.replace(made, arrays=arrays)

    def with_inner(self, inner: Tokenizer) -> "FourMTextTokenizer":
        """Returns this tokenizer with one for the parts that the text holds as tokens.

        Raises:
          MmtokError: this text has no such parts, or that tokenizer makes other tokens or of other numbers.
        """
        coded, made = CODED.get(self.config.form), inner.modality
        if coded is None:
            raise MmtokError(
                f"tokenizer '{self.name}': texts of the form '{self.config.form}' hold no tokens of another"
            )
        if made.size * made.codes != coded.tokens.count or made.vocab_size > 2 * HALF:
            raise MismatchError(
                f"tokenizer '{self.name}': its text holds {coded.tokens.count} tokens out of {2 * HALF} for each"
                f" {coded.key}, the tokenizer given makes {made.size * made.codes} out of {made.vocab_size}"
            )
        length = getattr(inner.config, "length", None)
        if coded.shape and length != math.prod(coded.shape):
            raise MismatchError(
                f"tokenizer '{self.name}': each {coded.key} is {math.prod(coded.shape)} numbers, the tokenizer given"
                f" takes {length or 'pictures'}"
            )
        arrays = {_INNER + name: array for name, array in inner.arrays.items()}
        return dataclasses.replace(self, config=dataclasses.replace(self.config, inner=inner.config), arrays=arrays)

    def expected(self) -> Mapping[str, tuple[tuple[int, ...], Any]]:
        """Returns shape and dtype of the inner tokenizer's parameters."""
        return {} if self.inner is None else {_INNER + name: spec for name, spec in self.inner.expected().items()}

    def write(self, value: Any, *, what: str) -> list[str]:
        """Returns a value as text, in chunks."""
        try:
            if self.inner is not None:
                value = CODED[self.config.form].replace(value, self._ids)
            return FORMS[self.config.form][0](value)
        except MmtokError as error:
            raise MmtokError(f"{what}: {error}") from None
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise MmtokError(
                f"{what}: not a value of the form '{self.config.form}' ({type(error).__name__}: {error})"
            ) from None

    def text(self, ids: Sequence[int]) -> str:
        """Returns the text of plain ids; no piece is joined to a coordinate."""
        joined = super().text
        runs = itertools.groupby(ids, lambda id: bin_of(self._pieces.id_to_token(id)) is None)
        return " ".join(joined(list(run)) for _, run in runs)

    def read(self, text: str) -> Any:
        """Returns the parts of a text that make sense."""
        value = FORMS[self.config.form][1](text)
        return value if self.inner is None else CODED[self.config.form].replace(value, self._parts)

    def _ids(self, parts: list[Any]) -> Sequence[Any]:
        """The tokens of parts."""
        assert self.inner is not None
        flat = CODED[self.config.form].shape is not None
        raw = [np.asarray(part, np.float32).ravel() if flat else np.asarray(part) for part in parts]
        return list(self.inner.encode(raw).values)

    def _parts(self, ids: list[Any]) -> Sequence[Any]:
        """What tokens stand for."""
        assert self.inner is not None
        shape, made = CODED[self.config.form].shape, self.inner.modality
        values = np.minimum(np.array(ids), made.vocab_size - 1).reshape(len(ids), made.size, made.codes)
        found = self.inner.decode(TokenColumn(values.astype(np.int32), np.full(len(ids), made.size, np.int32)))
        return [part.reshape(shape) for part in found] if shape else found

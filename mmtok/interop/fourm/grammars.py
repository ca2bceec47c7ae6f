"""Grammars of the texts of `mmtok.interop.fourm.forms`, over the ids of a WordPiece vocabulary."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from mmtok.errors import MmtokError
from mmtok.grammar import Grammar, Ids, Pattern, either, maybe, one_of, sequence, some, special
from mmtok.interop.fourm.forms import (
    BINS,
    COLOURS,
    HALF,
    LEVELS,
    MASK,
    METADATA,
    PERSON,
    PIXELS,
    Affine,
    Form,
    Tokens,
    coordinate,
)
from mmtok.modality import Vocabulary
from mmtok.tokenizers.sequences import AXES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Words:
    """Patterns of the words of a text.

    Attributes:
      pieces: Vocabulary of the `tokenizers` library.
      vocabulary: Its special ids.
      tokens: How many tokens there are where the text holds some of another tokenizer.
    """

    pieces: Any
    vocabulary: Vocabulary
    tokens: int = 2 * HALF

    @functools.cached_property
    def ids(self) -> Mapping[str, int]:
        """Id of each piece."""
        return self.pieces.get_vocab()

    def word(self, word: str) -> Pattern:
        """A control word, whole or in pieces."""
        return sequence(*(one_of((id,)) for id in self.pieces.encode(word, add_special_tokens=False).ids))

    def bins(self, axis: int, count: int = BINS) -> Ids:
        """Ids of the first bins of an axis.

        Raises:
          MmtokError: the vocabulary lacks one.
        """
        try:
            return tuple(self.ids[coordinate(axis, bin)] for bin in range(count))
        except KeyError as missing:
            raise MmtokError(
                f"4M text: the vocabulary file has no word {missing}; take the one that 4M ships"
            ) from None

    def bin(self, axis: int, count: int = BINS) -> Pattern:
        """One of the first bins of an axis."""
        return one_of(self.bins(axis, count))

    def corners(self, count: int = BINS) -> Pattern:
        """Two opposite corners of a box; that they are in order would take `count` squared states to say."""
        return sequence(*(self.bin(axis, count) for axis in range(AXES)))

    def numbers(self, group: Affine | Tokens) -> Pattern:
        """Numbers or tokens of a fixed count."""
        if isinstance(group, Affine):
            return sequence(*[self.bin(0)] * group.count)
        token = one_of((*self.bins(0, min(self.tokens, HALF)), *self.bins(1, max(self.tokens - HALF, 0))))
        return sequence(*[token] * group.count)

    def label(self) -> Pattern:
        """Words that are no coordinates; no piece that continues a word comes first."""
        prefix = self.pieces.model.continuing_subword_prefix
        others = special(self.vocabulary).union(*(self.bins(axis) for axis in range(AXES)))
        words = {piece: id for piece, id in self.ids.items() if id not in others}
        starting = one_of(tuple(id for piece, id in words.items() if not piece.startswith(prefix)))
        continuing = one_of(tuple(id for piece, id in words.items() if piece.startswith(prefix)))
        return sequence(starting, maybe(some(either(starting, continuing))))


def boxes(words: Words) -> Pattern:
    """Corners and label, any number of times."""
    return maybe(some(sequence(words.corners(), words.label())))


def metadata(words: Words) -> Pattern:
    """Key and value, any number of times.

    The released models write the keys in any order, so that the states of an automaton could not remember which there
    were; a key that comes twice has its last value.
    """
    keys = words.bins(1, len(METADATA))
    pairs = (sequence(one_of((key,)), words.bin(0, rule.bins)) for key, rule in zip(keys, METADATA.values()))
    return maybe(some(either(*pairs)))


def palette(words: Words) -> Pattern:
    """A number of colours, then that many."""
    counts = words.bins(1, COLOURS + 1)
    level = words.bin(0, LEVELS)
    return either(*(sequence(one_of((counts[n],)), *[level] * (3 * n)) for n in range(1, COLOURS + 1)))


def poses(words: Words) -> Pattern:
    """Persons, each with all groups in any order, as the released models write them; or none."""
    groups = [sequence(words.word(name), words.numbers(group)) for name, group in PERSON.items()]
    return either(words.word("none"), some(sequence(words.word("human"), words.corners(), _in_any_order(groups))))


def instances(words: Words) -> Pattern:
    """Points, each with its instances or none."""
    point = sequence(words.word("point"), words.bin(0, PIXELS + 1), words.bin(1, PIXELS + 1))
    instance = sequence(words.word("polygon"), words.corners(PIXELS + 1), words.numbers(MASK))
    return maybe(some(sequence(point, either(words.word("none"), some(instance)))))


def _in_any_order(parts: list[Pattern]) -> Pattern:
    """Each of the parts once."""
    if len(parts) == 1:
        return parts[0]
    return either(*(sequence(part, _in_any_order([other for other in parts if other is not part])) for part in parts))


PATTERNS: Mapping[Form, Callable[[Words], Pattern]] = {
    "boxes": boxes,
    "metadata": metadata,
    "palette": palette,
    "poses": poses,
    "instances": instances,
}


def text_grammar(form: Form, words: Words) -> Grammar:
    """Returns which ids are texts of a form."""
    return PATTERNS[form](words).grammar(words.vocabulary.size)

"""Which sequences of ids are well formed: what a tokenizer can read back."""

import dataclasses
import functools
import itertools
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Int

from mmtok.errors import MmtokError
from mmtok.modality import Vocabulary

ILLEGAL = -1  # state after an id that may not follow

Ids = range | tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Grammar:
    """A deterministic finite automaton over the ids of a sequence before its end; it starts in state 0.

    Attributes:
      classes: Class of each id of the vocabulary, by which it is looked up in `step`; ids of class 0 (padding, start,
        end, sentinels) are never part of a sequence.
      step: State after an id of a class; `ILLEGAL` where none of that class may follow.
      final: States in which a sequence may end.
    """

    classes: Int[np.ndarray, " V"]
    step: Int[np.ndarray, "S C"]
    final: Bool[np.ndarray, " S"]

    def __post_init__(self) -> None:
        states, classes = self.step.shape
        if self.classes.min() < 0 or self.classes.max() >= classes or len(self.final) != states:
            raise MmtokError(f"grammar: {states} states and {classes} classes do not fit `final` and `classes`")
        if self.step.min() < ILLEGAL or self.step.max() >= states or (self.step[:, 0] != ILLEGAL).any():
            raise MmtokError("grammar: a step leads to no state, or ids of class 0 lead to one")

    def accepts(self, ids: "Int[np.ndarray, ' T'] | list[int]") -> bool:
        """Returns whether ids, without the end, are well formed."""
        state = 0
        for id in ids:
            state = int(self.step[state, self.classes[id]])
            if state == ILLEGAL:
                return False
        return bool(self.final[state])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pattern:
    """A regular expression over ids, by the places in it where an id stands (Glushkov 1961).

    Attributes:
      places: Ids that may stand at each place.
      first: Places where a match may begin.
      last: Places where it may end.
      follow: Pairs of places that may be next to each other.
      empty: Whether no id at all is a match too.
    """

    places: tuple[Ids, ...] = ()
    first: frozenset[int] = frozenset()
    last: frozenset[int] = frozenset()
    follow: frozenset[tuple[int, int]] = frozenset()
    empty: bool = False

    def grammar(self, size: int) -> Grammar:
        """Returns the automaton for a vocabulary of `size` ids, with a state for the start and one for each place.

        The id must tell the place: no two that may follow the same one share an id.
        """
        classes = _classes(dict.fromkeys(self.places), size)
        of = {ids: np.unique(classes[np.array(ids, np.int32)]) for ids in dict.fromkeys(self.places)}
        step = np.full((1 + len(self.places), 1 + classes.max()), ILLEGAL, np.int16)
        for before, place in [*((-1, place) for place in self.first), *self.follow]:
            assert (step[1 + before, of[self.places[place]]] == ILLEGAL).all(), "an id may stand at two places"
            step[1 + before, of[self.places[place]]] = 1 + place
        final = [self.empty, *(place in self.last for place in range(len(self.places)))]
        return Grammar(classes, step, np.array(final))


def one_of(ids: Ids) -> Pattern:
    """Returns the pattern of a single id."""
    return Pattern(places=(ids,), first=frozenset({0}), last=frozenset({0}))


def sequence(*parts: Pattern) -> Pattern:
    """Returns the pattern of one part after the other."""
    return functools.reduce(_then, parts, Pattern(empty=True))


def either(*parts: Pattern) -> Pattern:
    """Returns the pattern of any one of the parts."""
    return functools.reduce(_or, parts, Pattern())


def maybe(part: Pattern) -> Pattern:
    """Returns the pattern of the part or nothing."""
    return dataclasses.replace(part, empty=True)


def some(part: Pattern) -> Pattern:
    """Returns the pattern of the part, once or more often."""
    return dataclasses.replace(part, follow=part.follow | set(itertools.product(part.last, part.first)))


def free(vocabulary: Vocabulary) -> Grammar:
    """Returns the grammar of any sequence of ids that are not special."""
    classes = np.ones(vocabulary.size, np.int32)
    classes[list(special(vocabulary))] = 0
    return Grammar(classes, np.array([[ILLEGAL, 0]], np.int16), np.array([True]))


def special(vocabulary: Vocabulary) -> set[int]:
    """Returns the ids that are no part of any sequence."""
    sentinels = range(vocabulary.sentinel_first, vocabulary.sentinel_first + vocabulary.sentinel_count)
    return {vocabulary.pad, vocabulary.start, vocabulary.end, *sentinels}


def _then(one: Pattern, other: Pattern) -> Pattern:
    other = _shifted(other, len(one.places))
    return Pattern(
        places=one.places + other.places,
        first=one.first | other.first if one.empty else one.first,
        last=one.last | other.last if other.empty else other.last,
        follow=one.follow | other.follow | set(itertools.product(one.last, other.first)),
        empty=one.empty and other.empty,
    )


def _or(one: Pattern, other: Pattern) -> Pattern:
    other = _shifted(other, len(one.places))
    return Pattern(
        places=one.places + other.places,
        first=one.first | other.first,
        last=one.last | other.last,
        follow=one.follow | other.follow,
        empty=one.empty or other.empty,
    )


def _shifted(part: Pattern, by: int) -> Pattern:
    """The same with other numbers of the places."""
    return dataclasses.replace(
        part,
        first=frozenset(by + place for place in part.first),
        last=frozenset(by + place for place in part.last),
        follow=frozenset((by + one, by + other) for one, other in part.follow),
    )


def _classes(sets: Iterable[Ids], size: int) -> Int[np.ndarray, " V"]:
    """Class of each id: those that are in the same sets share one; 0 is that of the ids in none."""
    classes, count = np.zeros(size, np.int32), 1
    for ids in sets:
        chosen = np.array(ids, np.int32)
        found, part = np.unique(classes[chosen], return_inverse=True)
        classes[chosen] = count + part
        count += len(found)
    return np.unique(classes, return_inverse=True)[1].astype(np.int32)

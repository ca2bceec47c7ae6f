"""Which sequences of ids are well formed: what a tokenizer can read back."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int

from mmtok.errors import MmtokError
from mmtok.modality import Vocabulary

ILLEGAL = -1  # state after an id that may not follow


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


def free(vocabulary: Vocabulary) -> Grammar:
    """Returns the grammar of any sequence of ids that are not special."""
    special = [vocabulary.pad, vocabulary.start, vocabulary.end]
    special += range(vocabulary.sentinel_first, vocabulary.sentinel_first + vocabulary.sentinel_count)
    classes = np.ones(vocabulary.size, np.int32)
    classes[special] = 0
    return Grammar(classes, np.array([[ILLEGAL, 0]], np.int32), np.array([True]))

"""Gaps in sequences: what stands for them in the input, and how generated spans fill them.

The layout is that of training: gap j (from 1) is one sentinel j in the input; the target reads
`S_1 run_1 S_2 run_2 ... S_(n+1)`, where a gap that reaches the end of the sequence ends with the end id.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from mmtok.batch import TokenColumn
from mmtok.generate.generated import Generated
from mmtok.generate.known import Known
from mmtok.modality import Modality, Vocabulary


@dataclasses.dataclass(frozen=True)
class Gaps:
    """The gaps of each sample of a batch.

    Attributes:
      first: First position of each gap.
      count: Gaps per sample.
      open: The last gap reaches the end of the sequence, so that its span has to end with the end id.
    """

    first: Bool[np.ndarray, "B L"]
    count: Int[np.ndarray, " B"]
    open: Bool[np.ndarray, " B"]


def vocabulary(modality: Modality) -> Vocabulary:
    """Returns the vocabulary of a sequence."""
    assert modality.vocabulary is not None
    return modality.vocabulary


def gaps(known: Known, modality: Modality, *, asked: Bool[np.ndarray, " B"]) -> Gaps:
    """Finds the gaps of a sequence.

    Args:
      known: Of this modality.
      modality: A sequence.
      asked: Samples that have or shall have this modality; the others have no gaps.
    """
    visible, size = known.visible, known.visible.shape[1]
    last = np.where(visible.any(1), size - 1 - visible[:, ::-1].argmax(1), -1)
    final = known.values[np.arange(len(last)), np.maximum(last, 0), 0]
    ended = (last >= 0) & (final == vocabulary(modality).end)
    before = np.pad(visible[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    after_last = np.arange(size) > last[:, None]
    first = ~visible & before & asked[:, None] & ~(after_last & ended[:, None])
    return Gaps(first, first.sum(1), (first & after_last).any(1))


def free_tokens(known: Known, found: Gaps, *, longest: int) -> Int[np.ndarray, " B"]:
    """Returns how many tokens besides the end id each sample may still get, in a sequence of `longest` at most."""
    return np.maximum(longest - known.visible.sum(1) - found.open, 0)


def fill(
    known: Known,
    found: Gaps,
    modality: Modality,
    *,
    spans: Int[np.ndarray, "B M"],
    said: Float[np.ndarray, "B M 2"],
) -> Generated:
    """Puts the generated spans into their gaps.

    Args:
      known: Before.
      found: Its gaps.
      modality: The sequence.
      spans: What was generated after sentinel 1, padding behind it.
      said: Log-probability and entropy of these.
    """
    words = vocabulary(modality)
    values, numbers = np.zeros_like(known.values), np.zeros((*known.visible.shape, 2), np.float32)
    length = np.zeros(len(values), np.int32)
    for row in range(len(values)):
        runs = _runs(spans[row], said[row], int(found.count[row]), bool(found.open[row]), words)
        tokens: list[Token] = []
        for position in np.flatnonzero(known.visible[row] | found.first[row]):
            tokens += runs.pop(0) if found.first[row, position] else [(int(known.values[row, position, 0]), SILENCE)]
        length[row] = len(tokens)
        for position, (token, numbers_of_token) in enumerate(tokens):
            values[row, position], numbers[row, position] = token, numbers_of_token
    return Generated(TokenColumn(values, length), numbers[..., :1], numbers[..., 1:])


Token = tuple[int, np.ndarray]
"""An id, and what the model said of it: log-probability and entropy."""
SILENCE = np.zeros(2, np.float32)


def _runs(tokens: np.ndarray, said: np.ndarray, count: int, open_end: bool, words: Vocabulary) -> list[list[Token]]:
    """Splits what follows sentinel 1 at sentinels; padding, the end and a sentinel that opens no gap end a run."""
    runs: list[list[Token]] = [[] for _ in range(count)]
    span, closed = 0, [False] * count
    for token, numbers in zip(tokens.tolist(), said):
        sentinel = token - words.sentinel_first
        if 0 <= span < count and not closed[span]:
            last = open_end and span == count - 1
            closed[span] = token in (words.pad, words.end) or 0 <= sentinel < words.sentinel_count
            if not closed[span]:
                runs[span].append((token, numbers))
            elif last:  # the model may close the last span without an end id; a sequence always has one
                runs[span].append((words.end, numbers))
        if 0 <= sentinel < words.sentinel_count:
            span = sentinel - 1
    if open_end and not closed[-1]:
        runs[-1].append((words.end, SILENCE))
    return runs

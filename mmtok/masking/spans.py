"""Span masking of sequences with sentinels, vectorised over the batch (T5, Raffel et al. 2020, section 3.1.4).

Every maximal run j = 1, 2, ... of masked tokens is replaced by sentinel j in the input; the target lists sentinel 1,
run 1, sentinel 2, run 2, ... and a closing sentinel. Masking takes whole units: tokens, or chunks such as
key-value pairs.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from mmtok.masking.random import Draws, as_uniform, indexed, indices
from mmtok.masking.rows import put, take
from mmtok.modality import Vocabulary

_PLAIN = Vocabulary(size=0)  # of what has no ids: each position is a unit of its own


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Sequences of one or several modalities, one a row.

    Attributes:
      ids: Token ids.
      length: Tokens in use.
      sentinel_first: See `mmtok.modality.Vocabulary`, as for the others.
      unit_first: First id that opens a unit.
      unit_count: Number of such ids; 0 where each token is a unit of its own.
      end: Id that is its own unit.
    """

    ids: Int[np.ndarray, "B T"]
    length: Int[np.ndarray, " B"]
    sentinel_first: Int[np.ndarray, " B"]
    unit_first: Int[np.ndarray, " B"]
    unit_count: Int[np.ndarray, " B"]
    end: Int[np.ndarray, " B"]

    def __getitem__(self, rows: Any) -> "Sequences":
        return Sequences(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


def stack(
    ids: Sequence[Integer[np.ndarray, "B _T"]],
    vocabularies: Sequence[Vocabulary | None],
    *,
    length: Int[np.ndarray, "B m"],
) -> Sequences:
    """Returns the sequences of several modalities, one modality after the other."""
    stacked = np.zeros((len(ids), len(length), max(own.shape[1] for own in ids)), np.int32)
    for rows, own in zip(stacked, ids):
        rows[:, : own.shape[1]] = own
    layout = ((v.sentinel_first, v.unit_first, v.unit_count, v.end) for v in (v or _PLAIN for v in vocabularies))
    columns = np.array(list(layout), np.int32).repeat(len(length), axis=0).T
    return Sequences(stacked.reshape(-1, stacked.shape[2]), length.T.reshape(-1), *columns)


@dataclasses.dataclass(frozen=True)
class Order:
    """The random order in which the tokens of each sequence become visible, a unit at a time.

    Attributes:
      rank: Place of each token in that order; padding comes last.
      size: Input length, sentinels included, once the tokens of rank 0..k are visible. Never falls with k.
      stop: Whether the visible set may end after rank k: a unit is complete there and the keep fraction not exceeded.
    """

    rank: Int[np.ndarray, "B T"]
    size: Int[np.ndarray, "B T"]
    stop: Bool[np.ndarray, "B T"]


def random_order(draws: Draws, sequences: Sequences, *, keep: Float[np.ndarray, " B"]) -> Order:
    """Draws the order; the units allowed to become visible are those whose uniform number is at most `keep`."""
    ids, length = sequences.ids, sequences.length
    place = np.arange(ids.shape[1])
    used = place < length[:, None]
    bits = draws.bits(ids.shape[1])
    chunked = np.nonzero(sequences.unit_count)[0]
    unit = _units(sequences[chunked])
    bits[chunked] = take(bits[chunked], unit)
    words = indexed(np.where(used, bits, np.uint64(2**64 - 1)))
    words.sort(axis=1)
    order = indices(words)
    rank = put(order, np.broadcast_to(place.astype(np.int32), order.shape))
    # A token that becomes visible adds itself and, by splitting or ending its run, -1, 0 or +1 sentinels.
    later = (rank[:, 1:] > rank[:, :-1]) & used[:, 1:]
    gain = np.zeros(ids.shape, np.int32)
    gain[:, :-1] += later
    gain[:, 1:] += (rank[:, 1:] < rank[:, :-1]) & used[:, 1:]
    size = 1 + take(gain, order).cumsum(axis=1, dtype=np.int32)
    stop = used & (as_uniform(words) <= keep[:, None])
    of = take(unit, order[chunked])
    stop[chunked, :-1] &= (of[:, 1:] != of[:, :-1]) | ~used[chunked, 1:]
    return Order(rank, size, stop)


def _units(sequences: Sequences) -> Int[np.ndarray, "B T"]:
    """Returns the number of each token's unit."""
    ids, first = sequences.ids, sequences.unit_first[:, None]
    opens = (ids >= first) & (ids < first + sequences.unit_count[:, None]) | (ids == sequences.end[:, None])
    opens[:, 0] = True
    return opens.cumsum(axis=1) - 1


def visible(
    order: Order, budget: Int[np.ndarray, " B"], *, length: Int[np.ndarray, " B"]
) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"]]:
    """Returns how many tokens can be visible within an input budget, and the input length with their sentinels.

    A budget of 0 shows nothing, not even a sentinel; with a budget of at least 1 a sequence of which no unit fits
    shows sentinel 1 alone.
    """
    place = np.arange(1, order.stop.shape[1] + 1)
    kept = np.where(order.stop & (order.size <= budget[:, None]), place, 0).max(axis=1, initial=0)
    size = take(order.size, np.maximum(kept - 1, 0)[:, None])[:, 0]
    shown = np.where(kept > 0, size, 1)
    return kept, np.where((budget > 0) & (length > 0), shown, 0)


def predictions(
    kept: Int[np.ndarray, " B"], shown: Int[np.ndarray, " B"], *, length: Int[np.ndarray, " B"]
) -> Int[np.ndarray, " B"]:
    """Returns the number of predictions a whole target gives: its masked tokens and a sentinel after each run."""
    runs = np.where(shown > 0, shown - kept, np.minimum(length, 1))
    return length - kept + runs


def hold_back(order: Order, rows: Bool[np.ndarray, " B"], *, length: Int[np.ndarray, " B"]) -> Order:
    """Forbids that the given rows become visible wholly; the last unit of their order stays masked."""
    last = np.arange(order.stop.shape[1]) == length[:, None] - 1
    return dataclasses.replace(order, stop=order.stop & ~(last & rows[:, None]))


@dataclasses.dataclass(frozen=True)
class Masked:
    """A batch of sequences with a decision for every token.

    Attributes:
      sequences: The tokens.
      masked: Which tokens are masked; False in the padding.
      opens: The first token of each masked run.
      run: Number of runs opened so far, that is the number j of a masked token's run.
      used: Positions within the sequence.
    """

    sequences: Sequences
    masked: Bool[np.ndarray, "B T"]
    opens: Bool[np.ndarray, "B T"]
    run: Int[np.ndarray, "B T"]
    used: Bool[np.ndarray, "B T"]


def mask(sequences: Sequences, hidden: Bool[np.ndarray, "B T"]) -> Masked:
    """Masks the hidden tokens."""
    used = np.arange(hidden.shape[1]) < sequences.length[:, None]
    masked = hidden & used
    opens = masked.copy()
    opens[:, 1:] &= ~masked[:, :-1]
    return Masked(sequences, masked, opens, opens.cumsum(axis=1, dtype=np.int32), used)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The input slots of sequences, row after row: visible tokens, and one for each masked run.

    Attributes:
      ids: The token, or the sentinel.
      place: Position of the token, or of the first one of the run.
      hidden: Whether it is a run.
    """

    ids: Int[np.ndarray, " n"]
    place: Int[np.ndarray, " n"]
    hidden: Bool[np.ndarray, " n"]


def inputs(masked: Masked, *, shown: Int[np.ndarray, " B"]) -> Inputs:
    """Returns the input slots; none for rows where `shown` is 0."""
    emit = (masked.opens | (masked.used & ~masked.masked)) & (shown > 0)[:, None]
    rows, columns = emit.nonzero()
    hidden = masked.masked[rows, columns]
    sentinel = masked.sequences.sentinel_first[rows] + masked.run[rows, columns]
    return Inputs(np.where(hidden, sentinel, masked.sequences.ids[rows, columns]), columns, hidden)


def targets(masked: Masked) -> Int[np.ndarray, "B W"]:
    """Returns the whole target of each row, padded with 0."""
    hidden, run, first = masked.masked, masked.run, masked.sequences.sentinel_first
    before = hidden.cumsum(axis=1, dtype=np.int32)
    length = before[:, -1] + run[:, -1] + 1
    result = np.zeros((len(hidden), int(length.max(initial=1))), np.int32)
    rows, columns = hidden.nonzero()
    result[rows, before[rows, columns] - 1 + run[rows, columns]] = masked.sequences.ids[rows, columns]
    rows, columns = masked.opens.nonzero()
    number = run[rows, columns]
    result[rows, before[rows, columns] + number - 2] = first[rows] + number
    result[np.arange(len(result)), length - 1] = first + run[:, -1] + 1
    return result


def crop(
    draws: Draws, sequences: Masked, *, budget: Int[np.ndarray, " B"], exact: Bool[np.ndarray, " B"]
) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"]]:
    """Returns (start, count) of the part of each target that is asked; `budget` and `count` are in target tokens.

    A target that does not fit starts at a random sentinel. Where fewer than `budget` tokens remain from there, it
    starts at the earliest sentinel from which the rest fits or, in `exact` rows, at the latest that leaves enough.
    """
    masked, run = sequences.masked, sequences.run
    whole = np.where(sequences.used[:, 0], masked.sum(axis=1) + run[:, -1] + 1, 0)
    start = np.zeros(len(masked), np.int64)
    rows = np.nonzero((whole > budget) & (budget > 0) & (run[:, -1] > 0))[0]
    if len(rows):
        masked, run, opens = masked[rows], run[rows], sequences.opens[rows]
        left = (whole[rows, None] - (np.cumsum(masked, axis=1) - masked + run - 1)) * opens
        choice = np.ceil(draws[rows].uniform(1) * run[:, -1:])
        chosen = np.where(run == choice, left, 0).max(axis=1)
        fitting = np.where(left <= budget[rows, None], left, 0).max(axis=1)
        enough = np.where(left >= budget[rows, None], left, whole[rows, None]).min(axis=1)
        rest = np.where(exact[rows], enough, fitting)
        start[rows] = whole[rows] - np.where(chosen >= budget[rows], chosen, rest)
    return start, np.minimum(whole - start, budget)

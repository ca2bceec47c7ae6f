"""Span masking of sequences with sentinels, vectorised over the batch (T5, Raffel et al. 2020, section 3.1.4).

Every maximal run j = 1, 2, ... of masked tokens is replaced by sentinel j in the input; the target lists sentinel 1,
run 1, sentinel 2, run 2, ... and a closing sentinel. Masking takes whole units: tokens, or chunks such as
key-value pairs.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from mmtok.masking.random import Draws, as_uniform, indexed, indices
from mmtok.modality import Vocabulary


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


def random_order(
    draws: Draws,
    ids: Int[np.ndarray, "B T"],
    *,
    length: Int[np.ndarray, " B"],
    keep: Float[np.ndarray, " B"],
    vocabulary: Vocabulary | None,
) -> Order:
    """Draws the order; the units allowed to become visible are those whose uniform number is at most `keep`.

    Without a vocabulary each position is its own unit.
    """
    units = vocabulary if vocabulary is not None and vocabulary.unit_count else None
    place = np.arange(ids.shape[1])
    used = place < length[:, None]
    bits = draws.bits(ids.shape[1])
    unit = np.broadcast_to(place, ids.shape)
    if units is not None:
        key = (ids >= units.unit_first) & (ids < units.unit_first + units.unit_count)
        unit = np.cumsum(key | (ids == units.end) | (place == 0), axis=1) - 1
        bits = np.take_along_axis(bits, unit, axis=1)
    words = indexed(np.where(used, bits, np.uint64(2**64 - 1)))
    words.sort(axis=1)
    order = indices(words)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, place.astype(np.int32)[None], axis=1)
    # A token that becomes visible adds itself and, by splitting or ending its run, -1, 0 or +1 sentinels.
    later = (rank[:, 1:] > rank[:, :-1]) & used[:, 1:]
    gain = np.zeros(ids.shape, np.int32)
    gain[:, :-1] += later
    gain[:, 1:] += (rank[:, 1:] < rank[:, :-1]) & used[:, 1:]
    size = 1 + np.cumsum(np.take_along_axis(gain, order, axis=1), axis=1, dtype=np.int32)
    stop = used & (as_uniform(words) <= keep[:, None])
    if units is not None:
        of = np.take_along_axis(unit, order, axis=1)
        stop[:, :-1] &= (of[:, 1:] != of[:, :-1]) | ~used[:, 1:]
    return Order(rank, size, stop)


def visible(
    order: Order, budget: Int[np.ndarray, " B"], *, length: Int[np.ndarray, " B"]
) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"]]:
    """Returns how many tokens can be visible within an input budget, and the input length with their sentinels.

    A budget of 0 shows nothing, not even a sentinel; with a budget of at least 1 a sequence of which no unit fits
    shows sentinel 1 alone.
    """
    place = np.arange(1, order.stop.shape[1] + 1)
    kept = np.where(order.stop & (order.size <= budget[:, None]), place, 0).max(axis=1, initial=0)
    size = np.take_along_axis(order.size, np.maximum(kept - 1, 0)[:, None], axis=1)[:, 0]
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
      ids: Token ids.
      masked: Which tokens are masked; False in the padding.
      opens: The first token of each masked run.
      run: Number of runs opened so far, that is the number j of a masked token's run.
      used: Positions within the sequence.
    """

    ids: Int[np.ndarray, "B T"]
    masked: Bool[np.ndarray, "B T"]
    opens: Bool[np.ndarray, "B T"]
    run: Int[np.ndarray, "B T"]
    used: Bool[np.ndarray, "B T"]


def mask(ids: Int[np.ndarray, "B T"], hidden: Bool[np.ndarray, "B T"], *, length: Int[np.ndarray, " B"]) -> Masked:
    """Masks the hidden tokens."""
    used = np.arange(ids.shape[1]) < length[:, None]
    masked = hidden & used
    opens = masked.copy()
    opens[:, 1:] &= ~masked[:, :-1]
    return Masked(ids, masked, opens, np.cumsum(opens, axis=1, dtype=np.int32), used)


def places(sequences: Masked, *, shown: Int[np.ndarray, " B"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Returns (row, column) of each input slot, row after row: visible tokens, and one for each masked run."""
    emit = (sequences.opens | (sequences.used & ~sequences.masked)) & (shown > 0)[:, None]
    rows, columns = np.nonzero(emit)
    return rows, columns


def inputs(sequences: Masked, *, shown: Int[np.ndarray, " B"], vocabulary: Vocabulary) -> Int[np.ndarray, " n"]:
    """Returns the input tokens, row after row; nothing for rows where `shown` is 0."""
    rows, columns = places(sequences, shown=shown)
    sentinel = vocabulary.sentinel_first + sequences.run[rows, columns]
    return np.where(sequences.masked[rows, columns], sentinel, sequences.ids[rows, columns])


def targets(sequences: Masked, *, vocabulary: Vocabulary) -> Int[np.ndarray, "B W"]:
    """Returns the whole target of each row, padded with 0."""
    masked, run = sequences.masked, sequences.run
    before = np.cumsum(masked, axis=1, dtype=np.int32)
    length = before[:, -1] + run[:, -1] + 1
    result = np.zeros((len(masked), int(length.max(initial=1))), np.int32)
    rows, columns = np.nonzero(masked)
    result[rows, before[rows, columns] - 1 + run[rows, columns]] = sequences.ids[rows, columns]
    rows, columns = np.nonzero(sequences.opens)
    number = run[rows, columns]
    result[rows, before[rows, columns] + number - 2] = vocabulary.sentinel_first + number
    result[np.arange(len(result)), length - 1] = vocabulary.sentinel_first + run[:, -1] + 1
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

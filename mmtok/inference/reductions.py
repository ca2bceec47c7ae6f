"""Several answers to one question: the best of them, or what they have in common and where they differ."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from mmtok.errors import MmtokError
from mmtok.generate import Generated, Known
from mmtok.inference.kinds import Kind, channels_last, is_defined, kind_of, like, undefined, unit
from mmtok.modality import Modality

Reduction = Literal["mean", "median", "vote"]

Score = Callable[[Mapping[str, Any]], float]
"""How good an answer is, given its decoded values by modality name; the highest is the best."""


@dataclasses.dataclass(frozen=True)
class Reduced:
    """Several answers in one.

    Attributes:
      value: As each of them.
      uncertainty: How far they lie apart, float32: of a picture for each pixel, of other arrays for each number; NaN
        where it is undefined. Mean: the standard deviation. Median: the median absolute deviation. Both are in the
        units of the value, over all channels of a pixel; for directions in degrees from the mean. Vote: the share of
        answers that voted for another class.
    """

    value: np.ndarray
    uncertainty: Float[np.ndarray, "..."]


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """Of B answers under the model; likelihoods of further tokens can be added.

    Attributes:
      total: Sum of the log-probabilities of all tokens that were made, in nats.
      count: How many tokens were made.
    """

    total: Float[np.ndarray, " B"]
    count: Int[np.ndarray, " B"]

    @classmethod
    def of(cls, made: Mapping[str, Generated], known: Mapping[str, Known]) -> "Likelihood":
        """Returns that of all targets together.

        Args:
          made: Targets, as the sampler returns them.
          known: What was known before.
        """
        rows = len(next(iter(made.values())).log_probs)
        total, count = np.zeros(rows), np.zeros(rows, np.int64)
        for name, item in made.items():
            total += item.log_probs.sum((1, 2), dtype=np.float64)
            before = known[name].visible.sum(1) if name in known else 0
            count += (item.column.length - before) * item.log_probs.shape[2]
        return cls(total, count)

    def __add__(self, other: "Likelihood") -> "Likelihood":
        return Likelihood(self.total + other.total, self.count + other.count)

    def __getitem__(self, rows: Any) -> "Likelihood":
        return Likelihood(self.total[rows], self.count[rows])

    def summed(self, groups: Sequence[Int[np.ndarray, " _"]]) -> "Likelihood":
        """Returns that of groups of answers, each given by its rows."""
        total, count = ([part[rows].sum() for rows in groups] for part in (self.total, self.count))
        return Likelihood(np.array(total), np.array(count))

    @property
    def mean(self) -> Float[np.ndarray, " B"]:
        """Per token, so that of two texts the shorter one is not the better for being short; 0 without tokens."""
        return self.total / np.maximum(self.count, 1)


def check_reduction(how: Reduction, modality: Modality) -> None:
    """Checks, before anything is made, that answers of a modality can be reduced.

    Raises:
      MmtokError: they cannot.
    """
    if modality.kind == "sequence":
        _check_kind(how, None, modality)
    elif modality.show not in ("array", "values"):  # what those hold shows only when it is there
        _check_kind(how, kind_of(np.zeros(()), modality.show), modality)


def reduce(values: Sequence[Any], how: Reduction, modality: Modality) -> Reduced:
    """Brings several answers together.

    Numbers are averaged, or their median is taken. Directions are so too, and normalised again. Classes are voted on
    whatever `how` is: the vote is the mode of the answers; of equals, the lowest class wins. What has no value in more
    than half of the answers has none in the result.

    Args:
      values: Decoded values, at least one.
      how: `mean`, `median` or `vote`; `vote` is for classes only.
      modality: Theirs.

    Raises:
      MmtokError: values of this kind cannot be reduced so, or not at all.
    """
    kind = kind_of(values[0], modality.show)
    _check_kind(how, kind, modality)
    assert kind is not None
    if len({value.shape for value in values}) > 1:
        raise MmtokError(f"reduce: the answers of '{modality.name}' differ in shape; take the best of them (--best 1)")
    if kind == "classes":
        return _vote(np.stack(values))
    stack = np.stack([channels_last(value) for value in values])
    defined = is_defined(stack, kind)
    numbers = np.where(defined[..., None], stack, np.nan).astype(np.float64)
    present = defined.mean(0) >= 0.5
    numbers = np.where(present[..., None], numbers, 0.0)  # a mean of nothing is warned of
    centre = np.nanmean(numbers, axis=0) if how == "mean" else np.nanmedian(numbers, axis=0)
    centre = unit(centre) if kind == "directions" else centre
    spread = np.where(present, _spread(numbers, centre, how, kind), np.nan).astype(np.float32)
    return Reduced(like(np.where(present[..., None], centre, undefined(kind)), values[0]), spread)


def _spread(numbers: np.ndarray, centre: np.ndarray, how: Reduction, kind: Kind) -> np.ndarray:
    """Deviation of K x (..., channels) from their centre."""
    if kind == "directions":
        cosine = np.clip(np.sum(unit(numbers) * centre, axis=-1), -1, 1)
        squares = np.degrees(np.arccos(cosine)) ** 2
    else:
        squares = np.mean((numbers - centre) ** 2, axis=-1)
    return np.sqrt(np.nanmean(squares, axis=0) if how == "mean" else np.nanmedian(squares, axis=0))


def _vote(stack: np.ndarray) -> Reduced:
    """The commonest class of each place, and the share of the others."""
    winner, most = stack[0], np.zeros(stack.shape[1:], np.int64)
    for number in np.unique(stack):
        votes = np.sum(stack == number, axis=0)
        winner, most = np.where(votes > most, number, winner), np.maximum(votes, most)
    return Reduced(winner.astype(stack.dtype), (1 - most / len(stack)).astype(np.float32))


def _check_kind(how: Reduction, kind: Kind | None, modality: Modality) -> None:
    if kind is None:
        raise MmtokError(
            f"reduce: several answers of '{modality.name}' (shown as {modality.show}) cannot be brought together in"
            " one; take the best of them (--best 1)"
        )
    if how == "vote" and kind != "classes":
        raise MmtokError(f"reduce: '{modality.name}' holds {kind}, only classes are voted on; use mean or median")

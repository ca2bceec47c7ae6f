"""How many tokens each decoding step reveals, at which temperature, and how strongly guided."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from mmtok.errors import MmtokError, unknown

COLDEST = 1e-9  # a falling schedule never reaches zero, which would mean greedy


def cosine(steps: int, tokens: int) -> Int[np.ndarray, " steps"]:
    """Few tokens first, most in the middle, few last (4M's variant of MaskGIT, Chang et al. 2022, section 3.3)."""
    masked = (1 + np.cos(np.pi * np.arange(steps + 1) / steps)) / 2
    counts = np.round(tokens * (masked[:-1] - masked[1:])).astype(np.int64)
    revealed = np.minimum(np.cumsum(counts), tokens)  # rounding may overshoot where there are few tokens
    return np.diff(revealed[:-1], prepend=0, append=tokens)


def linear(steps: int, tokens: int) -> Int[np.ndarray, " steps"]:
    """Equal counts, the larger ones first; zeros at the end where there are fewer tokens than steps."""
    return -np.sort(-np.diff(np.linspace(0, tokens, steps + 1).astype(np.int64)))


TOKEN_SCHEDULES: dict[str, Callable[[int, int], np.ndarray]] = {"cosine": cosine, "linear": linear}


def temperatures(schedule: str, start: float, counts: Int[np.ndarray, " steps"]) -> Float[np.ndarray, " steps"]:
    """Returns the temperature of each step.

    Args:
      schedule: `constant`; `linear`: falls with the fraction of tokens still to come before the step; or
        `onex:LOW:POWER`: from `start` to LOW like x**-POWER (as in 4M, the curve is read at the index of the step).
      start: First temperature, or the scale of the curve; 0 stays 0 (greedy).
      counts: Tokens per step.

    Raises:
      MmtokError: the schedule is not one of these.
    """
    name, numbers = parse(schedule)
    total = max(int(counts.sum()), 1)
    done = np.cumsum(counts) / total
    if name == "constant" or start == 0:
        return np.full(len(counts), float(start))
    if name == "linear":
        return np.maximum(start * (1 - np.concatenate([[0.0], done[:-1]])), COLDEST)
    low, power = numbers
    curve = np.linspace(1, 100, max(total, len(counts))) ** -power
    curve = (curve - curve[-1]) / (curve[0] - curve[-1]) if len(curve) > 1 and power else np.ones_like(curve)
    return np.maximum(low + (start - low) * (1 - done) * curve[: len(counts)], COLDEST)


RAMPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "constant": np.ones_like,
    "linear": lambda done: done,
    "cosine": lambda done: (1 - np.cos(np.pi * done)) / 2,
}
"""How far guidance has risen, from 0 to 1, by the share of tokens revealed after a step."""


def ramp(schedule: str, counts: Int[np.ndarray, " steps"]) -> Float[np.ndarray, " steps"]:
    """Returns how far guidance has risen in each step, from 0 to 1; see `RAMPS`."""
    return RAMPS[schedule](np.cumsum(counts) / max(int(counts.sum()), 1))


def parse(schedule: str) -> tuple[str, tuple[float, ...]]:
    """Splits a temperature schedule into its name and numbers.

    Raises:
      MmtokError: unknown name, or numbers that do not fit it.
    """
    name, *rest = schedule.split(":")
    if name not in ("constant", "linear", "onex"):
        raise unknown("temperature schedule", name, ("constant", "linear", "onex"))
    try:
        numbers = tuple(map(float, rest))
    except ValueError:
        numbers = (-1.0,)
    if len(numbers) != (2 if name == "onex" else 0) or not all(0 <= number < np.inf for number in numbers):
        raise MmtokError(
            f"temperature schedule '{schedule}': expected constant, linear or onex:LOW:POWER (e.g. onex:0.5:0.5)"
        )
    return name, numbers

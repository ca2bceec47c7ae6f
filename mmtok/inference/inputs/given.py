"""One sample to work on, and what holds many of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.source import Sample

_LONGEST_NAME = 200  # bytes; endings and numbers are added to it


@dataclasses.dataclass(frozen=True)
class Given:
    """One sample to work on.

    Attributes:
      number: Its place among the inputs.
      name: Unique; its files are named after it.
      values: Raw values by field; none from a token store.
      inputs: Raw field -> where the value came from, and its SHA-256.
      error: Why it cannot be used, if it cannot.
    """

    number: int
    name: str
    values: Sample
    inputs: Mapping[str, Mapping[str, str]]
    error: str = ""


@runtime_checkable
class Inputs(Protocol):
    """Samples to work on, by number."""

    @property
    def names(self) -> Sequence[str]:
        """Of all samples, in order; unique."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """Raw field -> how many samples have it at most."""
        ...

    @property
    def modalities(self) -> Sequence[str]:
        """What is given as tokens."""
        ...

    @property
    def masked(self) -> Sequence[str]:
        """Raw fields of which some samples are known in part."""
        ...

    def read(self, numbers: Sequence[int]) -> list[Given]:
        """Reads samples; what is wrong with one of them stands in its `error`."""
        ...

    def tokens(self, numbers: Sequence[int]) -> dict[str, TokenColumn]:
        """Reads what is given as tokens, one row per number."""
        ...


def check_name(name: str, *, where: Path) -> None:
    """Raises MmtokError for a name of a sample that cannot be the name of its files."""
    bad = name.startswith(".") or any(sign in name for sign in '/\\:*?"<>|') or not name.isprintable()
    if bad or not name or len(name.encode()) > _LONGEST_NAME:
        raise MmtokError(
            f"{where}: the sample '{name[:40]}' cannot name files; use at most {_LONGEST_NAME} letters, digits, - and _"
        )

"""Raw samples by index: the contract between data sets and everything that reads them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

Sample = Mapping[str, Any]
"""Raw field name -> array, string, or JSON-like value. A field the sample lacks is absent."""


@runtime_checkable
class Source(Protocol):
    """Random access to the raw samples of one split."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields that samples can have."""
        ...

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """A stable, unique name of sample `index`."""
        ...

    def read(self, indices: Sequence[int], fields: Sequence[str]) -> list[Sample]:
        """Reads the given fields (only those: reading is the expensive part) of the given samples.

        Raises:
          MmtokError: a file is missing, damaged or not what its field says, naming file and field.
        """
        ...


@runtime_checkable
class DataConfig(Protocol):
    """A frozen dataclass that knows how to make and open a data set."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, `train` among them."""
        ...

    def prepare(self, directory: Path) -> None:
        """Writes the data under `directory` where they have to be made; does nothing when they are there."""
        ...

    def open(self, split: str, directory: Path) -> Source:
        """Opens one split.

        Raises:
          MmtokError: no such split, or the data are not there.
        """
        ...

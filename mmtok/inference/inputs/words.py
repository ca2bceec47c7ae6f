"""Samples given as words: names of files, or text and JSON itself."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.inference.inputs.given import Given
from mmtok.inference.inputs.masks import with_mask
from mmtok.show import read_value, takes_text


@dataclasses.dataclass(frozen=True)
class Words:
    """Samples given as words that `mmtok.show.read_value` reads; see `mmtok.inference.inputs.given.Inputs`.

    Attributes:
      names: Of the samples.
      words: Of each sample by raw field: a file, or text and JSON itself.
      shows: Raw field -> how it is shown.
      masks: Name that masks go by in `words` -> the raw field of their pictures.
    """

    names: Sequence[str]
    words: Sequence[Mapping[str, str]]
    shows: Mapping[str, str]
    masks: Mapping[str, str]

    @property
    def counts(self) -> Mapping[str, int]:
        """Raw field -> how many samples have it at most."""
        counts = {field: sum(field in words for words in self.words) for field in self.shows}
        return {field: count for field, count in counts.items() if count and field not in self.masks}

    @property
    def masked(self) -> Sequence[str]:
        """Raw fields of which some samples are known in part."""
        return [field for name, field in self.masks.items() if any(name in words for words in self.words)]

    @property
    def modalities(self) -> Sequence[str]:
        """What is given as tokens."""
        return ()

    def read(self, numbers: Sequence[int]) -> list[Given]:
        """Reads samples; what is wrong with one of them stands in its `error`."""
        return [self._read(number, self.names[number], self.words[number]) for number in numbers]

    def tokens(self, numbers: Sequence[int]) -> dict[str, TokenColumn]:
        """Reads what is given as tokens, one row per number."""
        return {}

    def _read(self, number: int, name: str, words: Mapping[str, str]) -> Given:
        values: dict[str, Any] = {}
        inputs: dict[str, dict[str, str]] = {}
        try:
            for field, word in words.items():
                inputs[field] = identity(word, self.shows[field])
                if field not in self.masks:
                    values[field] = read_word(word, self.shows[field], what=f"field '{field}'")
            for mask in words.keys() & self.masks.keys():
                values = with_mask(values, self.masks[mask], Path(words[mask]))
        except (MmtokError, OSError, ValueError, RecursionError) as error:
            return Given(number, name, {}, inputs, str(error))
        return Given(number, name, values, inputs, "" if values else "nothing is given, every field is empty")


def read_word(word: str, show: str, *, what: str) -> Any:
    """Reads a file or a value.

    Raises:
      MmtokError: see `mmtok.show.read_value`; or the text is empty.
    """
    value = read_value(word, show)
    if isinstance(value, str) and not value.strip():
        raise MmtokError(f"{what}: the text is empty")
    return value


def identity(word: str, show: str) -> dict[str, str]:
    """Returns where a value comes from, and the SHA-256 of the file or of the text."""
    try:
        with open(word, "rb") as file:
            return {"file": word, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except (OSError, ValueError):  # no file of that name, or text that no file can be named
        if not takes_text(show):
            return {"file": word}
        return {"text": word, "sha256": hashlib.sha256(word.encode()).hexdigest()}

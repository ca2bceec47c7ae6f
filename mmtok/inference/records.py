"""`samples.jsonl`: one line for each sample that has been worked on, in order of their numbers."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmtok.errors import MmtokError
from mmtok.files import new_file

Record = Mapping[str, Any]


class Records:
    """The lines of the file, by the number of the sample; only their places are kept in memory.

    A line that an interruption cut short does not count.

    Raises:
      MmtokError: the file is damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        self._places: dict[int, int] = {}
        self._end = 0
        if not path.exists():
            return
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._places[self._parse(line)["number"]] = self._end
                self._end += len(line)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, number: int) -> bool:
        return number in self._places

    def __iter__(self) -> Iterator[Record]:
        """Reads all records in order of their numbers."""
        if self._places:
            with self.path.open("rb") as file:
                for number in sorted(self._places):
                    file.seek(self._places[number])
                    yield self._parse(file.readline())

    def read(self, numbers: Sequence[int]) -> list[Record]:
        """Reads the records of some numbers, which must be there."""
        with self.path.open("rb") as file:
            records = []
            for number in numbers:
                file.seek(self._places[number])
                records.append(self._parse(file.readline()))
        return records

    def append(self, records: Sequence[Record]) -> None:
        """Adds records, or puts them in the place of older ones of the same numbers."""
        lines = [_line(record) for record in records]
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.seek(self._end)
            file.truncate()  # what an interruption left
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        for record, line in zip(records, lines):
            self._places[record["number"]] = self._end
            self._end += len(line)

    def sort(self) -> None:
        """Rewrites the file in order of the numbers, without replaced lines."""
        places = {}
        with new_file(self.path) as temporary, temporary.open("wb") as file:
            for record in self:
                places[record["number"]] = file.tell()
                file.write(_line(record))
            self._end = file.tell()
        self._places = places

    def _parse(self, line: bytes) -> Record:
        try:
            record = json.loads(line)
            if isinstance(record["number"], int) and isinstance(record["name"], str):
                return record
        except (ValueError, KeyError, TypeError):
            pass
        raise MmtokError(f"{self.path}: damaged, a line of it is no record of a sample; use another folder")


def _line(record: Record) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"

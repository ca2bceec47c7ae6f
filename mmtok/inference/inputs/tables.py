"""Tables of values and files as samples: field -> cell for each name."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmtok.errors import MmtokError, unknown
from mmtok.show import takes_text

TABLES = (".csv", ".jsonl")
_NAME = "name"


def read_table(path: Path, shows: Mapping[str, str], fields: Sequence[str]) -> dict[str, dict[str, str]]:
    """Reads a table; see `mmtok.inference.inputs.origin.Origin.open`.

    Args:
      path: A file that ends like one of `TABLES`.
      shows: Raw field -> how it is shown.
      fields: Only these columns; empty means all.

    Returns:
      Name -> field -> file, or the value itself; what is empty is left out.

    Raises:
      MmtokError: the table is damaged, has a column that is no raw field, or two samples of one name.
    """
    named = _NAME not in shows  # a raw field of that name is a field
    samples: dict[str, dict[str, str]] = {}
    try:
        for line, row in _rows(path):
            for column in row:
                if column not in shows and not (named and column == _NAME) and not fields:
                    raise unknown(f"column of {path}", column, [*shows, *[_NAME] * named])
            name = (named and row.get(_NAME)) or f"{len(samples):06d}"
            if name in samples:
                raise MmtokError(f"{path}, line {line}: two samples of the same name '{name}'; names must be unique")
            cells = {field: row[field] for field in shows if field in row and (not fields or field in fields)}
            samples[name] = {field: _word(cell, path.parent, shows[field]) for field, cell in cells.items() if cell}
    except (csv.Error, UnicodeDecodeError) as error:
        raise MmtokError(f"{path}: not a {path.suffix[1:].upper()} table in UTF-8 ({error})") from None
    return samples


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the number of each line (from 1) and its cells by column; what a line lacks is left out or empty."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix.lower() == ".csv":
            reader = csv.DictReader(file, strict=True)
            columns = [*(reader.fieldnames or ())]
            for column in columns:
                if columns.count(column) > 1:
                    raise MmtokError(f"{path}: column '{column}' occurs twice")
            for row in reader:
                if None in row:
                    raise MmtokError(f"{path}, line {reader.line_num}: more cells than the {len(columns)} columns")
                yield reader.line_num, {column: cell or "" for column, cell in row.items()}
        else:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, {key: _cell(value) for key, value in _object(line, path, number).items()}


def _object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise MmtokError(f"{path}, line {number}: one JSON object per line was expected")
    return {key: value for key, value in row.items() if value is not None}


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _word(cell: str, folder: Path, show: str) -> str:
    """The file that a cell names, relative to the table, or else its text."""
    file = folder / cell
    try:
        there = file.is_file()
    except (OSError, ValueError):  # too long for the name of a file
        there = False
    return str(file) if there or not takes_text(show) else cell

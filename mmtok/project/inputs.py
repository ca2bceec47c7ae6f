"""What people have: folders of files, tables and token stores, read as samples."""

import csv
import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mmtok.batch import TokenColumn
from mmtok.data import Store
from mmtok.errors import MismatchError, MmtokError, suggest, unknown
from mmtok.project.loaded import Loaded
from mmtok.show import read_value, takes_text
from mmtok.source import Sample

TABLES = (".csv", ".jsonl")
_NAME = "name"
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

    def read(self, numbers: Sequence[int]) -> list[Given]:
        """Reads samples; what is wrong with one of them stands in its `error`."""
        ...

    def tokens(self, numbers: Sequence[int]) -> dict[str, TokenColumn]:
        """Reads what is given as tokens, one row per number."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """Where samples come from.

    Attributes:
      path: Folder of files, CSV or JSONL table, or token store.
      fields: Only these raw fields; empty means all there are.
      split: Of a token store.
    """

    path: str
    fields: tuple[str, ...] = ()
    split: str = ""

    def open(self, model: Loaded, *, asked: Collection[str] = ()) -> Inputs:
        """Finds the samples; reads the table, but none of the files.

        A folder holds sub-folders named after raw fields, in which files of one sample have the same name but for the
        ending; or the files of one field: that of `fields`, or else pictures are those of the only field in colour and
        `.txt` those of the only text. Of `x.npy` and `x.png`, as a depth is written, the first is read. A table has
        columns named after raw fields, with values or with files relative to the table, and may have a column `name`.

        Args:
          model: Says which raw fields there are.
          asked: Modalities that are to be made; what is made from the same raw field is not taken from a token store,
            unless `fields` names it.

        Raises:
          MmtokError: there is no such place or no sample in it, a field or column that the model does not have, two
            samples of one name, a damaged table; or `fields` or `split` do not fit.
          MismatchError: a token store was made with other tokenizers.
        """
        path = Path(self.path)
        if not path.exists():
            raise MmtokError(f"{path}: no such file or folder")
        model.check_fields(self.fields)
        if (path / "mmtok.json").exists():
            return _open_store(self, model, asked)
        if self.split:
            raise MmtokError(f"{path}: no token store, only that has splits ('{self.split}'); leave it out")
        if path.is_dir():
            samples = _folder(path, model.fields, self.fields)
        elif path.suffix.lower() in TABLES:
            samples = _table(path, model.fields, self.fields)
        else:
            raise MmtokError(f"{path}: a folder, a table ({', '.join(TABLES)}) or a token store was expected")
        if not samples:
            raise MmtokError(f"{path}: holds no samples")
        for name in samples:
            _check_name(name, where=path)
        inputs = _Words(tuple(samples), tuple(samples.values()), model.fields)
        counts = inputs.counts
        for field in self.fields:
            if field not in counts:
                raise MmtokError(f"{path}: no sample has the field '{field}'{suggest(field, counts)}")
        return inputs


@dataclasses.dataclass(frozen=True)
class _Words:
    """Samples given as words that `read_value` reads: files, or text and JSON itself."""

    names: Sequence[str]
    words: Sequence[Mapping[str, str]]
    shows: Mapping[str, str]

    @property
    def counts(self) -> Mapping[str, int]:
        counts = {field: sum(field in words for words in self.words) for field in self.shows}
        return {field: count for field, count in counts.items() if count}

    @property
    def modalities(self) -> Sequence[str]:
        return ()

    def read(self, numbers: Sequence[int]) -> list[Given]:
        return [self._read(number, self.names[number], self.words[number]) for number in numbers]

    def tokens(self, numbers: Sequence[int]) -> dict[str, TokenColumn]:
        return {}

    def _read(self, number: int, name: str, words: Mapping[str, str]) -> Given:
        values: dict[str, Any] = {}
        inputs: dict[str, dict[str, str]] = {}
        try:
            for field, word in words.items():
                inputs[field] = identity(word, self.shows[field])
                values[field] = read_word(word, self.shows[field], what=f"field '{field}'")
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


# --- folders ---------------------------------------------------------------------------------------------------------


def _folder(path: Path, shows: Mapping[str, str], fields: Sequence[str]) -> dict[str, dict[str, str]]:
    below = [item.name for item in _visible(path) if item.is_dir()]
    chosen = [name for name in below if name in (fields or shows)]
    if not chosen:
        files = [item for item in _visible(path) if item.is_file()]
        if not files and below:
            raise MmtokError(f"{path}: sub-folder '{below[0]}' is no raw field{suggest(below[0], fields or shows)}")
        field = _field_of(path, files, shows, fields)
        return {stem: {field: str(file)} for stem, file in _by_stem(files).items()}
    for name in () if fields else below:
        if name not in shows:
            raise MmtokError(f"{path}: sub-folder '{name}' is no raw field{suggest(name, shows)}")
    for name in fields:
        if name not in below:
            raise MmtokError(f"{path}: holds no sub-folder '{name}'{suggest(name, below)}")
    samples: dict[str, dict[str, str]] = {}
    for field in chosen:
        for stem, file in _by_stem([item for item in _visible(path / field) if item.is_file()]).items():
            samples.setdefault(stem, {})[field] = str(file)
    return dict(sorted(samples.items()))


def _field_of(path: Path, files: Sequence[Path], shows: Mapping[str, str], fields: Sequence[str]) -> str:
    """The raw field of files that lie in one folder."""
    if len(fields) > 1:
        raise MmtokError(f"{path}: holds no sub-folders {', '.join(fields)}")
    if fields or not files:
        return next(iter(fields or shows))
    endings = {file.suffix.lower() for file in files}
    show = "text" if endings == {".txt"} else "rgb" if endings.isdisjoint({".txt", ".json", ".npy"}) else ""
    found = [field for field in shows if shows[field] == show]
    if len(found) != 1:
        raise MmtokError(f"{path}: say by --fields of which raw field these files are (known: {', '.join(shows)})")
    return found[0]


def _by_stem(files: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in files:
        other = found.setdefault(file.stem, file)
        if other is not file and (other.suffix, file.suffix) != (".npy", ".png"):
            raise MmtokError(f"{other} and {file}: two samples of the same name; rename one of them")
    return found


def _visible(path: Path) -> list[Path]:
    return sorted(item for item in path.iterdir() if not item.name.startswith("."))


# --- tables ----------------------------------------------------------------------------------------------------------


def _table(path: Path, shows: Mapping[str, str], fields: Sequence[str]) -> dict[str, dict[str, str]]:
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


def _check_name(name: str, *, where: Path) -> None:
    bad = name.startswith(".") or any(sign in name for sign in '/\\:*?"<>|') or not name.isprintable()
    if bad or not name or len(name.encode()) > _LONGEST_NAME:
        raise MmtokError(
            f"{where}: the sample '{name[:40]}' cannot name files; use at most {_LONGEST_NAME} letters, digits, - and _"
        )


# --- token stores ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Stored:
    """Samples of one split of a token store."""

    store: Store
    split: str
    sources: Mapping[str, str]
    names: Sequence[str]

    @property
    def counts(self) -> Mapping[str, int]:
        return dict.fromkeys(self.sources.values(), len(self.names))

    @property
    def modalities(self) -> Sequence[str]:
        return list(self.sources)

    def read(self, numbers: Sequence[int]) -> list[Given]:
        columns = self.tokens(numbers)
        return [
            self._given(number, {name: column[row : row + 1] for name, column in columns.items()})
            for row, number in enumerate(numbers)
        ]

    def tokens(self, numbers: Sequence[int]) -> dict[str, TokenColumn]:
        columns = self.store.read(self.split, list(numbers))
        return {name: columns[name] for name in self.sources}

    def _given(self, number: int, columns: Mapping[str, TokenColumn]) -> Given:
        inputs = {
            name: {"tokens": f"{self.split}/{number}", "sha256": hashlib.sha256(column.values.tobytes()).hexdigest()}
            for name, column in columns.items()
            if column.length[0]
        }
        return Given(number, self.names[number], {}, inputs, "" if inputs else "nothing is given, it has no tokens")


def _open_store(origin: Origin, model: Loaded, asked: Collection[str]) -> _Stored:
    store = Store(origin.path)
    splits = list(store.splits)
    if not origin.split and len(splits) > 1:
        raise MmtokError(f"{origin.path}: a token store of several splits; say which one ({', '.join(splits)})")
    split = origin.split or splits[0]
    if split not in splits:
        raise unknown(f"split of token store {origin.path}", split, splits)
    made = {model.modalities[name].source for name in asked if name in model.modalities}
    sources = {}
    for item in store.modalities:
        ours = model.modalities.get(item.name)
        if ours is None or not ours.is_input or ours.source not in (origin.fields or model.fields.keys() - made):
            continue
        if ours.fingerprint != item.fingerprint:
            raise MismatchError(
                f"modality '{item.name}': token store {origin.path} was made with tokenizer {item.fingerprint}, the"
                f" model was trained with {ours.fingerprint}; tokenize the data with the model's tokenizers"
            )
        sources[item.name] = ours.source
    if not sources:
        raise MmtokError(f"{origin.path}: this token store holds nothing that the model reads but what is asked for")
    names = [key.replace("/", "-") for key in store.keys(split)]
    if len(set(names)) < len(names):
        raise MmtokError(f"{origin.path}: two samples of the same name in split '{split}'")
    for name in names:
        _check_name(name, where=Path(origin.path))
    return _Stored(store, split, sources, names)

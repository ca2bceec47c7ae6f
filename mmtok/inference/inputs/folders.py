"""Folders of files as samples: field -> file for each name."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmtok.errors import MmtokError, suggest


def read_folder(path: Path, shows: Mapping[str, str], fields: Sequence[str]) -> dict[str, dict[str, str]]:
    """Finds the samples of a folder; see `mmtok.inference.inputs.origin.Origin.open`.

    Args:
      path: The folder.
      shows: Raw field -> how it is shown.
      fields: Only these; empty means all there are.

    Returns:
      Name -> field -> file.

    Raises:
      MmtokError: a sub-folder that is no raw field, two files of one name, or the field of the files is not clear.
    """
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

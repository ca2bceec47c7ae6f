"""People's own data: one folder per field, files matched by stem."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mmtok.data.values import SUFFIXES, read_value
from mmtok.errors import MmtokError, suggest, unknown
from mmtok.source import Sample, Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldersConfig:
    """Folders of pictures, arrays, JSON and text files, one folder per field.

    A sample is what has the same stem (file name without suffix) in the folders; it may lack fields. Files of a field
    may lie in sub-folders to any depth. Hidden files and files of other types are ignored. See `mmtok.data.values`
    for what each type of file becomes.

    Attributes:
      root: The folder that holds the folders of the fields.
      fields: Folder below `root` by field; several fields may share one. Empty: every folder is a field.
      pick: JSON key by field, where the value is one entry of a JSON object and not the whole of it.
      match: `stem`: by file name; `path`: by the path below the field's folder, for data whose sub-folders repeat
        file names.
      validation: Share of the groups that goes to the split `validation`.
      test: Share of the groups that goes to the split `test`.
      group: Regular expression; what it matches in a stem (or path) is the sample's group, and a group never spans
        splits. Where it does not match, the sample is a group of its own. For example `[a-z0-9]+$` groups by the last
        word, which keeps `red-heart` and `blue-heart`, `man-cook` and `woman-cook` together.
      seed: Another seed gives another split. Splits hang on the group's name alone: adding files moves no sample.
    """

    root: Path
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    pick: Mapping[str, str] = dataclasses.field(default_factory=dict)
    match: Literal["stem", "path"] = "stem"
    validation: float = 0.1
    test: float = 0.0
    group: str = ".+"
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise MmtokError(
                f"validation {self.validation} and test {self.test} are shares that leave some of 1 for training"
            )
        try:
            re.compile(self.group)
        except re.error as error:
            raise MmtokError(f"group '{self.group}' is not a regular expression ({error})") from None

    @property
    def splits(self) -> tuple[str, ...]:
        """`train`, and the others that have a share."""
        others = {"validation": self.validation, "test": self.test}
        return ("train", *(name for name, share in others.items() if share > 0))

    def prepare(self, directory: Path) -> None:
        """Does nothing: the files are there."""

    def open(self, split: str, directory: Path) -> Source:
        """Opens one split; `directory` is not used.

        Raises:
          MmtokError: a folder is missing or empty, a stem occurs twice in one field, the fields share no sample, or
            the split has none.
        """
        if split not in self.splits:
            raise unknown("split", split, self.splits)
        files = {field: self._files(field, folder) for field, folder in self._folders().items()}
        for field in self.pick:
            if field not in files:
                raise unknown("field to pick from", field, files)
        names = sorted(set().union(*files.values()))
        if len(files) > 1 and all(sum(name in found for found in files.values()) == 1 for name in names):
            raise MmtokError(
                f"{self.root}: no file name occurs in two of the fields {', '.join(files)}; files of one sample must"
                " have the same name but for the suffix"
            )
        chosen = [name for name in names if self._split(name) == split]
        if not chosen:
            raise MmtokError(f"{self.root}: no sample falls into split '{split}'; give it a larger share")
        return _FoldersSource(files, chosen, self.pick)

    def _folders(self) -> dict[str, Path]:
        root = self.root
        if not root.is_dir():
            raise MmtokError(f"{root}: no such folder")
        if not self.fields:
            found = {p.name: p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")}
            if not found:
                raise MmtokError(f"{root}: holds no folders; put the files of each field into a folder of its own")
            return found
        return {field: root / folder for field, folder in self.fields.items()}

    def _files(self, field: str, folder: Path) -> dict[str, Path]:
        if not folder.is_dir():
            others = [path.name for path in self.root.iterdir() if path.is_dir()]
            raise MmtokError(f"{folder} of field '{field}': no such folder{suggest(folder.name, others)}")
        files: dict[str, Path] = {}
        for parent, folders, names in os.walk(folder, followlinks=True):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in sorted(names):
                path = Path(parent, name)
                if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                    continue
                relative = path.relative_to(folder).with_suffix("")
                stem = relative.name if self.match == "stem" else relative.as_posix()
                if stem in files:
                    hint = "" if self.match == "path" else ", or set match='path' if their folders tell them apart"
                    raise MmtokError(
                        f"field '{field}': {files[stem]} and {path} have the same name '{stem}'; rename one{hint}"
                    )
                files[stem] = path
        if not files:
            raise MmtokError(f"{folder} of field '{field}': holds no files of type {', '.join(SUFFIXES)}")
        return files

    def _split(self, name: str) -> str:
        found = re.search(self.group, name)
        group = found.group() if found else name
        digest = hashlib.blake2b(f"{self.seed}:{group}".encode(), digest_size=8).digest()
        place = int.from_bytes(digest, "big") / 2**64
        if place < self.test:
            return "test"
        return "validation" if place < self.test + self.validation else "train"


class _FoldersSource:
    def __init__(self, files: Mapping[str, Mapping[str, Path]], names: Sequence[str], pick: Mapping[str, str]):
        self._files, self._names, self._pick = files, names, pick

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self._files)

    def __len__(self) -> int:
        return len(self._names)

    def key(self, index: int) -> str:
        return self._names[index]

    def read(self, indices: Sequence[int], fields: Sequence[str]) -> list[Sample]:
        for field in fields:
            if field not in self._files:
                raise unknown("field", field, self._files)
        return [self._sample(self._names[index], fields) for index in indices]

    def _sample(self, name: str, fields: Sequence[str]) -> Sample:
        paths = {field: self._files[field][name] for field in fields if name in self._files[field]}
        values = {path: read_value(path) for path in set(paths.values())}  # fields may share a file
        return {field: self._picked(field, path, values[path]) for field, path in paths.items()}

    def _picked(self, field: str, path: Path, value: Any) -> Any:
        key = self._pick.get(field)
        if key is None:
            return value
        if not isinstance(value, dict) or key not in value:
            known = value if isinstance(value, dict) else ()
            raise MmtokError(f"{path}: field '{field}' wants the key '{key}', which is not there{suggest(key, known)}")
        return value[key]

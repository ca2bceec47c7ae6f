"""The built-in data set as a data config."""

import dataclasses
from pathlib import Path
from typing import Literal

from mmtok.errors import MmtokError, unknown
from mmtok.scenes import storage
from mmtok.scenes.measures import CELL
from mmtok.scenes.tables import setting
from mmtok.source import Source

_FIRST = {"train": 0, "validation": 1 << 40, "test": 2 << 40, "compositional": 3 << 40}
"""Number of the first scene of every split: far enough apart that splits never share a scene, however large."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """Procedural scenes with exact aligned modalities.

    Attributes:
      setting: `scenes`: 1 to 3 large objects, nearly fixed camera, plain floor. `scenes-hard`: up to 6 objects, moving
        camera, patterned floor.
      size: Pixels along one side, a multiple of 8.
      seed: Of all scenes.
      train: Number of scenes.
      validation: Number of scenes.
      test: Number of scenes.
      compositional: Number of scenes, each with a combination of colour and shape that no other split has.
    """

    setting: Literal["scenes", "scenes-hard"] = "scenes"
    size: int = 32
    seed: int = 0
    train: int = 20000
    validation: int = 1000
    test: int = 1000
    compositional: int = 500

    def __post_init__(self) -> None:
        setting(self.setting)
        if self.size < 2 * CELL or self.size % CELL:
            raise MmtokError(f"scenes: size {self.size} must be a multiple of {CELL} from {2 * CELL} on")
        for split in _FIRST:
            if not 1 <= getattr(self, split) < 1 << 40:
                raise MmtokError(f"scenes: number of {split} scenes is {getattr(self, split)}, must be at least 1")

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(_FIRST)

    def prepare(self, directory: Path) -> None:
        """Writes the data under `directory` on all cores; does nothing when they are there.

        Raises:
          MismatchError: the directory holds data of another config.
          MmtokError: the directory holds something else, or the disk is full.
        """
        storage.write(Path(directory), self, [self._part(split) for split in _FIRST])

    def open(self, split: str, directory: Path) -> Source:
        """Opens one split.

        Raises:
          MismatchError: the directory holds data of another config.
          MmtokError: no such split, or the data are not there.
        """
        if split not in _FIRST:
            raise unknown("split", split, _FIRST)
        if not storage.written(Path(directory), self):
            raise MmtokError(f"{directory}: holds no scenes; prepare the data first")
        return storage.ScenesSource(Path(directory), split)

    def _part(self, split: str) -> storage.Part:
        return storage.Part(
            name=split, first=_FIRST[split], count=getattr(self, split), held_out=split == "compositional"
        )

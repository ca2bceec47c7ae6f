"""Fields computed from other fields: how a config file adds a modality of its own."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmtok.errors import MmtokError, unknown
from mmtok.source import Sample, Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Derived:
    """A data set with computed fields added.

    For example `Derived(base=ScenesConfig(), needs=("depth",), fields={"thermal": lambda s: np.exp(-s["depth"])})`.

    Attributes:
      base: The data config whose fields are read.
      fields: Function of each new field. It gets a sample with the fields in `needs` and returns the value, or None
        where there is none. A new field may replace one of the base.
      needs: Fields of the base that the functions read. A sample that lacks one of them lacks the new fields too.
    """

    base: Any  # a DataConfig; Any lets the command line reach below it
    fields: Mapping[str, Callable[[Sample], Any]]
    needs: tuple[str, ...]

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits of the base."""
        return self.base.splits

    def prepare(self, directory: Path) -> None:
        """Prepares the base."""
        self.base.prepare(directory)

    def open(self, split: str, directory: Path) -> Source:
        """Opens one split of the base, with the new fields.

        Raises:
          MmtokError: the base lacks a field that is needed.
        """
        source = self.base.open(split, directory)
        for name in self.needs:
            if name not in source.fields:
                raise unknown("field needed by a derived field", name, source.fields)
        return _DerivedSource(source, self.fields, self.needs)


class _DerivedSource:
    def __init__(self, source: Source, functions: Mapping[str, Callable[[Sample], Any]], needs: tuple[str, ...]):
        self._source, self._functions, self._needs = source, functions, needs

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self._source.fields, *self._functions)))

    def __len__(self) -> int:
        return len(self._source)

    def key(self, index: int) -> str:
        return self._source.key(index)

    def read(self, indices: Sequence[int], fields: Sequence[str]) -> list[Sample]:
        computed = [name for name in fields if name in self._functions]
        plain = [name for name in fields if name not in self._functions]
        wanted = tuple(dict.fromkeys((*plain, *(self._needs if computed else ()))))
        samples = self._source.read(indices, wanted) if wanted else [{}] * len(indices)
        return [self._extend(sample, plain, computed, index) for sample, index in zip(samples, indices)]

    def _extend(self, sample: Sample, plain: Sequence[str], computed: Sequence[str], index: int) -> Sample:
        extended = {name: sample[name] for name in plain if name in sample}
        if all(name in sample for name in self._needs):
            for name in computed:
                value = self._compute(name, sample, index)
                if value is not None:
                    extended[name] = value
        return extended

    def _compute(self, name: str, sample: Sample, index: int) -> Any:
        try:
            return self._functions[name](sample)
        except Exception as error:
            raise MmtokError(
                f"derived field '{name}' of sample '{self.key(index)}' failed: {type(error).__name__}: {error}"
            ) from error

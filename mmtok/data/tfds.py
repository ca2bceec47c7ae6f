"""Any tensorflow-datasets directory in the array_record format, read without TensorFlow."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mmtok.errors import MmtokError, unknown
from mmtok.source import Sample, Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsConfig:
    """A data set that tensorflow-datasets has written.

    Texts become str and pictures of one channel (H, W); everything else is what tensorflow-datasets gives.

    Attributes:
      path: The folder with `dataset_info.json`.
      split_names: What to open for each split, in the split language of tensorflow-datasets (for example
        `{"train": "train[:95%]", "validation": "train[95%:]"}`). Empty: the splits it has, under their own names.
    """

    path: Path
    split_names: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.split_names or self._builder().info.splits)

    def prepare(self, directory: Path) -> None:
        """Does nothing: the data are there."""

    def open(self, split: str, directory: Path) -> Source:
        """Opens one split; `directory` is not used.

        Raises:
          MmtokError: no such split, or the folder is no tensorflow-datasets directory in the array_record format.
        """
        if split not in self.splits:
            raise unknown("split", split, self.splits)
        builder = self._builder()
        try:
            records = builder.as_data_source(
                self.split_names.get(split, split), deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
            )
        except Exception as error:
            raise MmtokError(f"{self.path}: split '{split}' cannot be opened ({error})") from error
        return _TfdsSource(split, records, builder.info.features)

    def _builder(self) -> Any:
        try:
            return tfds.builder_from_directory(self.path)
        except Exception as error:
            raise MmtokError(
                f"{self.path}: no data set of tensorflow-datasets ({error}); name the folder with dataset_info.json"
            ) from error


class _TfdsSource:
    def __init__(self, split: str, records: Any, features: Any):
        self._split, self._records, self._features = split, records, features

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self._features)

    def __len__(self) -> int:
        return len(self._records)

    def key(self, index: int) -> str:
        return f"{self._split}/{index}"

    def read(self, indices: Sequence[int], fields: Sequence[str]) -> list[Sample]:
        for field in fields:
            if field not in self._features:
                raise unknown("field", field, self._features)
        wanted = tfds.features.FeaturesDict({field: self._features[field] for field in fields})
        records = self._records.__getitems__([int(index) for index in indices])
        return [self._decode(wanted, record, index) for record, index in zip(records, indices)]

    def _decode(self, wanted: Any, record: bytes, index: int) -> Sample:
        try:
            sample = wanted.deserialize_example_np(record)
        except Exception as error:
            raise MmtokError(f"sample '{self.key(index)}' is damaged ({error})") from error
        return {name: _value(wanted[name], value) for name, value in sample.items() if value is not None}


def _value(feature: Any, value: Any) -> Any:
    if isinstance(feature, tfds.features.Text):
        return value.decode() if isinstance(value, bytes) else str(value)
    if isinstance(feature, tfds.features.Image) and np.ndim(value) == 3 and np.shape(value)[-1] == 1:
        return value[..., 0]
    return value

"""How token samples lie on disk: one tf.train.Example per sample, each column as the raw bytes of its tensor.

tensorflow-datasets reads the same records through the features declared here.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from mmtok.batch import TokenBatch, TokenColumn
from mmtok.errors import MmtokError
from mmtok.modality import Modality

KEY = "__key__"
"""Feature that holds the name of the sample."""

_Example: Any = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue]
_GROUP_BYTES = 16 * 1024
_GROUP_RECORDS = 16


def token_dtype(modality: Modality) -> np.dtype:
    """Returns the smallest of uint8, uint16 and int32 that holds every id of the vocabulary."""
    size = modality.vocab_size
    return np.dtype(np.uint8 if size <= 1 << 8 else np.uint16 if size <= 1 << 16 else np.int32)


def width(modality: Modality) -> int:
    """Returns the numbers at one position: codes, or channels where continuous."""
    return modality.channels if modality.kind == "continuous" else modality.codes


@dataclasses.dataclass(frozen=True)
class Records:
    """Turns token samples into records and back.

    Attributes:
      modalities: One column each.
      dtypes: Of the numbers on disk, by modality name.
    """

    modalities: tuple[Modality, ...]
    dtypes: Mapping[str, np.dtype]

    def __post_init__(self) -> None:
        for modality in self.modalities:
            if "/" in modality.name or modality.name == KEY:
                raise MmtokError(f"modality '{modality.name}': a token store takes neither '/' nor the name '{KEY}'")

    @property
    def sample_bytes(self) -> int:
        """Bytes of a sample that has every modality, at its longest."""
        return sum(m.size * width(m) * self.dtypes[m.name].itemsize for m in self.modalities)

    @property
    def options(self) -> str:
        """Options of the array_record writer.

        Several small records are compressed together, otherwise the names of the columns, repeated in every record,
        weigh as much as the tokens. (tensorflow-datasets and grain then log that groups of one would be faster for
        them; they read these all the same.)
        """
        return f"group_size:{min(max(_GROUP_BYTES // self.sample_bytes, 1), _GROUP_RECORDS)}"

    def features(self) -> Any:
        """Returns the content of `features.json`.

        A column has the modality's shape with an open first axis: an absent modality is empty, a sequence carries no
        padding. Codes and channels are the last axis; a single code has none.
        """
        columns: dict[str, Any] = {KEY: tfds.features.Text()}
        for modality in self.modalities:
            last = () if modality.kind != "continuous" and modality.codes == 1 else (width(modality),)
            shape = (None, *modality.shape[1:], *last)
            columns[modality.name] = tfds.features.Tensor(
                shape=shape, dtype=self.dtypes[modality.name], encoding=tfds.features.Encoding.BYTES
            )
        features = tfds.features.FeaturesDict(columns).to_json()
        return json.loads(json.dumps(features, sort_keys=True))  # their order changes from one process to the next

    def encode(self, batch: TokenBatch, keys: Sequence[str]) -> list[bytes]:
        """Returns one record per sample."""
        columns = [(KEY, [key.encode() for key in keys])]
        for modality in self.modalities:
            column = batch[modality.name]
            values = np.ascontiguousarray(column.values, dtype=self.dtypes[modality.name])
            columns.append((modality.name, [row[:used].tobytes() for row, used in zip(values, column.length)]))
        return [_serialize({name: blobs[i] for name, blobs in columns}) for i in range(len(keys))]

    def decode(self, records: Sequence[bytes]) -> dict[str, TokenColumn]:
        """Returns the samples in columns of the dtypes on disk, padded with 0.

        Raises:
          ValueError: a record is not what this object writes.
        """
        parsed = [_parse(record) for record in records]
        return {m.name: self._column(m, [_blob(fields, m.name) for fields in parsed]) for m in self.modalities}

    def _column(self, modality: Modality, blobs: list[bytes]) -> TokenColumn:
        dtype = self.dtypes[modality.name]
        numbers = np.frombuffer(b"".join(blobs), dtype=dtype).reshape(-1, width(modality))
        bytes_each = np.fromiter(map(len, blobs), dtype=np.int64, count=len(blobs))
        length = (bytes_each // (dtype.itemsize * width(modality))).astype(np.int32)
        values = np.zeros((len(blobs), modality.size, width(modality)), dtype)
        values[np.arange(modality.size) < length[:, None]] = numbers
        return TokenColumn(values, length)


def keys(records: Sequence[bytes]) -> list[str]:
    """Returns the names of the samples."""
    return [_blob(_parse(record), KEY).decode() for record in records]


def _serialize(blobs: Mapping[str, bytes]) -> bytes:
    example = _Example()
    for name, blob in blobs.items():
        example.features.feature[name].bytes_list.value.append(blob)
    return example.SerializeToString(deterministic=True)  # the order of a protobuf map is not defined otherwise


def _parse(record: bytes) -> Any:
    return _Example.FromString(record).features.feature


def _blob(fields: Any, name: str) -> bytes:
    values = fields[name].bytes_list.value
    if len(values) != 1:
        raise ValueError(f"the record has no column '{name}'")
    return values[0]

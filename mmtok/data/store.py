"""The token store: a folder of token samples that training reads at speed.

* `mmtok.json`: modalities with tokenizer fingerprints, splits, what the samples were made from.
* `features.json`, `dataset_info.json`: what `tfds.builder_from_directory` reads.
* `tokens-SPLIT.array_record-00000-of-00002`, ...: the samples, see `mmtok.data.records`.
* `SPLIT.counts.npz`: how often each id occurs, per modality.
* `SPLIT.unfinished/`: only while `mmtok.data.tokenize` is at work, or was interrupted.
"""

import contextlib
import dataclasses
import functools
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]
from jaxtyping import Int

from mmtok.batch import TokenBatch, TokenColumn
from mmtok.config import from_json
from mmtok.data import records
from mmtok.errors import MmtokError, unknown
from mmtok.files import read_json
from mmtok.modality import Modality

NAME = "tokens"
VERSION = 1
UNFINISHED = ".unfinished"
_OPEN_SHARDS = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """One split of a store.

    Attributes:
      samples: Number of samples.
      shard_size: Samples per shard; the last shard may hold fewer.
      keys: SHA-256 of the keys of all samples.
    """

    samples: int
    shard_size: int
    keys: str

    @property
    def shard_lengths(self) -> list[int]:
        """Samples in each shard."""
        starts = range(0, self.samples, self.shard_size)
        return [min(self.shard_size, self.samples - start) for start in starts]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metadata:
    """The content of `mmtok.json`.

    Attributes:
      version: Of this layout.
      modalities: With the fingerprint of the tokenizer that made each.
      dtypes: Names of the dtypes on disk by modality name.
      source: What the samples were made from, in words or as the data config.
      splits: By name.
    """

    version: int
    modalities: tuple[Modality, ...]
    dtypes: dict[str, str]
    source: Any
    splits: dict[str, Split]

    @property
    def records(self) -> records.Records:
        """The layout of the records."""
        return records.Records(self.modalities, {name: np.dtype(dtype) for name, dtype in self.dtypes.items()})


def read_metadata(folder: Path) -> Metadata:
    """Reads `mmtok.json`.

    Raises:
      MmtokError: it is missing, damaged, or of another version.
    """
    path = folder / "mmtok.json"
    data = read_json(path)
    version = data.get("version") if isinstance(data, dict) else None
    if version != VERSION:
        raise MmtokError(f"{path}: token store version {VERSION} expected, {version} found; tokenize the data again")
    return from_json(Metadata, data, where=str(path))


def shard_name(split: str, index: int, count: int) -> str:
    """Returns the file name of a shard, as tensorflow-datasets expects it."""
    return f"{NAME}-{split}.array_record-{index:05d}-of-{count:05d}"


class Store:
    """Reads a token store.

    Args:
      folder: Where `mmtok.data.tokenize` wrote it.
      memory: Bytes a split may take in memory. A split whose columns fit is read once and then served from there;
        a larger one is read record by record.

    Raises:
      MmtokError: there is no store, or its writing was interrupted.
    """

    def __init__(self, folder: str | os.PathLike, *, memory: int = 2 << 30):
        self.folder = Path(folder)
        found = (self.folder / "mmtok.json").exists()
        metadata = read_metadata(self.folder) if found else None
        for place in sorted(self.folder.glob(f"*{UNFINISHED}")):
            split = place.name.removesuffix(UNFINISHED)
            if metadata is None or split not in metadata.splits:
                raise MmtokError(
                    f"token store {self.folder} is unfinished (split '{split}' was interrupted);"
                    " run the same tokenize command again, it continues where it stopped"
                )
        if metadata is None:
            raise MmtokError(f"{self.folder} holds no token store (no mmtok.json); make one with `mmtok tokenize`")
        self._metadata, self._records, self._memory = metadata, metadata.records, memory
        self._cache: dict[str, dict[str, TokenColumn]] = {}
        self._reader = functools.lru_cache(maxsize=_OPEN_SHARDS)(self._open)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities, with the fingerprints of their tokenizers."""
        return self._metadata.modalities

    @property
    def splits(self) -> dict[str, int]:
        """Number of samples by split."""
        return {name: split.samples for name, split in self._metadata.splits.items()}

    @property
    def source(self) -> Any:
        """What the samples were made from, as the writer was told."""
        return self._metadata.source

    def read(self, split: str, indices: Sequence[int] | Int[np.ndarray, " B"]) -> TokenBatch:
        """Reads B samples.

        Returns:
          One column per modality: ids as int32, continuous values as they were stored; positions beyond the length
          are 0, the length of an absent modality is 0.
        """
        chosen = np.asarray(indices, dtype=np.int64)
        samples = self._split(split).samples
        if chosen.size and not (chosen.min() >= 0 and chosen.max() < samples):
            raise IndexError(f"indices {chosen.min()}..{chosen.max()} of split '{split}', which has {samples} samples")
        if self._records.sample_bytes * samples <= self._memory:
            columns = {name: column[chosen] for name, column in self._columns(split).items()}
        else:
            columns = self._fetch(split, chosen)
        return {m.name: _widen(m, columns[m.name]) for m in self.modalities}

    def keys(self, split: str) -> list[str]:
        """Returns the names of all samples of a split, in order."""
        return [key for shard in self._shards(split) for key in records.keys(shard)]

    def counts(self, split: str) -> dict[str, Int[np.ndarray, "K V"]]:
        """Returns how often each id occurs at each code, for every modality but the continuous ones."""
        self._split(split)
        path = self.folder / f"{split}.counts.npz"
        try:
            return read_counts(path)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise MmtokError(f"{path}: missing or damaged ({error}); tokenize the data again") from None

    def entropy(self, name: str, *, split: str = "train") -> float:
        """Returns the marginal entropy of one id of a modality in nats, the mean over its codes.

        It is the loss of a model that knows how often each id occurs and nothing else.
        """
        counts = self.counts(split)
        if name not in counts:
            raise unknown("modality of tokens", name, counts)
        share = counts[name] / np.maximum(counts[name].sum(axis=1, keepdims=True), 1)
        return float(-(share * np.log(np.where(share > 0, share, 1))).sum(axis=1).mean())

    def _split(self, name: str) -> Split:
        if name not in self._metadata.splits:
            raise unknown(f"split of token store {self.folder}", name, self._metadata.splits)
        return self._metadata.splits[name]

    def _columns(self, split: str) -> dict[str, TokenColumn]:
        if split not in self._cache:
            parts = [self._records.decode(shard) for shard in self._shards(split)]
            self._cache[split] = {m.name: _concatenate([part[m.name] for part in parts]) for m in self.modalities}
        return self._cache[split]

    def _shards(self, split: str) -> Iterator[list[bytes]]:
        for index, expected in enumerate(self._split(split).shard_lengths):
            with self._damage(split, index):
                shard = self._reader(split, index).read_all()
                if len(shard) != expected:
                    raise ValueError(f"{len(shard)} records found, {expected} expected")
            yield shard

    def _fetch(self, split: str, indices: np.ndarray) -> dict[str, TokenColumn]:
        shard, position = np.divmod(indices, self._split(split).shard_size)
        found: list[bytes] = [b""] * len(indices)
        for index in np.unique(shard):
            (rows,) = np.nonzero(shard == index)
            with self._damage(split, int(index)):
                for row, record in zip(rows, self._reader(split, int(index)).read(position[rows].tolist())):
                    found[row] = record
        return self._records.decode(found)

    def _path(self, split: str, index: int) -> Path:
        return self.folder / shard_name(split, index, len(self._split(split).shard_lengths))

    def _open(self, split: str, index: int) -> Any:
        options = "readahead_buffer_size:0,max_parallelism:0"  # random access
        return array_record_module.ArrayRecordReader(str(self._path(split, index)), options)

    @contextlib.contextmanager
    def _damage(self, split: str, index: int) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError) as error:
            path = self._path(split, index)
            raise MmtokError(f"{path}: missing or damaged ({error}); delete the store and tokenize again") from error


def read_counts(path: Path) -> dict[str, Int[np.ndarray, "K V"]]:
    """Reads how often each id occurs, by modality."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name].astype(np.int64) for name in arrays.files}


def _concatenate(parts: Sequence[TokenColumn]) -> TokenColumn:
    return TokenColumn(np.concatenate([p.values for p in parts]), np.concatenate([p.length for p in parts]))


def _widen(modality: Modality, column: TokenColumn) -> TokenColumn:
    if modality.kind == "continuous":
        return column
    return TokenColumn(column.values.astype(np.int32), column.length)  # ids are computed with, uint16 would wrap

"""Writing a token store: every sample of a split is encoded once, shard by shard.

A finished shard is renamed into its place together with its counts; whatever was interrupted starts again with the
first shard that lacks them. Batches never cross shards, so an interrupted and resumed store equals an uninterrupted
one bit for bit.
"""

import dataclasses
import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from mmtok.batch import TokenBatch, TokenColumn
from mmtok.codec import Codec
from mmtok.config import from_json, to_json
from mmtok.data.records import Records, token_dtype, width
from mmtok.data.store import NAME, UNFINISHED, VERSION, Metadata, Split, read_counts, read_metadata, shard_name
from mmtok.errors import MismatchError, MmtokError, unknown
from mmtok.files import new_file, read_json, write_json
from mmtok.modality import Modality, by_name
from mmtok.progress import Progress, say
from mmtok.source import Sample, Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plan:
    """What an unfinished split is going to hold; a resumed run must agree with it."""

    modalities: tuple[Modality, ...]
    dtypes: dict[str, str]
    split: Split

    @property
    def records(self) -> Records:
        """The layout of the records."""
        return Records(self.modalities, {name: np.dtype(dtype) for name, dtype in self.dtypes.items()})


def tokenize(
    source: Source,
    codecs: Sequence[Codec],
    *,
    folder: str | os.PathLike,
    split: str,
    batch_size: int = 64,
    shard_size: int = 4096,
    description: Any = None,
) -> None:
    """Encodes one split of a data set into a token store, or continues where an interrupted call stopped.

    Each field is read once per sample, however many codecs use it. A split that is already there is left as it is.

    Args:
      source: The raw samples.
      codecs: One per modality of the store.
      folder: Of the store; other splits made with the same tokenizers may already be there.
      split: Name of the split.
      batch_size: Samples encoded at once.
      shard_size: Samples per shard (rounded up to whole batches): what an interruption can cost at most.
      description: What the samples come from, kept in the metadata: text or a config.

    Raises:
      MismatchError: the store was begun or made with other tokenizers or from other samples.
      MmtokError: a sample is damaged or does not fit its tokenizer, naming the sample; the disk is full.
    """
    folder = Path(folder)
    by_name(tuple(codec.modality for codec in codecs))
    for codec in codecs:
        if codec.modality.source not in source.fields:
            raise unknown(f"field (source of modality '{codec.modality.name}')", codec.modality.source, source.fields)
    if len(source) == 0:
        raise MmtokError(f"split '{split}' has no samples; there is nothing to tokenize")
    plan = _plan(source, codecs, shard_size=-(-shard_size // batch_size) * batch_size)
    records = plan.records
    work = folder / f"{split}{UNFINISHED}"
    metadata = read_metadata(folder) if (folder / "mmtok.json").exists() else None
    if metadata is not None:
        there = metadata.splits.get(split, plan.split)
        _agree(plan, _Plan(modalities=metadata.modalities, dtypes=metadata.dtypes, split=there), where=folder)
        if split in metadata.splits:
            shutil.rmtree(work, ignore_errors=True)
            say(f"tokenize {split}: {folder} already holds the {there.samples} samples")
            return
    if any(work.glob("*.npz")):
        _agree(plan, from_json(_Plan, read_json(work / "plan.json"), where=str(work / "plan.json")), where=folder)
    else:
        write_json(work / "plan.json", to_json(plan))
    _encode(source, codecs, records, plan=plan, work=work, split=split, batch_size=batch_size)
    _finish(folder, metadata, plan=plan, work=work, split=split, description=description)


def _plan(source: Source, codecs: Sequence[Codec], *, shard_size: int) -> _Plan:
    modalities = tuple(codec.modality for codec in codecs)
    dtypes = {m.name: stored_dtype(codec).name for m, codec in zip(modalities, codecs)}
    digest = hashlib.sha256("\n".join(source.key(i) for i in range(len(source))).encode()).hexdigest()
    return _Plan(
        modalities=modalities,
        dtypes=dtypes,
        split=Split(samples=len(source), shard_size=shard_size, keys=digest),
    )


def stored_dtype(codec: Codec) -> np.dtype:
    """Returns the dtype of a codec's tokens or vectors in a store."""
    if codec.modality.kind != "continuous":
        return token_dtype(codec.modality)
    return codec.encode([None]).values.dtype  # a missing value tells the dtype of the present ones


def _agree(plan: _Plan, found: _Plan, *, where: Path) -> None:
    ours, theirs = by_name(plan.modalities), by_name(found.modalities)
    for name in sorted(ours.keys() ^ theirs.keys()):
        raise MismatchError(
            f"token store {where} has the modalities {sorted(theirs)}, the given tokenizers make {sorted(ours)}"
            f" ('{name}' differs); use the same tokenizers or another folder"
        )
    for name, modality in ours.items():
        if modality.fingerprint != theirs[name].fingerprint:
            raise MismatchError(
                f"modality '{name}': token store {where} was made by the tokenizer {theirs[name].fingerprint}, the"
                f" given one is {modality.fingerprint}; use the same tokenizer or another folder"
            )
        if modality != theirs[name] or plan.dtypes[name] != found.dtypes[name]:
            raise MismatchError(
                f"modality '{name}': token store {where} declares it otherwise than the given tokenizer"
                f" ({theirs[name]} against {modality}); use another folder"
            )
    if plan.split != found.split:
        raise MismatchError(
            f"token store {where} holds or expects other samples ({found.split.samples} in shards of"
            f" {found.split.shard_size}, keys {found.split.keys[:8]}) than the data set has now ({plan.split.samples}"
            f" in shards of {plan.split.shard_size}, keys {plan.split.keys[:8]}); delete the folder or use another"
        )


def _encode(
    source: Source,
    codecs: Sequence[Codec],
    records: Records,
    *,
    plan: _Plan,
    work: Path,
    split: str,
    batch_size: int,
) -> None:
    size, samples = plan.split.shard_size, plan.split.samples
    shards = range(len(plan.split.shard_lengths))
    missing = [shard for shard in shards if not _counts_path(work, shard).exists()]
    done = samples - sum(plan.split.shard_lengths[shard] for shard in missing)
    batches = [
        range(start, min(start + batch_size, (shard + 1) * size, samples))
        for shard in missing
        for start in range(shard * size, min((shard + 1) * size, samples), batch_size)
    ]
    fields = tuple(dict.fromkeys(m.source for m in plan.modalities))
    with Progress(f"tokenize {split}", total=samples, unit="samples", start=done) as progress:
        reading = _ahead(source, batches, fields)
        for shard in missing:
            counts = _Counts(plan.modalities)
            with new_file(_shard_path(work, shard)) as path, _Writer(path, records.options) as writer:
                for _ in range(shard * size, min((shard + 1) * size, samples), batch_size):
                    indices, raw = next(reading)
                    keys = [source.key(index) for index in indices]
                    batch = {codec.modality.name: _column(codec, raw, keys) for codec in codecs}
                    counts.add(batch)
                    writer.write(records.encode(batch, keys))
                    progress.update(len(indices))
            counts.save(_counts_path(work, shard))


def _ahead(source: Source, batches: Iterable[range], fields: tuple[str, ...]) -> Iterator[tuple[range, list[Sample]]]:
    """Yields the raw samples of each batch, reading the next one while this one is encoded."""
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        for indices in batches:
            after = indices, pool.submit(source.read, indices, fields)
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = after
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def _column(codec: Codec, samples: Sequence[Sample], keys: Sequence[str]) -> TokenColumn:
    modality = codec.modality
    values = [sample.get(modality.source) for sample in samples]
    try:
        column = codec.encode(values)
    except MmtokError as error:
        raise _blame(codec, values, keys) or error from None
    shape = (len(values), modality.size, width(modality))
    if column.values.shape != shape or column.length.shape != shape[:1]:
        raise MmtokError(f"tokenizer of '{modality.name}' gave values of shape {column.values.shape}, not {shape}")
    if modality.kind != "continuous" and not _within(column.values, modality.vocab_size):
        raise MmtokError(f"tokenizer of '{modality.name}' gave ids outside its vocabulary of {modality.vocab_size}")
    return column


def _blame(codec: Codec, values: Sequence[Any], keys: Sequence[str]) -> MmtokError | None:
    """Finds the first sample that cannot be encoded."""
    for value, key in zip(values, keys):
        try:
            codec.encode([value])
        except MmtokError as error:
            return MmtokError(f"sample '{key}', field '{codec.modality.source}': {error}")
    return None


def _within(ids: np.ndarray, size: int) -> bool:
    return bool(ids.min() >= 0 and ids.max() < size)


class _Counts:
    """How often each id occurs, by modality of tokens: (K, V) each."""

    def __init__(self, modalities: tuple[Modality, ...]):
        self._tables = {m.name: np.zeros((m.codes, m.vocab_size), np.int64) for m in modalities if m.is_target}

    def add(self, batch: TokenBatch) -> None:
        for name, table in self._tables.items():
            column = batch[name]
            used = column.values[np.arange(column.values.shape[1]) < column.length[:, None]]
            for code in range(len(table)):
                table[code] += np.bincount(used[:, code], minlength=table.shape[1])

    def add_file(self, path: Path) -> None:
        for name, table in read_counts(path).items():
            self._tables[name] += table

    def save(self, path: Path) -> None:
        # Compressed and in the smallest dtype: of a small store the counts would weigh as much as the tokens.
        tables: dict[str, Any] = {n: t.astype(np.min_scalar_type(t.max())) for n, t in self._tables.items()}
        with new_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **tables)


class _Writer:
    """An array_record file; a full disk becomes the OSError it is."""

    def __init__(self, path: Path, options: str):
        self._path, self._writer = path, array_record_module.ArrayRecordWriter(str(path), options)

    def write(self, records: Sequence[bytes]) -> None:
        self._call(lambda: [self._writer.write(record) for record in records])

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *error: object) -> None:
        self._call(self._writer.close)

    def _call(self, action: Any) -> None:
        try:
            action()
        except RuntimeError as error:
            if os.strerror(errno.ENOSPC) in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path)) from error
            raise


def _finish(folder: Path, metadata: Metadata | None, *, plan: _Plan, work: Path, split: str, description: Any) -> None:
    """Moves the shards into place and declares the split; `mmtok.json`, written last, is what makes it whole."""
    counts = _Counts(plan.modalities)
    shards = range(len(plan.split.shard_lengths))
    for shard in shards:
        counts.add_file(_counts_path(work, shard))
        if _shard_path(work, shard).exists():  # else an earlier call was interrupted in here
            _shard_path(work, shard).replace(folder / shard_name(split, shard, len(shards)))
    counts.save(folder / f"{split}.counts.npz")
    metadata = Metadata(
        version=VERSION,
        modalities=plan.modalities,
        dtypes=plan.dtypes,
        source=to_json(description) if metadata is None else metadata.source,
        splits={**(metadata.splits if metadata else {}), split: plan.split},
    )
    write_json(folder / "features.json", metadata.records.features())
    write_json(folder / "dataset_info.json", _dataset_info(folder, metadata.splits))
    write_json(folder / "mmtok.json", to_json(metadata))
    shutil.rmtree(work)


def _dataset_info(folder: Path, splits: Mapping[str, Split]) -> Any:
    """The description tensorflow-datasets wants, as JSON of its protocol buffer (64-bit numbers are strings)."""

    def describe(name: str, split: Split) -> Any:
        lengths = split.shard_lengths
        paths = [folder / shard_name(name, shard, len(lengths)) for shard in range(len(lengths))]
        return {
            "name": name,
            "shardLengths": [str(length) for length in lengths],
            "numBytes": str(sum(path.stat().st_size for path in paths)),
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        }

    return {
        "name": NAME,
        "version": "1.0.0",
        "description": "Token samples written by mmtok.",
        "fileFormat": "array_record",
        "splits": [describe(name, split) for name, split in splits.items()],
    }


def _shard_path(work: Path, shard: int) -> Path:
    return work / f"{shard:05d}.array_record"


def _counts_path(work: Path, shard: int) -> Path:
    return work / f"{shard:05d}.npz"

"""Samples on disk through tensorflow-datasets: written in parallel and only ever seen whole."""

import concurrent.futures
import dataclasses
import multiprocessing
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mmtok.config import from_json, to_json
from mmtok.errors import MismatchError, MmtokError, unknown
from mmtok.files import new_file, read_json, write_json
from mmtok.progress import Progress
from mmtok.scenes.measures import CELL, FEATURES
from mmtok.scenes.samples import FIELDS, samples
from mmtok.scenes.tables import CAMERA, METADATA_RANGES, SHAPES
from mmtok.source import Sample

_NAME = "scenes"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_CONFIG = "config.json"
_ANEW = "remove the folder and prepare the data anew"
_SHARD = 1000  # samples per file
_BATCH = 40  # samples made together
_FEW_PIXELS = 1 << 21
_OPTIONS = "group_size:1,zstd:1"  # one sample per read; light compression writes twice as fast as the default


@runtime_checkable
class Recipe(Protocol):
    """A frozen dataclass that says what scenes are like."""

    @property
    def setting(self) -> str:
        """Name of the setting."""
        ...

    @property
    def size(self) -> int:
        """Pixels along one side."""
        ...

    @property
    def seed(self) -> int:
        """Of all scenes."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One split to be written.

    Attributes:
      name: Of the split.
      first: Number of its first scene.
      count: Number of scenes.
      held_out: As in `samples`.
    """

    name: str
    first: int
    count: int
    held_out: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Shard:
    part: Part
    index: int
    of: int

    @property
    def file(self) -> str:
        return f"{_NAME}-{self.part.name}.array_record-{self.index:05d}-of-{self.of:05d}"

    @property
    def rows(self) -> range:
        """Indices in the split."""
        return range(self.index * _SHARD, min((self.index + 1) * _SHARD, self.part.count))


def write(directory: Path, config: Recipe, parts: Sequence[Part]) -> None:
    """Writes all parts under `directory`, on all cores; does nothing when they are there.

    The work goes on in a folder beside `directory` that takes its name when everything is whole. After a killed call
    the next one goes on with the shards that are missing.

    Args:
      directory: New, empty, or already written with the same config.
      config: Recorded with the data.
      parts: The splits.

    Raises:
      MismatchError: the directory holds data of another config.
      MmtokError: the directory holds something else, or the disk is full.
    """
    if written(directory, config):
        return
    if directory.exists() and any(directory.iterdir()):
        raise MmtokError(f"{directory}: holds other files; name a new or empty folder for the scenes")
    work = directory.parent / f".{directory.name}.partial"
    if work.exists() and not _same(work, config):
        shutil.rmtree(work)
    for broken in work.glob(".*.tmp"):  # of a killed call
        broken.unlink()
    write_json(work / _CONFIG, to_json(config))
    shards = _shards(parts)
    _write_shards(work, config, shards)
    _write_metadata(work, config, shards)
    work.replace(directory)


def _shards(parts: Sequence[Part]) -> list[_Shard]:
    many = {part.name: -(-part.count // _SHARD) for part in parts}
    return [_Shard(part=part, index=index, of=many[part.name]) for part in parts for index in range(many[part.name])]


def written(directory: Path, config: Recipe) -> bool:
    """Whether `directory` holds the data of this config, whole.

    Raises:
      MismatchError: it holds those of another config.
    """
    if not (directory / _CONFIG).exists():
        return False
    if not _same(directory, config):
        found = read_json(directory / _CONFIG)
        wanted = to_json(config)
        named = [key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key]]
        have = ", ".join(f"{key}={found.get(key)}" for key in named) if isinstance(found, dict) else "other data"
        want = ", ".join(f"{key}={wanted[key]}" for key in named)
        raise MismatchError(
            f"{directory}: holds scenes with {have}, asked for {want};"
            " name another folder, or remove this one to have it made anew"
        )
    return True


def _same(directory: Path, config: Recipe) -> bool:
    path = directory / _CONFIG
    if not path.exists():
        return False
    try:
        return from_json(type(config), read_json(path), where=str(path)) == config
    except MmtokError:
        return False


def _write_shards(work: Path, config: Recipe, shards: Sequence[_Shard]) -> None:
    missing = [shard for shard in shards if not (work / shard.file).exists()]
    total = sum(len(shard.rows) for shard in shards)
    left = sum(len(shard.rows) for shard in missing)
    # Starting workers takes seconds: a small job is done sooner here.
    workers = min(os.cpu_count() or 1, len(missing)) if left * config.size**2 > _FEW_PIXELS else 1
    with Progress(f"making {config.setting}", total=total, unit="scenes", start=total - left) as progress:
        if workers <= 1:
            for shard in missing:
                _write_shard(work, config, shard)
                progress.update(len(shard.rows))
            return
        # Spawned, because a fork of a process that runs JAX threads may hang.
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
            jobs = {pool.submit(_write_shard, work, config, shard): shard for shard in missing}
            for job in concurrent.futures.as_completed(jobs):
                job.result()
                progress.update(len(jobs[job].rows))


def _end_with_parent() -> None:
    """Ends this worker when the process that started it is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write_shard(work: Path, config: Recipe, shard: _Shard) -> None:
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]  # compiled

    features = _features(config.size)
    with new_file(work / shard.file) as temporary:
        writer = array_record_module.ArrayRecordWriter(str(temporary), _OPTIONS)
        for start in range(shard.rows.start, shard.rows.stop, _BATCH):
            rows = np.arange(start, min(start + _BATCH, shard.rows.stop), dtype=np.int64)
            made = samples(
                config.setting,
                rows + shard.part.first,
                size=config.size,
                seed=config.seed,
                held_out=shard.part.held_out,
            )
            for sample in made:
                writer.write(features.serialize_example(_to_record(sample)))
        writer.close()


def _write_metadata(work: Path, config: Recipe, shards: Sequence[_Shard]) -> None:
    import tensorflow_datasets as tfds
    from etils import epath

    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(work), dataset_name=_NAME, filetype_suffix="array_record", template=_TEMPLATE
    )
    infos = []
    for name in dict.fromkeys(shard.part.name for shard in shards):
        own = [shard for shard in shards if shard.part.name == name]
        infos.append(
            tfds.core.SplitInfo(
                name=name,
                shard_lengths=[len(shard.rows) for shard in own],
                num_bytes=sum((work / shard.file).stat().st_size for shard in own),
                filename_template=template,
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=work,
        features=_features(config.size),
        split_infos=infos,
        filename_template=template,
        check_data=False,  # reads through TensorFlow
        description=f"Procedural scenes with aligned modalities, setting '{config.setting}', seed {config.seed}.",
    )


def _features(size: int) -> Any:
    import tensorflow_datasets as tfds

    def tensor(shape: tuple[int | None, ...], dtype: type) -> Any:
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=tfds.features.Encoding.BYTES)

    return tfds.features.FeaturesDict(
        {
            "rgb": tensor((size, size, 3), np.uint8),
            "depth": tensor((size, size), np.float32),
            "normal": tensor((size, size, 3), np.float32),
            "label": tensor((size, size), np.uint8),
            "instance": tensor((size, size), np.uint8),
            "edge": tensor((size, size), np.uint8),
            "caption": tfds.features.Text(),
            "box": tensor((None, 5), np.float32),  # shape index, xmin, ymin, xmax, ymax
            "palette": tensor((None, 3), np.uint8),
            "metadata": tensor((len(METADATA_RANGES),), np.float32),
            "camera": tensor((len(CAMERA),), np.float32),
            "feature": tensor((size // CELL, size // CELL, FEATURES), np.float32),
        }
    )


def _to_record(sample: Mapping[str, Any]) -> dict[str, Any]:
    boxes = [[SHAPES.index(item["label"]), *item["box"]] for item in sample["box"]]
    return {
        **sample,
        "box": np.array(boxes, np.float32).reshape(-1, 5),
        "metadata": np.array([sample["metadata"][key] for key in METADATA_RANGES], np.float32),
    }


def _from_record(record: Mapping[str, Any]) -> Sample:
    sample = dict(record)
    if "caption" in sample:
        sample["caption"] = sample["caption"].decode()
    if "box" in sample:
        sample["box"] = [{"label": SHAPES[int(row[0])], "box": row[1:].tolist()} for row in sample["box"]]
    if "metadata" in sample:
        sample["metadata"] = dict(zip(METADATA_RANGES, sample["metadata"].tolist()))
    return sample


class ScenesSource:
    """Random access to one written split (a `mmtok.source.Source`)."""

    def __init__(self, directory: Path, split: str):
        import tensorflow_datasets as tfds
        from google.protobuf import json_format

        self._directory, self._split = directory, split
        self._readers: dict[tuple[str, ...], Any] = {}
        try:
            self._builder = tfds.builder_from_directory(directory)
            self._length = self._builder.info.splits[split].num_examples
        except (ValueError, KeyError, FileNotFoundError, json_format.ParseError) as error:
            raise MmtokError(f"{directory}: its description is damaged ({error}); {_ANEW}") from None

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields."""
        return FIELDS

    def __len__(self) -> int:
        return self._length

    def key(self, index: int) -> str:
        """Returns "split-number"."""
        return f"{self._split}-{index:07d}"

    def read(self, indices: Sequence[int], fields: Sequence[str]) -> list[Sample]:
        """Reads the given fields of the given samples.

        Raises:
          MmtokError: unknown field, no such sample, or a damaged file.
        """
        wanted = tuple(fields)
        for name in wanted:
            if name not in FIELDS:
                raise unknown("field of scenes", name, FIELDS)
        for index in indices:
            if not 0 <= index < self._length:
                raise MmtokError(
                    f"split '{self._split}' of scenes has {self._length} samples, number {index} was asked for"
                )
        if not wanted or not len(indices):
            return [{} for _ in indices]
        records = self._reader(wanted)
        try:
            found = records.__getitems__([int(index) for index in indices])
        except (RuntimeError, OSError, ValueError, KeyError, IndexError) as error:
            shards = sorted({int(index) // _SHARD for index in indices})
            names = ", ".join(f"{_NAME}-{self._split}.array_record-{shard:05d}" for shard in shards)
            raise MmtokError(f"{self._directory}: {names} is missing or damaged ({error}); {_ANEW}") from None
        return [_from_record({name: record[name] for name in wanted}) for record in found]

    def _reader(self, fields: tuple[str, ...]) -> Any:
        import tensorflow_datasets as tfds

        if fields not in self._readers:
            decoders = {name: tfds.decode.SkipDecoding() for name in FIELDS if name not in fields}
            self._readers[fields] = self._builder.as_data_source(
                split=self._split,  # pyright: ignore[reportCallIssue]
                decoders=decoders,
            )
        return self._readers[fields]

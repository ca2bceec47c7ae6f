"""Token store: written, interrupted, resumed, read back; run as a program this file writes a store and may die."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmtok.batch import TokenColumn
from mmtok.data import Store, tokenize
from mmtok.errors import MismatchError, MmtokError
from mmtok.modality import Kind, Modality, Vocabulary
from mmtok.source import Sample

GRID = Modality(
    name="rgb", kind="grid", shape=(4, 4), vocabulary=Vocabulary(size=4096), source="image", fingerprint="aaa"
)
PRODUCT = Modality(
    name="feature@7",
    kind="grid",
    shape=(2, 2, 3),
    vocabulary=Vocabulary(size=256),
    codes=2,
    source="feature",
)
LARGE = Modality(name="large", kind="grid", shape=(5,), vocabulary=Vocabulary(size=70_000), source="image")
TEXT = Modality(
    name="caption", kind="sequence", shape=(20,), vocabulary=Vocabulary(size=300, sentinel_count=12), source="text"
)
PIXELS = Modality(name="pixels", kind="continuous", shape=(2, 2), channels=12, source="image")
ALL = (GRID, PRODUCT, LARGE, TEXT, PIXELS)


class FakeCodec:
    """Ids drawn from a generator seeded by the value; None is absent; a negative value cannot be encoded."""

    def __init__(self, modality: Modality):
        self.modality = modality

    def encode(self, values):
        m = self.modality
        width = m.channels or m.codes
        column = TokenColumn(
            np.zeros((len(values), m.size, width), np.uint8 if m.channels else np.int32),
            np.zeros(len(values), np.int32),
        )
        for row, value in enumerate(values):
            if value is None:
                continue
            if value < 0:
                raise MmtokError(f"value {row} is {value}, a positive one was expected")
            rng = np.random.default_rng([value, len(m.name)])
            used = int(rng.integers(1, m.size + 1)) if m.kind == "sequence" else m.size
            column.values[row, :used] = rng.integers(0, m.vocab_size or 256, (used, width))
            column.length[row] = used
        return column

    def decode(self, column):
        raise NotImplementedError


class FakeSource:
    """`count` samples; every third lacks its text. Remembers what was read."""

    fields = ("image", "feature", "text")

    def __init__(self, count: int, *, bad: int | None = None, stop: int | None = None, kill: bool = False):
        self._count, self._bad, self._stop, self._kill = count, bad, stop, kill
        self.reads: list[tuple[int, tuple[str, ...]]] = []

    def __len__(self) -> int:
        return self._count

    def key(self, index: int) -> str:
        return f"sample-{index:04d}"

    def read(self, indices, fields) -> list[Sample]:
        return [self._sample(index, tuple(fields)) for index in indices]

    def _sample(self, index, fields):
        if self._stop is not None and index >= self._stop:
            if self._kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt
        self.reads.append((index, fields))
        sample = dict.fromkeys(fields, -1 if index == self._bad else index)
        return sample if index % 3 else {k: v for k, v in sample.items() if k != "text"}


def codecs(modalities=ALL):
    return [FakeCodec(modality) for modality in modalities]


def write(folder, count=50, split="train", *, modalities=ALL, **options):
    tokenize(
        FakeSource(count, **options),
        codecs(modalities),
        folder=folder,
        split=split,
        batch_size=4,
        shard_size=16,
        description="fake",
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("store")
    write(place)
    write(place, count=7, split="validation")
    return place


@pytest.mark.parametrize("memory", [2 << 30, 0], ids=["in memory", "from disk"])
def test_reads_what_the_codecs_made(folder, memory):
    store = Store(folder, memory=memory)
    assert store.modalities == ALL
    assert store.splits == {"train": 50, "validation": 7}
    assert store.source == "fake"
    assert store.keys("train") == [f"sample-{i:04d}" for i in range(50)]
    indices = [49, 3, 0, 17, 17, 16, 15, 31, 32, 48]
    batch = store.read("train", indices)
    assert tuple(batch) == tuple(m.name for m in ALL)
    for modality in ALL:
        values = [None if modality is TEXT and i % 3 == 0 else i for i in indices]
        expected = FakeCodec(modality).encode(values)
        np.testing.assert_array_equal(batch[modality.name].values, expected.values)
        np.testing.assert_array_equal(batch[modality.name].length, expected.length)
        assert batch[modality.name].values.dtype == (np.uint8 if modality is PIXELS else np.int32)
    assert batch["caption"].length[1] == 0
    assert store.read("train", [])["rgb"].values.shape == (0, 16, 1)
    with pytest.raises(IndexError, match="50 samples"):
        store.read("train", [50])


def test_batches_read_can_be_changed_without_changing_the_store(folder):
    store = Store(folder)
    before = store.read("train", [1])["pixels"].values.copy()
    store.read("train", [1])["pixels"].values[:] = 7
    np.testing.assert_array_equal(store.read("train", [1])["pixels"].values, before)


def test_tensorflow_datasets_reads_the_same_tokens(folder):
    import tensorflow_datasets as tfds

    builder: Any = tfds.builder_from_directory(folder)
    assert {name: info.num_examples for name, info in builder.info.splits.items()} == {"train": 50, "validation": 7}
    source = builder.as_data_source("train")
    store = Store(folder)
    assert len(source) == 50
    for index in (0, 1, 20, 49):
        example, batch = source[index], store.read("train", [index])
        assert example["__key__"] == f"sample-{index:04d}".encode()
        for m in ALL:
            used = batch[m.name].length[0]
            values = batch[m.name].values[0, :used]
            last = () if m.channels == 0 and m.codes == 1 else (m.channels or m.codes,)
            np.testing.assert_array_equal(example[m.name], values.reshape(-1, *m.shape[1:], *last))
    assert source[1]["rgb"].dtype == np.uint16
    assert source[1][PRODUCT.name].dtype == np.uint8
    assert source[1]["large"].dtype == np.int32
    assert "tensorflow" not in sys.modules


def test_grain_reads_it_through_tensorflow_datasets(folder):
    import grain
    import tensorflow_datasets as tfds

    builder: Any = tfds.builder_from_directory(folder)
    source = builder.as_data_source("validation")
    found = [example["rgb"].ravel().tolist() for example in grain.MapDataset.source(source)]
    assert found == Store(folder).read("validation", range(7))["rgb"].values[:, :, 0].tolist()


def test_counts_and_entropy(folder):
    store = Store(folder)
    batch, counts = store.read("train", range(50)), store.counts("train")
    assert set(counts) == {m.name for m in ALL if m.is_target}
    for m in (GRID, PRODUCT, LARGE, TEXT):
        column, entropies = batch[m.name], []
        for code in range(m.codes):
            used = np.concatenate([row[:n, code] for row, n in zip(column.values, column.length)])
            ids, often = np.unique(used, return_counts=True)
            expected = np.zeros(m.vocab_size)
            expected[ids] = often
            np.testing.assert_array_equal(counts[m.name][code], expected)
            entropies.append(-np.sum(often / often.sum() * np.log(often / often.sum())))
        assert store.entropy(m.name) == pytest.approx(np.mean(entropies))
    with pytest.raises(MmtokError, match="unknown modality of tokens 'pixels'"):
        store.entropy("pixels")


def test_each_field_is_read_once_and_only_fields_in_use(tmp_path):
    source = FakeSource(10)
    tokenize(source, codecs((GRID, LARGE, PIXELS)), folder=tmp_path, split="train", batch_size=4)
    assert sorted(source.reads) == [(i, ("image",)) for i in range(10)]


def test_size_is_within_1_3_of_the_raw_tokens(tmp_path):
    grids = ("rgb", "depth", "normal", "label", "instance", "edge", "camera", "feature")
    names = (*grids, "caption", "box", "palette", "metadata")
    vocabulary = Vocabulary(size=4096, sentinel_count=12)
    kinds: list[Kind] = ["grid" if name in grids else "sequence" for name in names]
    modalities = tuple(
        Modality(
            name=name, kind=kind, shape=(16,) if kind == "sequence" else (4, 4), vocabulary=vocabulary, source="image"
        )
        for name, kind in zip(names, kinds)
    )

    class Random(FakeCodec):
        def encode(self, values):
            rng = np.random.default_rng([values[0] or 0, *self.modality.name.encode()])
            ids = rng.integers(0, 4096, (len(values), 16, 1))
            return TokenColumn(ids, np.full(len(values), 16, np.int32))

    tokenize(FakeSource(2000), [Random(m) for m in modalities], folder=tmp_path, split="train", batch_size=100)
    total = sum(len(content) for content in contents(tmp_path).values())
    print(f"{total} bytes, {total / (2000 * 12 * 16 * 2):.3f} of the raw tokens")
    assert total <= 1.3 * 2000 * 12 * 16 * 2


def test_interrupted_then_resumed_equals_uninterrupted(tmp_path, folder):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, stop=37)
    with pytest.raises(MmtokError, match=r"unfinished .*'train'.* run the same tokenize command again"):
        Store(tmp_path)
    source = FakeSource(50)
    tokenize(source, codecs(), folder=tmp_path, split="train", batch_size=4, shard_size=16, description="fake")
    assert min(source.reads)[0] == 32, "the two finished shards must not be encoded again"
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, count=7, split="validation", stop=2)
    with pytest.raises(MmtokError, match=r"unfinished .*'validation'"):
        Store(tmp_path)
    write(tmp_path, count=7, split="validation")
    assert contents(tmp_path) == contents(folder)


def test_killed_process_then_resumed_equals_uninterrupted(tmp_path, folder):
    died = subprocess.run([sys.executable, __file__, str(tmp_path), "37"], capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    with pytest.raises(MmtokError, match="unfinished"):
        Store(tmp_path)
    write(tmp_path)
    write(tmp_path, count=7, split="validation")
    assert contents(tmp_path) == contents(folder)


def test_every_process_writes_the_same_bytes(tmp_path):
    write(tmp_path / "here")
    words = [sys.executable, __file__, str(tmp_path / "there"), "50"]
    subprocess.run(words, env=os.environ | {"PYTHONHASHSEED": "1"}, check=True, capture_output=True)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


@pytest.mark.parametrize("step", range(6))
def test_interrupted_while_finishing(tmp_path, folder, monkeypatch, step):
    """Whatever of the last steps was the last one done, a second call completes the store."""
    import shutil

    module = sys.modules["mmtok.data.tokenize"]
    calls = 0

    def counting(function):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == step + 1:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", counting(module.write_json))
        patch.setattr(module, "read_counts", counting(module.read_counts))
        patch.setattr(shutil, "rmtree", counting(shutil.rmtree))
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path)
    write(tmp_path)
    write(tmp_path, count=7, split="validation")
    assert contents(tmp_path) == contents(folder)


def test_a_finished_split_is_left_as_it_is(tmp_path):
    write(tmp_path)
    before = contents(tmp_path)
    source = FakeSource(50)
    tokenize(source, codecs(), folder=tmp_path, split="train", batch_size=4, shard_size=16)
    assert source.reads == []
    assert contents(tmp_path) == before


@pytest.mark.parametrize("stop", [20, None], ids=["partial", "finished"])
def test_another_tokenizer_is_refused_naming_both(tmp_path, stop):
    if stop:
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, stop=stop)
    else:
        write(tmp_path)
    before = contents(tmp_path)
    other = dataclasses.replace(GRID, fingerprint="bbb")
    with pytest.raises(MismatchError, match=r"'rgb'.*aaa.*bbb"):
        write(tmp_path, modalities=(other, *ALL[1:]))
    with pytest.raises(MismatchError, match="'caption' differs"):
        write(tmp_path, modalities=(GRID,))
    with pytest.raises(MismatchError, match=r"50 .*51 in shards"):
        write(tmp_path, count=51)
    assert contents(tmp_path) == before


def test_a_bad_sample_is_named(tmp_path):
    with pytest.raises(MmtokError, match="sample 'sample-0021', field 'image': value 0 is -1"):
        write(tmp_path, bad=21)


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(MmtokError, match=r"unknown field .*'imag' .*did you mean 'image'"):
        write(tmp_path, modalities=(dataclasses.replace(GRID, source="imag"),))
    with pytest.raises(MmtokError, match="split 'train' has no samples"):
        write(tmp_path, count=0)
    with pytest.raises(MmtokError, match="declared twice"):
        write(tmp_path, modalities=(GRID, GRID))
    with pytest.raises(MmtokError, match="neither '/'"):
        write(tmp_path, modalities=(dataclasses.replace(GRID, name="a/b"),))
    assert contents(tmp_path) == {}


def test_ids_outside_the_vocabulary_are_refused(tmp_path):
    codec = FakeCodec(GRID)
    codec.modality = dataclasses.replace(GRID, vocabulary=Vocabulary(size=10))
    wide = FakeCodec(GRID)
    codec.encode = wide.encode
    with pytest.raises(MmtokError, match="ids outside its vocabulary of 10"):
        tokenize(FakeSource(5), [codec], folder=tmp_path, split="train")


def test_full_disk_is_said_clearly(tmp_path, monkeypatch):
    module = sys.modules["mmtok.data.tokenize"]

    class Full:
        def ArrayRecordWriter(self, path, options):
            return self

        def write(self, record):
            raise RuntimeError(f"write() failed: No space left on device; writing {tmp_path}/x")

        def close(self):
            raise RuntimeError("write() failed: No space left on device")

    monkeypatch.setattr(module, "array_record_module", Full())
    with pytest.raises(MmtokError, match="the disk is full"):
        write(tmp_path)
    assert not [name for name in contents(tmp_path) if "tmp" in name or "array_record" in name]


def test_missing_and_damaged_stores_are_named(tmp_path, folder):
    with pytest.raises(MmtokError, match="holds no token store"):
        Store(tmp_path / "nothing")
    write(tmp_path)
    with pytest.raises(MmtokError, match=r"unknown split .*'trian' \(did you mean 'train'"):
        Store(tmp_path).read("trian", [0])
    shard = tmp_path / "tokens-train.array_record-00001-of-00004"
    good = shard.read_bytes()
    for bad in (good[: len(good) // 3], bytes(len(good)), good[:300] + bytes(50) + good[350:]):
        shard.write_bytes(bad)
        for memory in (2 << 30, 0):
            with pytest.raises(MmtokError, match="00001-of-00004: missing or damaged"):
                Store(tmp_path, memory=memory).read("train", [16])
    shard.unlink()
    with pytest.raises(MmtokError, match="00001-of-00004: missing or damaged"):
        Store(tmp_path).read("train", [0])
    (tmp_path / "train.counts.npz").write_bytes(b"PK")
    with pytest.raises(MmtokError, match=r"counts.npz: missing or damaged"):
        Store(tmp_path).counts("train")
    text = (tmp_path / "mmtok.json").read_text()
    (tmp_path / "mmtok.json").write_text(text.replace('"version": 1', '"version": 9'))
    with pytest.raises(MmtokError, match="version 1 expected, 9 found"):
        Store(tmp_path)
    (tmp_path / "mmtok.json").write_text("{")
    with pytest.raises(MmtokError, match="not a JSON file"):
        Store(tmp_path)


if __name__ == "__main__":
    write(Path(sys.argv[1]), stop=int(sys.argv[2]), kill=True)

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mmtok.errors import MismatchError, MmtokError
from mmtok.scenes import FIELDS, ScenesConfig, samples, storage
from mmtok.source import DataConfig, Source

SMALL = ScenesConfig(size=16, seed=9, train=23, validation=4, test=3, compositional=5)


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("root") / "data"
    SMALL.prepare(path)
    return path


def same(a, b):
    assert set(a) == set(b)
    for key in a:
        if isinstance(b[key], np.ndarray):
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key])
        else:
            assert a[key] == b[key]


def test_what_is_read_is_what_was_made(directory):
    source = SMALL.open("train", directory)
    assert isinstance(SMALL, DataConfig)
    assert isinstance(source, Source)
    assert source.fields == FIELDS
    assert len(source) == 23
    read = source.read(range(23), FIELDS)
    for got, made in zip(read, samples("scenes", np.arange(23), size=16, seed=9)):
        same(got, made)


def test_any_order_and_only_the_fields_asked_for(directory):
    source = SMALL.open("train", directory)
    whole = source.read([5, 2, 5], FIELDS)
    some = source.read([5, 2, 5], ("caption", "box"))
    for got, all_fields in zip(some, whole):
        same(got, {name: all_fields[name] for name in ("caption", "box")})
    assert source.read([], FIELDS) == []
    assert source.read([1], ()) == [{}]
    assert len({source.key(index) for index in range(len(source))}) == len(source)


def test_splits_share_no_scene(directory):
    seen = []
    for split in SMALL.splits:
        source = SMALL.open(split, directory)
        assert len(source) == getattr(SMALL, split)
        seen += [sample["depth"].tobytes() for sample in source.read(range(len(source)), ("depth",))]
    assert len(set(seen)) == len(seen)


def test_splits_never_overlap_however_large():
    largest = (1 << 40) - 1
    parts = [dataclasses.replace(SMALL, **dict.fromkeys(SMALL.splits, largest))._part(s) for s in SMALL.splits]
    ends = [part.first + part.count for part in parts]
    assert all(end <= part.first for end, part in zip(ends, parts[1:]))
    assert [part.held_out for part in parts] == [False, False, False, True]


def test_reading_needs_no_tensorflow(directory):
    code = (
        "import sys; from pathlib import Path; from mmtok.scenes import ScenesConfig;"
        f"s = ScenesConfig(size=16, seed=9, train=23, validation=4, test=3, compositional=5)"
        f".open('test', Path({str(directory)!r})); s.read([0], s.fields); assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_tfds_itself_can_open_it(directory):
    import tensorflow_datasets as tfds

    data = tfds.builder_from_directory(directory).as_data_source(split="validation")  # pyright: ignore[reportCallIssue]
    assert len(data) == 4
    assert data[0]["rgb"].shape == (16, 16, 3)


def test_preparing_again_does_nothing(directory):
    before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    SMALL.prepare(directory)
    assert {path: path.stat().st_mtime_ns for path in directory.iterdir()} == before


def test_another_config_is_refused_and_says_what_differs(directory):
    other = dataclasses.replace(SMALL, size=32, seed=1)
    with pytest.raises(MismatchError, match=r"size=16, seed=9, asked for size=32, seed=1"):
        other.open("train", directory)
    with pytest.raises(MismatchError):
        other.prepare(directory)


def test_bad_input_is_said_in_one_sentence(directory, tmp_path):
    source = SMALL.open("train", directory)
    with pytest.raises(MmtokError, match="did you mean 'depth'"):
        source.read([0], ("dept",))
    with pytest.raises(MmtokError, match="23 samples"):
        source.read([23], ("rgb",))
    with pytest.raises(MmtokError, match="did you mean 'validation'"):
        SMALL.open("valid", directory)
    with pytest.raises(MmtokError, match="prepare the data first"):
        SMALL.open("train", tmp_path / "nothing")
    with pytest.raises(MmtokError, match="multiple of 8"):
        ScenesConfig(size=20)
    with pytest.raises(MmtokError, match="at least 1"):
        ScenesConfig(train=0)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(MmtokError, match="holds other files"):
        SMALL.prepare(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("damage", ["cut", "gone", "description"])
def test_damaged_files_are_named(tmp_path, damage):
    path = tmp_path / "data"
    tiny = dataclasses.replace(SMALL, train=2, validation=1, test=1, compositional=1)
    tiny.prepare(path)
    shard = path / "scenes-train.array_record-00000-of-00001"
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    elif damage == "gone":
        shard.unlink()
    else:
        (path / "features.json").unlink()
    with pytest.raises(MmtokError, match=r"data: .*(scenes-train.array_record-00000|description)"):
        tiny.open("train", path).read([0], ("rgb",))


KILLED = """
import pathlib, sys
from mmtok.scenes import ScenesConfig, storage

storage._SHARD, storage._FEW_PIXELS = 20, 0  # workers run these lines too
if __name__ == "__main__":
    ScenesConfig(size=16, seed=9, train=800, validation=4, test=3, compositional=5).prepare(pathlib.Path(sys.argv[1]))
"""


def test_a_killed_prepare_leaves_nothing_whole_and_the_next_completes(tmp_path, monkeypatch):
    config = dataclasses.replace(SMALL, train=800)
    path, work = tmp_path / "data", tmp_path / ".data.partial"
    script = tmp_path / "run.py"
    script.write_text(KILLED)
    process = subprocess.Popen([sys.executable, str(script), str(path)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(work.glob("scenes-*"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()  # the parent alone: its workers must notice
    process.wait()
    time.sleep(1)
    done = {shard.name: shard.stat().st_mtime_ns for shard in work.glob("scenes-*")}
    assert done
    assert not path.exists()
    with pytest.raises(MmtokError, match="prepare the data first"):
        config.open("train", path)
    time.sleep(1)
    assert len(list(work.glob("scenes-*"))) == len(done) < 43

    monkeypatch.setattr(storage, "_SHARD", 20)
    config.prepare(path)
    assert not work.exists()
    assert len(list(path.glob("scenes-*"))) == 43
    assert {name: (path / name).stat().st_mtime_ns for name in done} == done  # not made again
    assert not list(path.glob(".*"))
    source = config.open("train", path)
    assert len(source) == 800
    rows = [0, 19, 20, 477, 799]
    for got, made in zip(source.read(rows, FIELDS), samples("scenes", np.array(rows), size=16, seed=9)):
        same(got, made)


def test_a_partial_folder_of_another_config_is_made_anew(tmp_path):
    work = tmp_path / ".data.partial"
    work.mkdir()
    (work / "config.json").write_text("{}")
    (work / "scenes-train.array_record-00000-of-00001").write_bytes(b"wrong")
    tiny = dataclasses.replace(SMALL, train=2, validation=1, test=1, compositional=1)
    tiny.prepare(tmp_path / "data")
    assert len(tiny.open("train", tmp_path / "data").read([0, 1], ("rgb",))) == 2

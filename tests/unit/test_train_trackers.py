"""The log file across resumes, and the other trackers."""

import json

import pytest

from mmtok.errors import MmtokError
from mmtok.train.trackers import Jsonl, make_trackers


def entries(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_appends_and_drops_what_will_be_done_again(tmp_path):
    path = tmp_path / "log.jsonl"
    first = Jsonl(path, step=0)
    assert first.last == {}
    for step in (10, 20, 30):
        first.log(step, {"loss": 1 / step})
    first.close()
    with path.open("a") as file:
        file.write('{"step": 40, "lo')  # killed while writing

    second = Jsonl(path, step=20)
    assert second.last == {"loss": 1 / 20}
    second.log(30, {"loss": 0.5})
    second.close()
    assert entries(path) == [{"step": 10, "loss": 0.1}, {"step": 20, "loss": 0.05}, {"step": 30, "loss": 0.5}]


def test_a_fresh_start_empties_the_log(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 10, "loss": 1.0}\n')
    Jsonl(path, step=0).close()
    assert path.read_text() == ""


def test_tensorboard_writes_events(tmp_path):
    (tracker,) = make_trackers(["tensorboard"], tmp_path, step=0, config={})
    tracker.log(1, {"loss/rgb": 0.5})
    tracker.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss/rgb" in events.read_bytes()


def test_tensorboard_hides_what_will_be_done_again(tmp_path):
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

    (tracker,) = make_trackers(["tensorboard"], tmp_path, step=20, config={})
    tracker.log(30, {"loss": 0.5})
    tracker.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    content, events = file.read_bytes(), []
    while content:  # TFRecord: length, its checksum, the record, its checksum
        size = int.from_bytes(content[:8], "little")
        events.append(Event.FromString(content[12 : 12 + size]))
        content = content[16 + size :]
    version, restarted, logged = events
    assert version.file_version == "brain.Event:2"
    assert (restarted.step, restarted.session_log.status) == (21, SessionLog.START)
    assert (logged.step, logged.summary.value[0].tag, logged.summary.value[0].simple_value) == (30, "loss", 0.5)


@pytest.mark.parametrize("name", ["log.jsonl", "tensorboard"])
def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch, name):
    if name == "tensorboard":
        monkeypatch.setattr("tensorboardX.record_writer.open_file", lambda _: open("/dev/full", "wb"))  # noqa: SIM115
        (tracker,) = make_trackers(["tensorboard"], tmp_path, step=0, config={})
    else:
        tracker = Jsonl(tmp_path / name, step=0)
        tracker._file = open("/dev/full", "a")  # noqa: SIM115
    for _ in range(20):
        with pytest.raises(MmtokError, match=f"{name}: the disk is full"):
            tracker.log(1, {"loss": 1.0})
    with pytest.raises(MmtokError, match="the disk is full"):
        tracker.close()


def test_wandb_missing_says_how_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(MmtokError, match=r"pip install mmtok\[wandb\]"):
        make_trackers(["wandb"], tmp_path, step=0, config={})

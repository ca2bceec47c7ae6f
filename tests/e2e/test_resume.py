"""Training that is interrupted, in whatever way, ends in the very same model."""

import json
import signal
import time
from pathlib import Path

import pytest

PATIENCE = 500  # seconds; machines that test are busy


@pytest.fixture(scope="module")
def root(tiny, tmp_path_factory) -> Path:
    """The tiny project without its model."""
    root = tmp_path_factory.mktemp("resumed")
    for name in ("data", "tokenizers", "tokens"):
        (root / name).symlink_to(tiny.root / name)
    return root


@pytest.fixture(scope="module")
def terminated(tiny, root, start):
    """A run that SIGTERM stopped."""
    process = start("train", tiny.config, "--root", root)
    _await_checkpoint(root, process, after=0)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE)
    return process.returncode, err, _checkpoints(root)


@pytest.fixture(scope="module")
def killed(tiny, root, start, terminated):
    """A run that went on from there and was killed."""
    process = start("train", tiny.config, "--root", root)
    _await_checkpoint(root, process, after=terminated[2][-1])
    process.kill()
    _, err = process.communicate(timeout=PATIENCE)
    return process.returncode, err, _checkpoints(root)


def test_sigterm_saves_a_checkpoint_and_exits_75(terminated, root):
    code, err, checkpoints = terminated
    assert code == 75, err
    assert "SIGTERM received: saving a checkpoint, then stopping" in err
    assert "Traceback" not in err
    assert 0 < checkpoints[-1] < 60


def test_sigkill_leaves_whole_checkpoints(killed, terminated, root):
    code, err, checkpoints = killed
    assert code == -signal.SIGKILL
    assert f"model: going on from step {terminated[2][-1]}" in err
    assert terminated[2][-1] < checkpoints[-1] < 60
    assert not (root / "model" / "model.safetensors").exists()


def test_interrupted_twice_and_never_give_the_same_model(tiny, mmtok, root, killed):
    ran = mmtok("train", tiny.config, "--root", root)
    assert ran.code == 0, ran.err
    assert f"model: going on from step {killed[2][-1]}" in ran.err
    weights = "model.safetensors"
    assert (root / "model" / weights).read_bytes() == (tiny.model / weights).read_bytes()
    ours, theirs = (_losses(folder / "log.jsonl") for folder in (root / "model", tiny.model))
    assert ours == theirs


def _await_checkpoint(root: Path, process, *, after: int) -> None:
    limit = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < limit:
        if max(_checkpoints(root), default=0) > after:
            return
        time.sleep(0.005)
    process.kill()
    pytest.fail(f"no checkpoint after step {after}: {process.communicate()[1]}")


def _checkpoints(root: Path) -> list[int]:
    """Steps of the whole checkpoints; those being written have longer names."""
    return sorted(int(path.name) for path in (root / "model" / "checkpoints").glob("*") if path.name.isdigit())


def _losses(path: Path) -> list[dict[str, float]]:
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key == "step" or "/" in key} for entry in entries]

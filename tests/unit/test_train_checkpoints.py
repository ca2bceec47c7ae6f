"""Checkpoints: whole or not at all, and never the wrong ones."""

import errno
import os
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import multihost_utils

from mmtok.errors import MismatchError, MmtokError
from mmtok.train.checkpoints import Checkpoints, digest

CONFIG = {"model": {"dim": 8}, "fit": {"steps": 10, "seed": 0}}


def make_state(seed):
    key = jax.random.key(seed)
    return {
        "params": {"a.kernel": jax.random.normal(key, (64, 64)), "a.bias": jnp.full(3, seed, jnp.bfloat16)},
        "step": jnp.int32(seed),
        "flag": jnp.array([True, False]),
        "key": jax.random.key_data(key),
    }


def abstract(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


ABSTRACT = abstract(make_state(0))


def write(folder, steps, keep=5):
    checkpoints = Checkpoints(folder, keep=keep, config=CONFIG)
    for step in steps:
        checkpoints.save(step, make_state(step), position={"next_index": step}, seconds=step / 2)
    checkpoints.close()


def restore(folder, config=CONFIG) -> Any:
    checkpoints = Checkpoints(folder, keep=5, config=config)
    try:
        return checkpoints.restore(ABSTRACT)
    finally:
        checkpoints.close()


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def largest_file(folder):
    return max((path for path in (folder / "state").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def truncate(folder):
    path = largest_file(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(folder):
    path = largest_file(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)


def remove_data(folder):
    largest_file(folder).unlink()


def break_note(folder):
    (folder / "_CHECKPOINT_METADATA").write_text("{")


def zero(folder):
    for path in (path for path in folder.rglob("*") if path.is_file()):
        path.write_bytes(bytes(path.stat().st_size))


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def test_nothing_there(tmp_path):
    assert restore(tmp_path / "none") is None


def test_gives_back_the_newest_and_keeps_some(tmp_path):
    write(tmp_path, [2, 4, 6, 8], keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["6", "8"]
    restored = restore(tmp_path)
    assert (restored.step, restored.position, restored.seconds) == (8, {"next_index": 8}, 4.0)
    assert_same(restored.state, make_state(8))


def test_some_are_kept_for_good(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, keep_every=4, config=CONFIG)
    for step in (2, 4, 6, 8, 10):
        checkpoints.save(step, make_state(step), position=None, seconds=0.0)
    checkpoints.close()
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [4, 8, 10]


def test_the_state_may_be_donated_while_it_is_written(tmp_path):
    overwrite = jax.jit(lambda state: jax.tree.map(jnp.zeros_like, state), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path, keep=1, config=CONFIG)
    state = make_state(3)
    checkpoints.save(3, state, position=None, seconds=0.0)
    for _ in range(5):
        state = overwrite(state)
    checkpoints.close()
    assert_same(restore(tmp_path).state, make_state(3))


def test_half_written_is_swept_not_read(tmp_path):
    write(tmp_path, [2])
    half = tmp_path / "4.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "state").mkdir()
    assert restore(tmp_path).step == 2
    assert not half.exists()


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, remove_data, break_note, zero, empty])
def test_a_damaged_one_falls_back_to_the_one_before(tmp_path, capsys, damage):
    write(tmp_path, [2, 4, 6])
    damage(tmp_path / "6")
    restored = restore(tmp_path)
    assert restored.step == 4
    assert_same(restored.state, make_state(4))
    said = capsys.readouterr().err
    assert "WARNING" in said
    assert f"{tmp_path / '6'} is damaged (" in said
    assert "orbax" not in said
    assert (tmp_path / "damaged-6").is_dir()
    write(tmp_path, [6])
    assert restore(tmp_path).step == 6
    damage(tmp_path / "6")
    assert restore(tmp_path).step == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4", "damaged-6"]


def test_all_damaged_is_an_error_and_touches_nothing(tmp_path):
    write(tmp_path, [2, 4])
    for step in (2, 4):
        truncate(tmp_path / str(step))
    with pytest.raises(MmtokError, match=r"none of the checkpoints \[2, 4\] can be read"):
        restore(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": {"dim": 16}, "fit": {"steps": 10, "seed": 0}}, r"model\.dim = 8, the config says 16"),
        ({"model": {"dim": 8}, "fit": {"steps": 10}}, r"fit\.seed = 0, the config says None"),
        (
            {"model": {"dim": 16, **dict.fromkeys("abcdefghi", 1)}, "fit": {"steps": 10}},
            r"fit\.seed = 0, the config says None; model\.a = None, .*model\.f = None, .* 1; 3 more differ",
        ),
    ],
)
def test_another_config_is_refused(tmp_path, config, message):
    write(tmp_path, [2])
    with pytest.raises(MismatchError, match=message):
        restore(tmp_path, config)


@settings(max_examples=50, deadline=None)
@given(row=st.integers(0, 63), column=st.integers(0, 63), bit=st.integers(0, 31))
def test_digest_sees_every_bit(row, column, bit):
    state = make_state(1)
    changed = np.array(state["params"]["a.kernel"])
    changed.view(np.uint32)[row, column] ^= np.uint32(1 << bit)
    other = {**state, "params": {**state["params"], "a.kernel": jnp.array(changed)}}
    assert int(digest(other)) != int(digest(state))


def test_digest_sees_order_and_small_types():
    state = make_state(1)
    turned = {**state, "params": {**state["params"], "a.kernel": state["params"]["a.kernel"].T}}
    flagged = {**state, "flag": jnp.array([False, True])}
    assert len({int(digest(value)) for value in (state, turned, flagged)}) == 3


@pytest.mark.parametrize(
    ("system", "sentence"),
    [
        ("[OS error 28: ENOSPC No space left on device]", "the disk is full; free some space"),
        ("[OS error 30: EROFS Read-only file system]", "may not be written (Read-only file system)"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(tmp_path, monkeypatch, system, sentence):
    checkpoints = Checkpoints(tmp_path, keep=1, config=CONFIG)

    def fail(*arguments, **options):
        raise ValueError(f"RESOURCE_EXHAUSTED: write failed {system}")

    monkeypatch.setattr(checkpoints._orbax, "save_async", fail)
    with pytest.raises(MmtokError, match=re.escape(f"{tmp_path}: {sentence}")):
        checkpoints.save(1, make_state(1), position=None, seconds=0.0)


def test_damaged_ones_that_cannot_be_set_aside_are_one_sentence(tmp_path, monkeypatch):
    write(tmp_path, [2, 4])
    truncate(tmp_path / "4")

    def fail(self, target):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(MmtokError, match=f"{tmp_path}: may not be written"):
        restore(tmp_path)


def test_saving_leaves_the_step_that_preemption_goes_by_alone(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", asked.append)
    write(tmp_path, [2, 4])
    assert not asked


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "checkpoints").write_text("not a folder")
    with pytest.raises(MmtokError, match="checkpoints: may not be written"):
        Checkpoints(tmp_path / "checkpoints", keep=1, config=CONFIG)

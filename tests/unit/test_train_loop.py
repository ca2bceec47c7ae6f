"""The training loop: exact resume, clean stops, what it logs, and what one step computes.

Run as a script, this file trains the toy task: the tests that kill a run need a process of its own.
"""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mmtok import axes
from mmtok.errors import MismatchError, MmtokError
from mmtok.metrics import Mean
from mmtok.train.checkpoints import Checkpoints
from mmtok.train.config import FitConfig, MeshConfig, OptimizerConfig
from mmtok.train.interrupt import Interrupted, StopSignal
from mmtok.train.loop import fit
from mmtok.train.processes import gather
from mmtok.train.step import Program
from mmtok.train.watchdog import Watchdog


class Toy(nnx.Module):
    def __init__(self, rngs):
        normal = jax.nn.initializers.normal(0.3)
        self.up = axes.param(normal(rngs.params(), (6, 16)), ("embed", "mlp"))
        self.bias = axes.param(jnp.zeros(16), ("mlp",))
        self.down = axes.param(normal(rngs.params(), (16, 2)), ("mlp", None))
        self.calls = nnx.Variable(jnp.int32(0))


class ToyTask:
    name = "toy"
    flops_per_step = 1e6
    tokens_per_step = batch_size = 8

    def __init__(self, *, noise=0.1, pause=0.0, poison=None, ragged=None, width=1):
        self.config = {"width": width}
        self._noise, self._pause, self._poison, self._ragged = noise, pause, poison, ragged

    def init(self, key):
        return Toy(nnx.Rngs(key))

    def loss(self, module, batch, key):
        x = batch["x"] + self._noise * jax.random.normal(key, batch["x"].shape)
        hidden = jnp.tanh(x @ module.up[...] + module.bias[...])
        errors = jnp.square(hidden @ module.down[...] - batch["y"]).mean(axis=1)
        module.calls[...] += 1
        means = {
            "loss/toy": Mean(errors.sum(), jnp.float32(len(errors))),
            "never": Mean(jnp.float32(0), jnp.float32(0)),
        }
        return errors.mean(), means

    def batch(self, step, rows):
        time.sleep(self._pause)
        x = np.random.default_rng(step).normal(size=(8, 6)).astype(np.float32)[rows]
        y = np.sin(x[:, :2])
        x = x.astype(np.float16) if step == self._ragged else x
        return {"x": x, "y": np.full_like(y, np.nan) if step == self._poison else y}


def config(**changes):
    return FitConfig(**{"steps": 12, "log_every": 4, "checkpoint_every": 4, "trackers": ()} | changes)


def parameters(module):
    return {".".join(map(str, path)): np.asarray(leaf) for path, leaf in nnx.to_flat_state(nnx.state(module))}


def assert_identical(left, right):
    left, right = parameters(left), parameters(right)
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name], err_msg=name)


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def untimed(folder):
    clocked = ("seconds", "second", "utilisation", "input_wait")
    return [{k: v for k, v in entry.items() if not k.endswith(clocked)} for entry in log(folder)]


def wait_for(path, process):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


SLOW = {"steps": 60, "checkpoint_every": 5, "log_every": 10, "ema": 0.9}


def test_learns_logs_and_repeats_exactly(tmp_path):
    first = fit(ToyTask(), config(steps=200, log_every=50, checkpoint_every=100, ema=0.9), tmp_path / "a")
    second = fit(ToyTask(), config(steps=200, log_every=50, checkpoint_every=150, ema=0.9, keep=1), tmp_path / "b")
    assert_identical(first.module, second.module)
    entries = log(tmp_path / "a")
    assert [entry["step"] for entry in entries] == [50, 100, 150, 200]
    assert entries[-1]["loss"] < 0.5 * entries[0]["loss"]
    assert entries[-1]["loss"] == pytest.approx(entries[-1]["loss/toy"], rel=1e-5)
    assert "never" not in entries[-1]
    assert "non_finite" not in entries[-1]
    for entry in entries:
        assert entry["tokens_per_second"] == pytest.approx(8 * entry["steps_per_second"])
        assert entry["flops_per_second"] == pytest.approx(1e6 * entry["steps_per_second"])
        assert entry["utilisation"] > 0
    assert first.metrics == {name: value for name, value in entries[-1].items() if name != "step"}
    assert int(first.module.calls[...]) == 200
    assert untimed(tmp_path / "a") == untimed(tmp_path / "b")
    resolved = json.loads((tmp_path / "a" / "train.json").read_text())
    assert resolved["fit"]["optimizer"]["learning_rate"] == 1e-3
    assert resolved["task"] == {"name": "toy", "batch_size": 8, "config": {"width": 1}}
    assert sorted(path.name for path in (tmp_path / "a" / "checkpoints").iterdir()) == ["100", "200"]


def test_another_seed_gives_another_result(tmp_path):
    first = fit(ToyTask(), config(steps=2), tmp_path / "a")
    second = fit(ToyTask(), config(steps=2, seed=1), tmp_path / "b")
    assert not np.array_equal(first.module.up[...], second.module.up[...])


def test_a_finished_run_is_returned_at_once(tmp_path):
    first = fit(ToyTask(), config(), tmp_path)
    second = fit(ToyTask(poison=0), config(), tmp_path)
    assert_identical(first.module, second.module)
    assert second.metrics == first.metrics


def test_killed_in_mid_training_and_resumed_is_as_never_killed(tmp_path):
    words = [sys.executable, __file__, str(tmp_path / "killed")]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "killed" / "checkpoints" / "15", process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    done = max(int(path.name) for path in (tmp_path / "killed" / "checkpoints").iterdir() if path.name.isdecimal())
    assert 15 <= done < 60

    resumed, whole = (fit(ToyTask(), config(**SLOW), tmp_path / folder) for folder in ("killed", "whole"))
    assert_identical(resumed.module, whole.module)
    assert untimed(tmp_path / "killed") == untimed(tmp_path / "whole")


def test_sigterm_saves_a_checkpoint_and_stops(tmp_path, capsys):
    class Stopping(ToyTask):
        def batch(self, step, rows):
            if step == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch(step, rows)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stop:
        fit(Stopping(pause=0.05), config(), tmp_path)
    assert stop.value.code == 75
    assert (tmp_path / "checkpoints" / str(stop.value.step)).is_dir()
    assert signal.getsignal(signal.SIGTERM) is before
    said = capsys.readouterr().err
    assert "SIGTERM received" in said
    assert f"toy: stopped after step {stop.value.step}; the same command goes on from there" in said
    assert fit(ToyTask(), config(), tmp_path).metrics["loss"] > 0


@pytest.fixture
def _foreground() -> Iterator[None]:
    """Ctrl-C acts as in a terminal: what a shell starts in the background inherits that it does nothing."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_foreground")
def test_what_repeated_signals_do():
    numbers = signal.SIGTERM, signal.SIGINT
    before = [signal.getsignal(number) for number in numbers]
    with StopSignal() as stop:
        assert not stop.reached(0)
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
            assert stop.reached(1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in numbers] == before


def test_values_that_are_not_finite_stop_the_run(tmp_path):
    with pytest.raises(MmtokError, match=r"'toy'.* not finite in step 6; mend the bad samples or give"):
        fit(ToyTask(poison=5), config(), tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4"]
    assert [entry["step"] for entry in log(tmp_path)] == [4]
    assert fit(ToyTask(), config(), tmp_path).metrics["loss"] > 0  # the bad sample mended, the run goes on


def test_values_that_are_not_finite_are_not_saved_between_entries(tmp_path):
    with pytest.raises(MmtokError, match="in step 3;"):
        fit(ToyTask(poison=2), config(log_every=10), tmp_path)
    assert not any((tmp_path / "checkpoints").iterdir())


def test_what_was_skipped_before_a_resume_does_not_stop_the_run(tmp_path):
    class Damaged(ToyTask):
        def batch(self, step, rows):
            if step == 9:
                raise MmtokError("shard 7: damaged")
            return super().batch(step, rows)

    with pytest.raises(MmtokError, match="shard 7"):
        fit(Damaged(poison=5), config(non_finite="skip", log_every=10), tmp_path)
    assert (tmp_path / "checkpoints" / "8").is_dir()
    assert fit(ToyTask(), config(log_every=10), tmp_path).metrics["loss"] > 0


def test_a_last_step_that_is_not_finite_can_be_skipped(tmp_path):
    fit(ToyTask(poison=4), config(non_finite="skip", steps=5), tmp_path)
    assert [entry["step"] for entry in log(tmp_path)] == [4, 5, 5]


def test_values_that_are_not_finite_can_be_skipped(tmp_path, capsys):
    skipped = fit(ToyTask(poison=5), config(non_finite="skip", ema=0.5), tmp_path)
    assert "not finite in step 6, which was skipped" in capsys.readouterr().err
    entries = [(entry["step"], "non_finite" in entry) for entry in log(tmp_path)]
    assert entries == [(4, False), (6, True), (8, False), (12, False)]
    assert all(np.isfinite(value) for entry in log(tmp_path) for value in entry.values())

    program = Program(ToyTask(), config(ema=0.5))
    state = program.init()
    for step in (0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11):
        state = dataclasses.replace(state, step=jnp.int32(step))
        state, _ = program.step(state, program.put(program.task.batch(step, program.rows)))
    for name, value in parameters(skipped.module).items():
        expected = (state.ema | state.rest)[name]
        np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("log_every", [1, 4, 10])
def test_a_run_of_steps_that_are_not_finite_stops_even_so(tmp_path, log_every):
    class Broken(ToyTask):
        def batch(self, step, rows):
            batch = super().batch(step, rows)
            return {**batch, "y": batch["y"] * (np.nan if step >= 4 else 1)}

    with pytest.raises(MmtokError, match=r"not finite in any of the last 10 steps, up to 14;"):
        fit(Broken(), config(non_finite="skip", steps=20, log_every=log_every), tmp_path)


def test_a_step_that_hangs_is_reported_with_its_stacks(tmp_path, capsys):
    class Hanging(ToyTask):
        def batch(self, step, rows):
            time.sleep(1.5 if step == 8 else 0.0)
            return super().batch(step, rows)

    fit(Hanging(), config(watchdog_seconds=0.5), tmp_path)
    assert re.search(r"WARNING: still in step \d+ after \d+ s; stacks -> ", capsys.readouterr().err)
    assert "in batch" in (tmp_path / "stacks-0.txt").read_text()


def test_what_hangs_outside_the_steps_is_reported_too(tmp_path, capsys, monkeypatch):
    def slow(done):
        def run(*arguments):
            time.sleep(1)
            return done(*arguments)

        return run

    monkeypatch.setattr("mmtok.train.loop.gather", slow(gather))
    monkeypatch.setattr(Program, "compile", slow(Program.compile))
    for name in ("restore", "wait"):
        monkeypatch.setattr(Checkpoints, name, slow(getattr(Checkpoints, name)))
    fit(ToyTask(), config(steps=1, watchdog_seconds=0.5), tmp_path)
    said = capsys.readouterr().err
    for what in (
        "reading the newest checkpoint",
        "compiling the",
        "writing the last checkpoint",
        "gathering the model",
    ):
        assert f"WARNING: still {what}" in said


def test_stacks_that_cannot_be_written_go_to_standard_error(tmp_path, capfd):
    with Watchdog(0.1, tmp_path / "none" / "stacks.txt") as watchdog:
        for _ in range(2):
            watchdog.doing("waiting")
            time.sleep(0.5)
    said = capfd.readouterr().err
    assert said.count("WARNING: still waiting") == 2
    assert said.count("in test_stacks_that_cannot_be_written_go_to_standard_error") == 2


def test_the_main_thread_is_reported_first_however_many_there_are(tmp_path):
    done = threading.Event()
    others = [threading.Thread(target=done.wait, name=f"other {index}") for index in range(150)]
    for other in others:
        other.start()
    with Watchdog(0.1, tmp_path / "stacks.txt"):
        time.sleep(0.5)
    done.set()
    stacks = (tmp_path / "stacks.txt").read_text().split("Thread ")[1:]
    assert stacks[0].startswith("MainThread:")
    assert "in test_the_main_thread_is_reported_first" in stacks[0]
    assert {f"other {index}" for index in range(150)} <= {stack.split(":")[0] for stack in stacks}


def test_another_config_is_refused_but_logging_may_change(tmp_path):
    fit(ToyTask(), config(), tmp_path)
    with pytest.raises(MismatchError, match=r"fit\.optimizer\.b1 = 0\.9, the config says 0\.8"):
        fit(ToyTask(), config(optimizer=OptimizerConfig(b1=0.8)), tmp_path)
    with pytest.raises(MismatchError, match=r"task\.config\.width = 1, the config says 2"):
        fit(ToyTask(width=2), config(), tmp_path)
    larger = ToyTask()
    larger.batch_size = 16
    with pytest.raises(MismatchError, match=r"task\.batch_size = 8, the config says 16"):
        fit(larger, config(), tmp_path)
    fit(ToyTask(), config(log_every=2, checkpoint_every=3, keep=1, threads=1, accumulate=2), tmp_path)


def test_two_runs_do_not_share_a_folder(tmp_path):
    class Second(ToyTask):
        def batch(self, step, rows):
            if step == 6:
                fit(ToyTask(), config(), tmp_path)
            return super().batch(step, rows)

    with pytest.raises(MmtokError, match="another run trains there"):
        fit(Second(), config(), tmp_path)
    assert fit(ToyTask(), config(), tmp_path).metrics["loss"] > 0, "the folder is free again"


def test_batches_of_another_shape_are_an_internal_error(tmp_path):
    with pytest.raises(RuntimeError, match=r"compiled for other shapes.*float16\[8, 6\]"):
        fit(ToyTask(ragged=3), config(), tmp_path)


def test_errors_in_the_data_reach_the_user(tmp_path):
    class Broken(ToyTask):
        def batch(self, step, rows):
            if step == 3:
                raise MmtokError("shard 7: damaged")
            return super().batch(step, rows)

    with pytest.raises(MmtokError, match="shard 7: damaged"):
        fit(Broken(), config(), tmp_path)


def test_a_batch_that_does_not_split_is_refused():
    with pytest.raises(MmtokError, match=r"'toy'.* 8 samples .* 3 microbatches"):
        Program(ToyTask(), config(accumulate=3))


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"keep": 0}, {"ema": 1.0}, {"keep_every": 6}, {"watchdog_seconds": -1.0}]
)
def test_config_is_checked(change):
    with pytest.raises(MmtokError, match=next(iter(change))):
        config(**change)


def run(program, steps):
    state = program.init()
    for step in range(steps):
        state, _ = program.step(state, program.put(program.task.batch(step, program.rows)))
    return state


def test_accumulation_equals_the_large_batch():
    task = ToyTask(noise=0.0)
    whole, parts = run(Program(task, config()), 5), run(Program(task, config(accumulate=4)), 5)
    for name, value in whole.params.items():
        np.testing.assert_allclose(parts.params[name], value, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(parts.window, whole.window, rtol=1e-5)
    assert int(parts.rest["calls"]) == 4 * int(whole.rest["calls"])


def test_one_step_against_plain_jax():
    task, settings = ToyTask(noise=0.0), config(ema=0.9, optimizer=OptimizerConfig(schedule="constant", clip_norm=0.0))
    program = Program(task, settings)
    state = program.init()
    start = {name: np.asarray(value) for name, value in state.params.items()}
    batch = task.batch(0, np.arange(8))

    def loss(params):
        hidden = jnp.tanh(batch["x"] @ params["up"] + params["bias"])
        return jnp.mean((hidden @ params["down"] - batch["y"]) ** 2)

    value, grads = jax.value_and_grad(loss)({name: jnp.asarray(value) for name, value in start.items()})
    state, window = program.step(state, program.put(batch))
    rows = dict(zip(program.metrics, np.asarray(window)))
    np.testing.assert_allclose(rows["loss"], [value, 1], rtol=1e-5)
    np.testing.assert_allclose(rows["grad_norm"], [float(optax.global_norm(grads)), 1], rtol=1e-5)
    np.testing.assert_allclose(rows["loss/toy"], [8 * value, 8], rtol=1e-5)
    for name, before in start.items():  # the first step of Adam goes by the sign of the gradient
        decay = 0.05 * before if name != "bias" else 0
        np.testing.assert_allclose(
            state.params[name], before - 1e-3 * (np.sign(grads[name]) + decay), rtol=1e-3, atol=1e-5
        )
        average = 0.1 * before + 0.9 * np.asarray(state.params[name])  # its decay starts at 1 / 10
        np.testing.assert_allclose(state.ema[name], average, rtol=1e-5, atol=1e-7)


def test_window_restarts_after_each_entry():
    program = Program(ToyTask(), config(log_every=3))
    state, counts = program.init(), []
    for step in range(7):
        state, window = program.step(state, program.put(program.task.batch(step, program.rows)))
        counts.append(float(window[0, 1]))
    assert counts == [1, 2, 3, 1, 2, 3, 1]


def test_mesh_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(MmtokError, match="mesh slices=1, data=1, fsdp=16, tensor=1 does not fit"):
        fit(ToyTask(), config(mesh=MeshConfig(data=1, fsdp=16)), tmp_path)


if __name__ == "__main__":
    fit(ToyTask(pause=0.05), config(**SLOW), Path(sys.argv[1]))

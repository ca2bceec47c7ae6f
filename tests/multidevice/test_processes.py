"""Two processes that train together, on one machine; and what happens when one of them dies.

Run as a script, this file is one of the processes: it trains a toy on two fake CPU devices.
"""

import dataclasses
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmtok import axes
from mmtok.errors import MmtokError
from mmtok.metrics import Mean
from mmtok.train import checkpoints
from mmtok.train.checkpoints import Checkpoints
from mmtok.train.config import FitConfig, MeshConfig
from mmtok.train.interrupt import Interrupted
from mmtok.train.loop import fit
from mmtok.train.processes import ending_together, start

PATIENCE = 120  # seconds
HIDDEN = 512  # so many that checkpoints keep each part in a file of its own process
STEPS = 100  # of the run that is asked to stop, slow enough to be
CONFIG = FitConfig(
    steps=12,
    checkpoint_every=4,
    keep=5,
    log_every=2,
    ema=0.5,
    trackers=(),
    mesh=MeshConfig(fsdp=4, rules="fsdp"),  # each process has parts that the other does not
)
ALONE = dataclasses.replace(CONFIG, mesh=MeshConfig())


class Toy(nnx.Module):
    def __init__(self, rngs):
        normal = jax.nn.initializers.normal(0.3)
        self.up = axes.param(normal(rngs.params(), (8, HIDDEN)), ("embed", "mlp"))
        self.down = axes.param(normal(rngs.params(), (HIDDEN, 2)), ("mlp", None))


class ToyTask:
    name, config, flops_per_step, tokens_per_step, batch_size = "toy", {}, 0.0, 8, 8

    def __init__(self, pause=0.0):
        self._pause = pause
        self.rows = set()

    def init(self, key):
        return Toy(nnx.Rngs(key))

    def loss(self, module, batch, key):
        x = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
        errors = jnp.square(jnp.tanh(x @ module.up[...]) @ module.down[...] - batch["y"]).mean(axis=1)
        return errors.mean(), {"loss/toy": Mean(errors.sum(), jnp.float32(len(errors)))}

    def batch(self, step, rows):
        time.sleep(self._pause)
        self.rows |= set(rows.tolist()) if len(rows) > 1 else set()  # one row alone is looked at for its shape
        x = np.random.default_rng(step).normal(size=(8, 8)).astype(np.float32)[rows]
        return {"x": x, "y": np.sin(x[:, :2])}


def parameters(result) -> dict[str, Any]:
    return {name: np.asarray(getattr(result.module, name)[...]) for name in ("up", "down")}


def free_address() -> str:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return f"localhost:{found.getsockname()[1]}"


def launch(
    folder: Path, *, second: str = "train", steps: tuple[int, int] = (CONFIG.steps, CONFIG.steps)
) -> list[subprocess.Popen[Any]]:
    """Starts both processes; `second` is what befalls the second one (`MISHAPS`)."""
    address = free_address()
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    words = [sys.executable, __file__, str(folder), address]
    return [
        subprocess.Popen(
            [*words, str(index), mishap, str(steps[index])],
            env={**os.environ, **flags},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, mishap in enumerate(("train", second))
    ]


def ended(processes: list[subprocess.Popen[Any]]) -> list[tuple[int, str]]:
    with ThreadPoolExecutor() as pool:
        errors = [error for _, error in pool.map(lambda process: process.communicate(timeout=PATIENCE), processes)]
    return [(process.returncode, error) for process, error in zip(processes, errors)]


def whole_steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, np.ndarray]:
    """What one process with one device makes of it."""
    return parameters(fit(ToyTask(), ALONE, tmp_path_factory.mktemp("alone")))


def assert_close(found, expected) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_two_processes_train_as_one_and_take_no_checkpoint_that_one_cannot_read(tmp_path, undisturbed):
    for code, error in ended(launch(tmp_path)):
        assert code == 0, error
    assert_close(dict(np.load(tmp_path / "model.npz")), undisturbed)
    rows = [set(np.load(tmp_path / f"rows-{index}.npy").tolist()) for index in range(2)]
    assert rows == [{0, 1, 2, 3}, {4, 5, 6, 7}]
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 6
    assert whole_steps(tmp_path) == [4, 8, 12]

    shutil.rmtree(tmp_path / "checkpoints" / "12")
    began = time.monotonic()
    (first, said), second = ended(launch(tmp_path, second="no checkpoint 8"))
    assert (first, second[0]) == (0, 0), said + second[1]
    assert "checkpoints/8 is damaged (another process could not read it); going on from step 4 instead" in said
    assert time.monotonic() - began < PATIENCE
    assert_close(dict(np.load(tmp_path / "model.npz")), undisturbed)


def test_killed_in_mid_save_and_resumed_by_one_process_on_another_mesh(tmp_path, undisturbed):
    survivor, killed = launch(tmp_path, second="die in mid-save")
    assert killed.wait(timeout=PATIENCE) == -signal.SIGKILL
    assert whole_steps(tmp_path) == [4]
    survivor.kill()  # it would wait for its peer until JAX gives up; a supervisor starts both again
    survivor.communicate()
    assert any("tmp" in path.name for path in (tmp_path / "checkpoints").iterdir())
    result = fit(ToyTask(), ALONE, tmp_path)
    assert_close(parameters(result), undisturbed)
    assert whole_steps(tmp_path) == [4, 8, 12]
    assert not any("tmp" in path.name for path in (tmp_path / "checkpoints").iterdir())


def test_asking_one_to_stop_stops_both_at_the_same_step(tmp_path):
    first, second = launch(tmp_path, steps=(STEPS, STEPS))
    limit = time.monotonic() + PATIENCE
    while not (tmp_path / "checkpoints" / "4").exists():
        assert second.poll() is None, second.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.02)
    second.send_signal(signal.SIGTERM)
    (code, said), (other, unsaid) = ended([first, second])
    assert (code, other) == (75, 75)
    assert ["SIGTERM received: saving a checkpoint" in error for error in (said, unsaid)] == [True, False]
    stopped = [int((tmp_path / f"stopped-{index}").read_text()) for index in range(2)]
    assert stopped[0] == stopped[1]
    assert whole_steps(tmp_path)[-1] == stopped[0] < STEPS
    longer = dataclasses.replace(ALONE, steps=STEPS, checkpoint_every=STEPS)
    resumed, whole = (parameters(fit(ToyTask(), longer, folder)) for folder in (tmp_path, tmp_path / "whole"))
    assert_close(resumed, whole)


def test_different_configs_are_refused_by_both(tmp_path):
    for code, error in ended(launch(tmp_path, steps=(12, 13))):
        assert code == 1
        assert "the processes were given different configs; start all with the same command" in error
    assert not list(tmp_path.iterdir())


def test_a_process_that_fails_ends_the_other(tmp_path):
    (first, said), (second, error) = ended(launch(tmp_path, second="damaged shard"))
    assert (first, second) == (1, 1), said + error
    assert "mmtok: process 1 failed: shard 7: damaged" in said.splitlines()
    assert "MmtokError: shard 7: damaged" in error


def test_a_part_of_a_checkpoint_that_cannot_be_written_ends_both(tmp_path):
    (first, said), (second, error) = ended(launch(tmp_path, second="small files"))
    assert (first, second) == (1, 1), said + error
    sentence = f"{tmp_path / 'checkpoints'}: may not be written (File too large)"
    assert f"mmtok: process 1 failed: {sentence}" in said.splitlines()
    assert f"MmtokError: {sentence}" in error


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize(
    ("what", "code", "told"),
    [
        ("MmtokError('rgb: no such\\nfile')", 1, "rgb: no such file"),
        ("KeyboardInterrupt", 130, "interrupted"),
        ("KeyError('depth')", 1, "KeyError: 'depth'"),
    ],
)
def test_whoever_fails_is_named_by_the_other(failing, what, code, told):
    both = together(f"if jax.process_index() == {failing}: raise {what}", "time.sleep(1000)")
    assert [returned for returned, _ in both] == [code if index == failing else 1 for index in range(2)], both
    assert f"mmtok: process {failing} failed: {told}" in both[1 - failing][1].splitlines()
    assert "failed" not in both[failing][1]


def test_an_error_that_both_meet_each_says_by_itself():
    for code, error in together("raise MmtokError('other configs')"):
        assert code == 1
        assert error.endswith("MmtokError: other configs\n")
        assert "failed" not in error


@pytest.mark.parametrize("code", [0, 75])
def test_both_end_in_order_and_at_once(code):
    late = "atexit.register(lambda: time.monotonic() < began + 5 or os._exit(9))"
    for returned, error in together("began = time.monotonic()", late, f"sys.exit({code})"):
        assert (returned, error) == (code, "")


def together(*lines: str) -> list[tuple[int, str]]:
    """Runs some lines of code as the task of two processes."""
    body = "".join(f"    {line}\n" for line in lines)
    address = free_address()
    code = f"""
import atexit, os, sys, time, jax
from mmtok.errors import MmtokError
from mmtok.train.processes import ending_together, start
start(({address!r}, 2, int(sys.argv[1])))
with ending_together():
{body}"""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    words = [sys.executable, "-c", code]
    return ended(
        [
            subprocess.Popen([*words, str(index)], env=environment, stderr=subprocess.PIPE, text=True)
            for index in range(2)
        ]
    )


@pytest.mark.parametrize("index", [0, 1], ids=["nobody joins the coordinator", "no coordinator"])
def test_those_who_do_not_come_are_waited_for_in_vain(index):
    address = free_address()
    code = f"from mmtok.train.processes import start; start(({address!r}, 2, {index}), patience=1)"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    said = f"mmtok: could not join the other processes (process {index} of 2, coordinator {address}): 1 s have passed"
    assert [line[: len(said)] for line in done.stderr.splitlines()] == [said]


def slurm(index: int, job: int) -> dict[str, str]:
    """What `srun` tells each of two processes, as far as JAX reads it."""
    task = {"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index), "SLURM_NTASKS": "2"}
    return {**task, "SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "localhost"}


def open_mpi(index: int, job: int) -> dict[str, str]:
    """What `mpirun` of Open MPI 4 tells each of two processes, as far as JAX reads it."""
    task = {"RANK": str(index), "LOCAL_RANK": str(index), "SIZE": "2"}
    uri = {"OMPI_MCA_orte_hnp_uri": f"{job << 12}.0;tcp://127.0.0.1:9"}
    return {**{f"OMPI_COMM_WORLD_{name}": value for name, value in task.items()}, **uri}


def join(environment: dict[str, str]) -> subprocess.Popen[str]:
    code = "import jax, mmtok.train.processes as ours; ours.start(); print(jax.process_index(), jax.process_count())"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("launcher", [slurm, open_mpi])
def test_processes_find_each_other_through_their_launcher(launcher):
    job = os.getpid()  # from which JAX derives a port that is free
    both = [join(launcher(index, job)) for index in range(2)]
    said = [process.communicate(timeout=PATIENCE) for process in both]
    assert [out for out, _ in said] == ["0 2\n", "1 2\n"], said


def test_a_launcher_that_does_not_say_where_the_others_are_is_told_apart():
    """A command of a batch script without `srun`."""
    environment = slurm(0, os.getpid())
    del environment["SLURM_STEP_NODELIST"]
    process = join(environment)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "MmtokError: could not join the other processes (from the environment)" in error
    assert "start them with `srun`" in error


def test_a_device_like_that_of_a_tpu_is_no_pod():
    code = "import jax, mmtok.train.processes as ours; ours._has_tpu = lambda: True; ours.start(); print(jax.devices())"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "[CpuDevice(id=0)]\n"), done.stderr


def fail_to_read() -> None:
    """It does not see the newest checkpoint in the folder, nor can it read its part."""
    load = checkpoints.ocp.load

    def fail(path, *arguments, **options):
        loaded = load(path, *arguments, **options)
        if Path(path).name == "8":
            raise ValueError("damaged on the way")
        return loaded

    checkpoints.ocp.load = fail
    Checkpoints.steps = property(lambda self: [4])  # pyright: ignore[reportAttributeAccessIssue]


def die_in_mid_save() -> None:
    save = Checkpoints.save

    def save_and_die(self, step, state, **note):
        save(self, step, state, **note)  # it goes on in the background, and cannot end without this process
        if step == 8:
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoints.save = save_and_die


def limit_the_size_of_files() -> None:
    save = Checkpoints.save

    def save_and_fail(self, step, state, **note):
        if step == 8:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
        save(self, step, state, **note)

    Checkpoints.save = save_and_fail


def meet_a_damaged_shard() -> None:
    batch = ToyTask.batch

    def damaged(self, step, rows):
        if step == 3:
            raise MmtokError("shard 7: damaged")
        return batch(self, step, rows)

    ToyTask.batch = damaged


MISHAPS = {
    "train": lambda: None,
    "die in mid-save": die_in_mid_save,
    "damaged shard": meet_a_damaged_shard,
    "no checkpoint 8": fail_to_read,
    "small files": limit_the_size_of_files,
}


def main() -> None:
    folder, address, index, mishap, steps = sys.argv[1:]
    start((address, 2, int(index)))
    checkpoints.WRITING = 30
    MISHAPS[mishap]()
    task = ToyTask(pause=0.2 if int(steps) == STEPS else 0.0)
    try:
        with ending_together():
            result = fit(task, dataclasses.replace(CONFIG, steps=int(steps)), Path(folder))
    except Interrupted as stop:
        Path(folder, f"stopped-{index}").write_text(str(stop.step))
        raise
    assert (result.module is not None) == (index == "0")
    if result.module is not None:
        np.savez(Path(folder, "model.npz"), **parameters(result))
    np.save(Path(folder, f"rows-{index}.npy"), sorted(task.rows))


if __name__ == "__main__":
    main()

"""Two processes that train together, on one machine; and what happens when one of them dies.

Run as a script, this file is one of the processes: it trains a toy on two fake CPU devices.
"""

import dataclasses
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmtok import axes
from mmtok.metrics import Mean
from mmtok.train.checkpoints import Checkpoints
from mmtok.train.config import FitConfig, MeshConfig
from mmtok.train.interrupt import Interrupted
from mmtok.train.loop import fit
from mmtok.train.processes import start

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
    parts = {"model": result.module, "ema": result.ema_module}
    return {
        f"{part}.{name}": np.asarray(getattr(module, name)[...])
        for part, module in parts.items()
        for name in ("up", "down")
    }


def launch(
    folder: Path, *, kill_at: int = -1, steps: tuple[int, int] = (CONFIG.steps, CONFIG.steps)
) -> list[subprocess.Popen[Any]]:
    """Starts both processes; the second kills itself once the checkpoint of step `kill_at` is being written."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        address = f"localhost:{found.getsockname()[1]}"
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    return [
        subprocess.Popen(
            [
                sys.executable,
                __file__,
                str(folder),
                address,
                str(index),
                str(kill_at if index else -1),
                str(steps[index]),
            ],
            env={**os.environ, **flags},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]


def ended(processes: list[subprocess.Popen[Any]]) -> list[tuple[int, str]]:
    errors = [process.communicate(timeout=PATIENCE)[1] for process in processes]
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


def test_two_processes_train_as_one_and_take_no_checkpoint_with_a_damaged_part(tmp_path, undisturbed):
    for code, error in ended(launch(tmp_path)):
        assert code == 0, error
    for index in range(2):
        assert_close(dict(np.load(tmp_path / f"{index}.npz")), undisturbed)
    rows = [set(np.load(tmp_path / f"rows-{index}.npy").tolist()) for index in range(2)]
    assert rows == [{0, 1, 2, 3}, {4, 5, 6, 7}]
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 6
    assert whole_steps(tmp_path) == [4, 8, 12]

    shutil.rmtree(tmp_path / "checkpoints" / "12")
    for path in (tmp_path / "checkpoints" / "8" / "state" / "ocdbt.process_1" / "d").iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    (first, said), second = ended(launch(tmp_path))
    assert (first, second[0]) == (0, 0), said + second[1]
    assert re.search(r"checkpoints/8 is damaged \(.+\); going on from step 4 instead", said), said
    assert_close(dict(np.load(tmp_path / "1.npz")), undisturbed)


def test_killed_in_mid_save_and_resumed_by_one_process_on_another_mesh(tmp_path, undisturbed):
    survivor, killed = launch(tmp_path, kill_at=8)
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


@pytest.mark.parametrize("index", [0, 1], ids=["nobody joins the coordinator", "no coordinator"])
def test_those_who_do_not_come_are_waited_for_in_vain(index):
    with socket.socket() as found:
        found.bind(("localhost", 0))
        address = f"localhost:{found.getsockname()[1]}"
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


def main() -> None:
    folder, address, index, kill_at, steps = sys.argv[1:]
    start((address, 2, int(index)))
    save = Checkpoints.save

    def save_and_die(self, step, state, **note):
        save(self, step, state, **note)  # it goes on in the background, and cannot end without this process
        if step == int(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoints.save = save_and_die
    task = ToyTask(pause=0.2 if int(steps) == STEPS else 0.0)
    try:
        result = fit(task, dataclasses.replace(CONFIG, steps=int(steps)), Path(folder))
    except Interrupted as stop:
        Path(folder, f"stopped-{index}").write_text(str(stop.step))
        raise
    np.savez(Path(folder, f"{index}.npz"), **parameters(result))
    np.save(Path(folder, f"rows-{index}.npy"), sorted(task.rows))


if __name__ == "__main__":
    main()

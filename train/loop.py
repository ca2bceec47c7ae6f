"""The training loop."""

import contextlib
import dataclasses
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

from mmtok.config import to_json
from mmtok.errors import MmtokError
from mmtok.files import write_json
from mmtok.progress import Progress, say
from mmtok.train.checkpoints import Checkpoints
from mmtok.train.config import FitConfig
from mmtok.train.interrupt import Interrupted, StopSignal
from mmtok.train.optimizer import make_schedule
from mmtok.train.speed import Clock, measure_peak
from mmtok.train.step import Change, Program
from mmtok.train.task import Task
from mmtok.train.trackers import Jsonl, Tracker, make_trackers

IN_FLIGHT = 2  # steps the host may be ahead of the device: enough to hide its work, few enough to stop promptly
FREE = ("log_every", "checkpoint_every", "keep", "mesh", "threads", "peak_flops", "trackers")  # may change on resume


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What a run gives.

    Attributes:
      module: The trained module.
      ema_module: The module with the moving average of its parameters; None where none was kept.
      metrics: The last log entry.
    """

    module: Any
    ema_module: Any | None
    metrics: dict[str, float]


def fit(task: Task, config: FitConfig, folder: Path, *, start_from: Change | None = None) -> FitResult:
    """Trains, or goes on training where the newest checkpoint in the folder left off.

    A resumed run sees the batches and draws the random numbers that an uninterrupted one would: on one CPU its
    parameters agree bit for bit.

    Args:
      task: What to train.
      config: How.
      start_from: Changes the parameters that a new run starts from.
      folder: Gets `train.json` (the resolved config), `log.jsonl`, `tensorboard/` and `checkpoints/`.

    Raises:
      MmtokError: values that are not finite (naming the steps), batch or mesh that do not fit, a full disk.
      MismatchError: the folder holds checkpoints of another config.
      Interrupted: SIGTERM or Ctrl-C; a checkpoint was saved.
    """
    program = Program(task, config)
    resolved = {"task": {"name": task.name, "config": to_json(task.config)}, "fit": to_json(config)}
    matters = resolved | {"fit": {key: value for key, value in resolved["fit"].items() if key not in FREE}}
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(folder / "checkpoints", keep=config.keep, config=matters)
        stack.callback(checkpoints.close)
        restored = checkpoints.restore(program.abstract)
        write_json(folder / "train.json", resolved)
        start = restored.step if restored else 0
        state = restored.state if restored else program.init()
        if restored is None and start_from is not None:
            state = program.starting_from(state, start_from)
        clock = Clock(restored.seconds if restored else 0.0)
        batches = stack.enter_context(_batches(task, config, position=restored.position if restored else None))
        if restored:
            say(f"{task.name}: going on from step {start}")

        jsonl = Jsonl(folder / "log.jsonl", step=start)
        trackers = [jsonl, *make_trackers(config.trackers, folder, step=start, config=resolved)]
        for tracker in trackers:
            stack.callback(tracker.close)
        progress = stack.enter_context(Progress(f"train {task.name}", total=config.steps, unit="steps", start=start))
        log = _Log(program, start=start, last=jsonl.last, clock=clock, trackers=trackers, progress=progress)
        stop = stack.enter_context(StopSignal())

        # The order is law. A checkpoint after n steps holds the state after n steps and an iterator about to give batch
        # n, so it is saved before the next batch is drawn: whoever resumes from it runs the very same loop body.
        # Only then the data advance and the step starts; logging comes last and lags IN_FLIGHT steps behind, so that
        # the host never waits for the device except to bound its lead, and before saving.
        step = saved = start
        while step < config.steps:
            if step > saved and (stop.received or step % config.checkpoint_every == 0):
                log.flush()
                checkpoints.save(step, state, position=batches.get_state(), seconds=clock.seconds)
                saved = step
            if stop.received:
                raise Interrupted(step)
            batch = program.put(next(batches))
            state, window = program.step(state, batch)
            step += 1
            log.started(step, window)
        if step > saved:
            log.flush()
            checkpoints.save(step, state, position=batches.get_state(), seconds=clock.seconds)
    return FitResult(
        module=program.layout.merge(state.params, state.rest),
        ema_module=program.layout.merge(state.ema, state.rest) if config.ema else None,
        metrics=log.last,
    )


class _Log:
    """Follows the steps in flight and writes the entries that fall due."""

    def __init__(
        self,
        program: Program,
        *,
        start: int,
        last: dict[str, float],
        clock: Clock,
        trackers: list[Tracker],
        progress: Progress,
    ):
        self.last = last
        self._program, self._clock, self._trackers, self._progress = program, clock, trackers, progress
        self._schedule = jax.jit(make_schedule(program.config.optimizer, steps=program.config.steps))
        self._peak = 0.0
        self._flying: deque[tuple[int, jax.Array]] = deque()
        self._measured = (start, clock.seconds)  # step and time of the last entry

    def started(self, step: int, window: jax.Array) -> None:
        """Takes note that step number `step` (from 1) is under way."""
        self._flying.append((step, window))
        if not self._clock.running:  # the first step: it was compiled, which is no training time
            window.block_until_ready()
            self._peak = self._measure_peak()
            self._schedule(step)
            self._clock.start()
            self._measured = (step, self._clock.seconds)
        while len(self._flying) > IN_FLIGHT:
            self._finish()

    def flush(self) -> None:
        """Waits for all steps in flight and makes sure that what they computed is finite."""
        while self._flying:
            last = self._flying[-1]
            self._finish()
            if not self._flying:
                self._read(*last)

    def _finish(self) -> None:
        step, window = self._flying.popleft()
        window.block_until_ready()
        note = ""
        if step % self._program.config.log_every == 0 or step == self._program.config.steps:
            means = self._read(step, window)
            self.last = means | self._speed(step)
            for tracker in self._trackers:
                tracker.log(step, self.last)
            note = f"loss {means['loss']:.4g}"
            if "tokens_per_second" in self.last:
                note += f", {self.last['tokens_per_second']:,.0f} tokens/s"
        self._progress.update(note=note)

    def _read(self, step: int, window: jax.Array) -> dict[str, float]:
        """Returns the means since the last entry; those that nothing was counted for are left out."""
        rows = dict(zip(self._program.metrics, np.asarray(window, np.float64)))
        if rows.pop("non_finite")[0] > 0:
            first = (step - 1) // self._program.config.log_every * self._program.config.log_every + 1
            raise MmtokError(
                f"training '{self._program.task.name}': loss or gradients are not finite somewhere in steps {first} to"
                f" {step}; lower the learning rate or look for bad samples, then go on from the last checkpoint"
            )
        means = {name: float(total / count) for name, (total, count) in rows.items() if count > 0}
        return means | {"learning_rate": float(self._schedule(step - 1))}

    def _speed(self, step: int) -> dict[str, float]:
        now = self._clock.seconds
        (before, since), self._measured = self._measured, (step, now)
        values = {"seconds": now}
        if step > before and now > since:
            task, rate = self._program.task, (step - before) / (now - since)
            values |= {"steps_per_second": rate, "tokens_per_second": rate * task.tokens_per_step}
            if task.flops_per_step:
                values |= {"flops_per_second": rate * task.flops_per_step}
                values |= {"utilisation": rate * task.flops_per_step / self._peak}
        return values

    def _measure_peak(self) -> float:
        """FLOP/s of all devices together at their best."""
        if not self._program.task.flops_per_step:
            return 0.0
        devices = self._program.mesh.devices
        return devices.size * (self._program.config.peak_flops or measure_peak(devices.flat[0]))


@contextlib.contextmanager
def _batches(task: Task, config: FitConfig, *, position: Any) -> Iterator[grain.DatasetIterator]:
    """Prepares batches ahead of time in threads, from `position` (None: the first) on."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain reads absl flags, which only absl's own entry point parses
    options = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=2 * config.threads)
    batches = iter(grain.MapDataset.range(config.steps).map(task.batch).to_iter_dataset(options))
    if position is not None:
        batches.set_state(position)
    try:
        yield batches
    finally:
        batches.close()

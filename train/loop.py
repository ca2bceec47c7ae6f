"""The training loop."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

from mmtok.config import to_json
from mmtok.errors import MmtokError
from mmtok.files import claimed, write_json
from mmtok.progress import say
from mmtok.train.checkpoints import Checkpoints
from mmtok.train.config import FitConfig
from mmtok.train.interrupt import Interrupted, StopSignal
from mmtok.train.processes import agree, gather, is_first, same
from mmtok.train.profile import Profiler
from mmtok.train.record import Record
from mmtok.train.speed import Clock
from mmtok.train.step import Change, Program
from mmtok.train.task import Task
from mmtok.train.watchdog import Watchdog

WARM = 5  # steps before those that are traced
FREE = (
    "accumulate",
    "log_every",
    "non_finite",
    "checkpoint_every",
    "keep",
    "keep_every",
    "mesh",
    "watchdog_seconds",
    "threads",
    "peak_flops",
    "trackers",
)  # may change on resume


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What a run gives.

    Attributes:
      module: The trained module, with the moving average of its parameters where one was kept; whole, and in the first
        process only. None in the others, whose hosts may not have room for it.
      metrics: The last log entry, in the first process.
    """

    module: Any
    metrics: dict[str, float]


def fit(
    task: Task, config: FitConfig, folder: Path, *, start_from: Change | None = None, profile: int = 0
) -> FitResult:
    """Trains, or goes on training where the newest checkpoint in the folder left off.

    A resumed run sees the batches and draws the random numbers that an uninterrupted one would: on one CPU its
    parameters agree bit for bit. All processes of a run call this; the first one writes the log.

    Args:
      task: What to train.
      config: How.
      start_from: Changes the parameters that a new run starts from.
      folder: Gets `train.json` (the resolved config), `log.jsonl`, `tensorboard/` and `checkpoints/`; stacks of a
        run that hangs, and `profile/`.
      profile: Steps to trace in the first process, soon after the start; 0: none. See `mmtok.train.profile`.

    Raises:
      MmtokError: values that are not finite (naming the steps), batch or mesh that do not fit, a full disk, another run
        in the same folder.
      MismatchError: the folder holds checkpoints of another config.
      Interrupted: SIGTERM or Ctrl-C; a checkpoint was saved.
    """
    what = {"name": task.name, "batch_size": task.batch_size, "config": to_json(task.config)}
    resolved = {"task": what, "fit": to_json(config)}
    matters = resolved | {"fit": {key: value for key, value in resolved["fit"].items() if key not in FREE}}
    if not same(json.dumps(resolved, sort_keys=True)):
        raise MmtokError(f"{folder}: the processes were given different configs; start all with the same command")
    program = Program(task, config)
    with contextlib.ExitStack() as stack:
        mine = stack.enter_context(claimed(folder)) if is_first() else True
        if not agree(mine):
            raise MmtokError(f"{folder}: another run trains there; wait until it ends, or train in another folder")
        stacks = folder / f"stacks-{jax.process_index()}.txt"
        watchdog = stack.enter_context(Watchdog(config.watchdog_seconds, stacks))
        stop = stack.enter_context(StopSignal())  # until the last checkpoint is written
        checkpoints = Checkpoints(
            folder / "checkpoints", keep=config.keep, keep_every=config.keep_every, config=matters
        )
        stack.callback(checkpoints.close)
        watchdog.doing("reading the newest checkpoint")
        restored = checkpoints.restore(program.abstract)
        watchdog.doing("making the first state")
        if is_first():
            write_json(folder / "train.json", resolved)
        start = restored.step if restored else 0
        state = restored.state if restored else program.init()
        if restored is None and start_from is not None:
            state = program.starting_from(state, start_from)
        clock = Clock(restored.seconds if restored else 0.0)
        batches = stack.enter_context(_batches(program, position=restored.position if restored else None))
        if is_first() and restored:
            say(f"{task.name}: going on from step {start}")
        if is_first() and start < config.steps:
            say(f"{task.name}: compiling the training step")

        kept = np.asarray(state.window)
        log = stack.enter_context(Record(program, folder, start=start, window=kept, clock=clock, config=resolved))
        profiler = stack.enter_context(Profiler(folder / "profile", program, log, first=start + WARM, steps=profile))

        # The order is law. A checkpoint after n steps holds the state after n steps and an iterator about to give batch
        # n, so it is saved before the next batch is drawn: whoever resumes from it runs the very same loop body.
        # Only then the data advance and the step starts; logging comes last and lags IN_FLIGHT steps behind, so that
        # the host never waits for the device except to bound its lead, and before saving.
        step = saved = start
        watchdog.doing("compiling the training step")
        while step < config.steps:
            stopping = stop.reached(step)
            if step > saved and (stopping or step % config.checkpoint_every == 0):
                log.flush()
                checkpoints.save(step, state, position=batches.get_state(), seconds=clock.seconds)
                saved = step
            if stopping:
                watchdog.doing("writing the last checkpoint")
                if is_first():
                    say(f"{task.name}: stopped after step {step}; the same command goes on from there")
                raise Interrupted(step)
            profiler.before(step)
            with log.input_wait():
                batch = next(batches)
            state, window = program.step(state, program.put(batch))
            step += 1
            watchdog.doing(f"in step {log.started(step, window) + 1}")
        if step > saved:
            log.flush()
            checkpoints.save(step, state, position=batches.get_state(), seconds=clock.seconds)
        watchdog.doing("writing the last checkpoint")
        checkpoints.wait()
        watchdog.doing("gathering the model")
        params, rest = gather(state.ema if config.ema else state.params), gather(state.rest)
    return FitResult(program.layout.merge(params, rest) if is_first() else None, log.last)


@contextlib.contextmanager
def _batches(program: Program, *, position: Any) -> Iterator[grain.DatasetIterator]:
    """Prepares this process's part of the batches ahead of time in threads, from `position` (None: the first) on."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain reads absl flags, which only absl's own entry point parses
    task, config = program.task, program.config
    options = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=2 * config.threads)
    steps = grain.MapDataset.range(config.steps)
    batches = iter(steps.map(lambda step: task.batch(step, program.rows)).to_iter_dataset(options))
    if position is not None:
        batches.set_state(position)
    try:
        yield batches
    finally:
        batches.close()

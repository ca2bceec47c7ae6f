"""What a run tells while it goes: figures to the trackers, progress to the terminal."""

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmtok.errors import MmtokError
from mmtok.progress import Progress, say
from mmtok.train.optimizer import make_schedule
from mmtok.train.processes import is_first
from mmtok.train.speed import Clock, measure_peak
from mmtok.train.step import Program
from mmtok.train.trackers import Jsonl, Tracker, make_trackers

IN_FLIGHT = 2  # steps the host may be ahead of the device: enough to hide its work, few enough to stop promptly
BROKEN = 10  # steps in a row that are not finite may be skipped where log entries are close


class Record(contextlib.ExitStack):
    """Follows the steps in flight and writes the entries that fall due; in the first process only.

    Args:
      program: What is run.
      folder: Of the run.
      start: Steps done before.
      window: (metrics, 2), `TrainState.window` after those steps.
      clock: Training time; started with the first step.
      config: Resolved config, for trackers that show it.

    Attributes:
      last: The last regular log entry.
      waited: Seconds that the data kept the host waiting.
    """

    def __init__(
        self,
        program: Program,
        folder: Path,
        *,
        start: int,
        window: np.ndarray,
        clock: Clock,
        config: Mapping[str, Any],
    ):
        super().__init__()
        fit = program.config
        self.last: dict[str, float] = {}
        self._program, self._clock = program, clock
        self._trackers: list[Tracker] = []
        self._progress: Progress | None = None
        if is_first():
            jsonl = Jsonl(folder / "log.jsonl", step=start)
            self.last = jsonl.last
            self._trackers = [jsonl, *make_trackers(fit.trackers, folder, step=start, config=config)]
            for tracker in self._trackers:
                self.callback(tracker.close)
        self._schedule = jax.jit(make_schedule(fit.optimizer, steps=fit.steps))
        self._peak = 0.0
        self._flying: deque[tuple[int, jax.Array]] = deque()
        self._ended = start
        row = window[program.metrics.index("non_finite")]
        self._broken = int(row[0]) if start % fit.log_every else 0  # steps since the last entry that were not finite
        self._running = 0  # steps up to the last one, none of them finite
        self.waited = 0.0
        self._waited = 0.0  # seconds since the last entry that the data kept the host waiting
        self._measured = (start, clock.seconds)  # step and time of the last entry

    @contextlib.contextmanager
    def input_wait(self) -> Iterator[None]:
        """Takes the time that the host waits for data."""
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        self.waited, self._waited = self.waited + seconds, self._waited + seconds

    def started(self, step: int, window: jax.Array) -> int:
        """Takes note that step number `step` (from 1) is under way.

        Returns:
          The number of the last step that has ended.
        """
        window.copy_to_host_async()
        self._flying.append((step, window))
        if not self._clock.running:  # the first step: it was compiled, which is no training time
            window.block_until_ready()
            self._peak = self._measure_peak()
            self._schedule(step)
            self._clock.start()
            if is_first():
                name, steps = self._program.task.name, self._program.config.steps
                bar = Progress(f"train {name}", total=steps, unit="steps", start=step - 1)
                self._progress = self.enter_context(bar)
            self._measured, self._waited = (step, self._clock.seconds), 0.0
        while len(self._flying) > IN_FLIGHT:
            self._finish()
        return self._ended

    def flush(self) -> None:
        """Waits for all steps in flight and makes sure that what they computed is finite."""
        while self._flying:
            self._finish()

    def _finish(self) -> None:
        step, window = self._flying.popleft()
        rows: dict[str, np.ndarray] = dict(zip(self._program.metrics, np.asarray(window, np.float64)))
        self._ended = step
        fit, note = self._program.config, ""
        regular = step % fit.log_every == 0 or step == fit.steps
        self._check(step, int(rows.pop("non_finite")[0]), regular=regular)
        if regular:
            self.last = self._means(step, rows) | self._speed(step)
            self._log(step, self.last)
            if "loss" in self.last:  # not where no step was finite
                note = f"loss {self.last['loss']:.4g}"
            if "tokens_per_second" in self.last:
                note += f"{', ' if note else ''}{self.last['tokens_per_second']:,.0f} tokens/s"
        if self._progress is not None:
            self._progress.update(note=note)

    def _check(self, step: int, broken: int, *, regular: bool) -> None:
        """Says and records, or refuses, a step that was not finite; `broken` of them since the last entry."""
        fit, finite = self._program.config, broken == self._broken
        self._broken = 0 if regular else broken
        self._running = 0 if finite else self._running + 1
        if finite:
            return
        what = f"training '{self._program.task.name}': loss or gradients are not finite"
        if fit.non_finite == "stop":
            raise MmtokError(
                f"{what} in step {step}; mend the bad samples or give --fit.non-finite skip, and run the same command"
                " again; a lower learning rate needs another folder"
            )
        if self._running == max(fit.log_every, BROKEN):
            raise MmtokError(
                f"{what} in any of the last {self._running} steps, up to {step}; lower the learning rate and train in"
                " another folder"
            )
        self._log(step, {"non_finite": 1.0})
        if is_first():
            say(f"WARNING: {what} in step {step}, which was skipped")

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(step, values)

    def _means(self, step: int, rows: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Returns the means since the last entry; those that nothing was counted for are left out."""
        means = {name: float(total / count) for name, (total, count) in rows.items() if count > 0}
        return means | {"learning_rate": float(self._schedule(step - 1))}

    def _speed(self, step: int) -> dict[str, float]:
        now, waited = self._clock.seconds, self._waited
        (before, since), self._measured, self._waited = self._measured, (step, now), 0.0
        values = {"seconds": now}
        if step > before and now > since:
            task, rate = self._program.task, (step - before) / (now - since)
            values |= {"steps_per_second": rate, "tokens_per_second": rate * task.tokens_per_step}
            values |= {"input_wait": min(waited / (now - since), 1.0)}
            if task.flops_per_step:
                values |= {"flops_per_second": rate * task.flops_per_step}
                values |= {"utilisation": rate * task.flops_per_step / self._peak}
        return values

    def _measure_peak(self) -> float:
        """FLOP/s of all devices together at their best."""
        if not self._program.task.flops_per_step:
            return 0.0
        peak = self._program.config.peak_flops or measure_peak(jax.local_devices()[0])
        return self._program.mesh.devices.size * peak

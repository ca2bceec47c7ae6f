"""A thread that speaks up when a run hangs."""

import faulthandler
import threading
import time
from pathlib import Path
from types import TracebackType

from mmtok.progress import say


class Watchdog:
    """Within its context, reports when no step has ended for a while, with the stack of every thread.

    Each process has its own; a step hangs in all of them when one does, and the stacks tell which.

    Args:
      seconds: How long a step may take; 0 never reports.
      file: Gets the stacks, one report after the other.
      start: Steps done before.
    """

    def __init__(self, seconds: float, file: Path, *, start: int = 0):
        self._seconds, self._file = seconds, file
        self._done, self._since = start, time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._seconds:
            self._thread.join()

    def ended(self, step: int) -> None:
        """Takes note that a step has ended."""
        self._done, self._since = step, time.monotonic()

    def _watch(self) -> None:
        reported = -1
        while not self._stop.wait(self._seconds / 10):
            done, waited = self._done, time.monotonic() - self._since
            if waited > self._seconds and done != reported:
                reported = done
                self._report(done, waited)

    def _report(self, done: int, waited: float) -> None:
        say(f"WARNING: no step has ended for {waited:.0f} s since step {done}; stacks -> {self._file}")
        with self._file.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}: {waited:.0f} s since step {done}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)

"""A thread that speaks up when a run hangs."""

import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType, TracebackType

from mmtok.progress import say


class Watchdog:
    """Within its context, reports when one thing takes too long, with the stack of every thread.

    Each process has its own; a step hangs in all of them when one does, and the stacks tell which.

    Args:
      seconds: How long a step, or anything else, may take; 0 never reports.
      file: Gets the stacks, one report after the other; where it cannot be written, standard error does.
    """

    def __init__(self, seconds: float, file: Path):
        self._seconds, self._file = seconds, file
        self.doing("starting")
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

    def doing(self, what: str) -> None:
        """Takes note of what is done from now on, as it follows "still"."""
        self._now = (what, time.monotonic())

    def _watch(self) -> None:
        reported = None
        while not self._stop.wait(self._seconds / 10):
            now = self._now
            what, since = now
            if time.monotonic() - since > self._seconds and now is not reported:
                reported = now
                self._report(f"still {what} after {time.monotonic() - since:.0f} s")

    def _report(self, text: str) -> None:
        say(f"WARNING: {text}; stacks -> {self._file}")
        report = f"{time.strftime('%Y-%m-%d %H:%M:%S')}: {text}\n{_stacks()}"
        try:
            with self._file.open("a") as file:
                file.write(report)
        except OSError:  # a full disk may be why it hangs
            print(report, file=sys.stderr, flush=True)


def _stacks() -> str:
    """The stack of every Python thread, the main one first, the innermost call of each first.

    `faulthandler` would stop after a hundred threads, and the main one is the last it writes. Source lines are
    left out: the disk they lie on may be what hangs.
    """
    frames = sys._current_frames()
    threads = sorted(threading.enumerate(), key=lambda thread: thread is not threading.main_thread())
    return "".join(_stack(thread.name, frames[thread.ident]) for thread in threads if thread.ident in frames)


def _stack(name: str, frame: FrameType) -> str:
    calls = "".join(
        f'  File "{call.f_code.co_filename}", line {line} in {call.f_code.co_name}\n'
        for call, line in traceback.walk_stack(frame)
    )
    return f"Thread {name}:\n{calls}\n"

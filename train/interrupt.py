"""A clean stop on SIGTERM (sent by schedulers) and Ctrl-C."""

import signal
import threading
from types import FrameType
from typing import Any

from mmtok.progress import say


class Interrupted(SystemExit):
    """The run was asked to stop and has saved a checkpoint; exit code 75 (temporary failure: run it again)."""

    def __init__(self, step: int):
        super().__init__(75)
        self.step = step


class StopSignal:
    """Within its context, notes the first SIGTERM or SIGINT instead of dying; a second one acts as usual.

    Attributes:
      received: Whether the signal came.
    """

    def __init__(self) -> None:
        self.received = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        self._restore()
        say(f"{signal.Signals(number).name} received: saving a checkpoint, then stopping")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

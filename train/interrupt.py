"""A clean stop on SIGTERM (sent by schedulers, and before a pod is preempted) and Ctrl-C."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from mmtok.progress import say
from mmtok.train.processes import is_first

STOPPING = "saving a checkpoint, then stopping"


class Interrupted(SystemExit):
    """The run was asked to stop and has saved a checkpoint; exit code 75 (temporary failure: run it again)."""

    def __init__(self, step: int):
        super().__init__(75)
        self.step = step


class StopSignal:
    """Within its context, notes SIGTERM and SIGINT instead of dying.

    More of SIGTERM, which schedulers and supervisors may both send, changes nothing; a second Ctrl-C acts as usual.

    Of several processes, any one may be asked to stop. JAX's preemption service takes its SIGTERM and finds a step that
    all of them have still before them.
    """

    def __init__(self) -> None:
        self._received = False
        self._shared = jax.process_count() > 1
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            if self._shared:
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._pass_on)
            else:
                for number in (signal.SIGTERM, signal.SIGINT):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def reached(self, step: int) -> bool:
        """Whether to stop before step number `step` (from 0); to be asked once before each step."""
        if not self._shared:
            return self._received
        received = multihost_utils.reached_preemption_sync_point(step)
        if received and is_first():
            say(f"SIGTERM received: {STOPPING}")
        return received

    def __exit__(self, *error: object) -> None:
        for number in tuple(self._before):
            self._give_back(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self._received:
            say(f"{signal.Signals(number).name} received: {STOPPING}")
        self._received = True
        if number == signal.SIGINT:
            self._give_back(number)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._give_back(number)
        os.kill(os.getpid(), signal.SIGTERM)

    def _give_back(self, number: int) -> None:
        signal.signal(number, self._before.pop(number))

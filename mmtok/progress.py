"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def say(text: str) -> None:
    """Prints one line to standard error without breaking a running progress bar."""
    tqdm.write(text, file=sys.stderr)


class Progress:
    """Says what is being done, how far, how fast and how long to go.

    Args:
      what: What is being done, a few words.
      total: How many units of work there are.
      unit: Name of one unit.
      start: Units already done (after a resume).
      every: Seconds between two lines when standard error is not a terminal.
    """

    def __init__(self, what: str, *, total: int, unit: str = "it", start: int = 0, every: float = 10.0):
        self._what, self._total, self._unit, self._every = what, total, unit, every
        self._start = self._done = start
        self._began = self._said = time.monotonic()
        terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=start, desc=what, unit=unit, file=sys.stderr) if terminal else None
        self._note = ""

    def update(self, count: int = 1, *, note: str = "") -> None:
        """Adds `count` done units; `note` is shown behind the figures."""
        self._done += count
        self._note = note or self._note
        if self._bar is not None:
            self._bar.set_postfix_str(self._note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._said >= self._every:
            self._line()

    def close(self) -> None:
        """Ends the bar, or prints the last line."""
        if self._bar is not None:
            self._bar.close()
        else:
            self._line()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _line(self) -> None:
        now = self._said = time.monotonic()
        rate = (self._done - self._start) / max(now - self._began, 1e-9)
        left = (self._total - self._done) / rate if rate > 0 else float("inf")
        to_go = f", {tqdm.format_interval(left)} to go" if 0 < left < float("inf") else ""
        note = f", {self._note}" if self._note else ""
        say(f"{self._what}: {self._done}/{self._total} {self._unit}, {rate:.1f} {self._unit}/s{to_go}{note}")


def track(items: Iterable[T], what: str, *, total: int, unit: str = "it") -> Iterator[T]:
    """Yields `items` while showing progress."""
    with Progress(what, total=total, unit=unit) as progress:
        for item in items:
            yield item
            progress.update()

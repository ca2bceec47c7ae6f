"""Where the log of a run goes."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mmtok.errors import MmtokError
from mmtok.files import explain_writing, new_file


@runtime_checkable
class Tracker(Protocol):
    """Takes the figures of a run."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Records the figures after `step` steps."""
        ...

    def close(self) -> None:
        """Writes what is still held back."""
        ...


class Jsonl:
    """One JSON object per entry in a file.

    Args:
      path: The file; entries of earlier runs stay.
      step: Step the run goes on from; later entries (of steps that will be done again) are dropped, as are lines that a
        killed run left half-written.

    Attributes:
      last: The last entry that was kept; empty where there is none.
    """

    def __init__(self, path: Path, *, step: int):
        kept = [entry for entry in map(_parse, _lines(path)) if entry is not None and entry["step"] <= step]
        with new_file(path) as temporary:
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
        self.last = {name: value for name, value in kept[-1].items() if name != "step"} if kept else {}
        self._path, self._file = path, path.open("a")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Appends an entry."""
        with explain_writing(self._path):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        with explain_writing(self._path):
            self._file.close()


class TensorBoard:
    """Scalars for TensorBoard.

    Args:
      folder: Folder of the event files.
      step: Step the run goes on from; TensorBoard hides later entries of earlier runs.
    """

    def __init__(self, folder: Path, *, step: int):
        from tensorboardX.event_file_writer import EventsWriter  # slow to import
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        self._folder, self._event, self._summary = folder, Event, Summary
        with explain_writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"))
        if step:
            self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Adds scalars."""
        scalars = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(self._event(step=step, wall_time=time.time(), summary=self._summary(value=scalars)))

    def close(self) -> None:
        """Closes the event file."""
        with explain_writing(self._folder):
            self._writer.close()

    def _write(self, event: Any) -> None:
        """At once: tensorboardX's own writer does it in a thread, and waits for ever where the disk is full."""
        with explain_writing(self._folder):
            self._writer.write_event(event)
            self._writer.flush()


class Wandb:
    """Weights & Biases, continuing the run of the same folder; needs the extra `[wandb]`."""

    def __init__(self, folder: Path, *, config: Mapping[str, Any]):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise MmtokError("tracker 'wandb' is not installed; run `pip install mmtok[wandb]`") from None
        self._run = wandb.init(dir=folder, id=folder.absolute().name, resume="allow", config=dict(config))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends an entry."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


def make_trackers(names: Sequence[str], folder: Path, *, step: int, config: Mapping[str, Any]) -> list[Tracker]:
    """Makes the trackers of the given names for a run in `folder` that goes on from `step`."""
    trackers: list[Tracker] = []
    if "tensorboard" in names:
        trackers.append(TensorBoard(folder / "tensorboard", step=step))
    if "wandb" in names:
        trackers.append(Wandb(folder, config=config))
    return trackers


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _parse(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return None
    return entry if isinstance(entry, dict) and "step" in entry else None

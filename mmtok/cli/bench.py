"""`mmtok bench train CONFIG` and `mmtok bench data CONFIG`."""

import dataclasses
from collections.abc import Sequence

from mmtok.cli.options import ProjectOption, parse_project
from mmtok.errors import MmtokError
from mmtok.project.speed import measure_input, measure_step


@dataclasses.dataclass(frozen=True)
class Train:
    """Times the training step of a project on this machine's devices, with random tokens.

    Attributes:
      timed: Steps that are timed.
    """

    project: ProjectOption
    timed: int = 20


@dataclasses.dataclass(frozen=True)
class Data:
    """Times the making of training batches, from the project's token store if there is one.

    Attributes:
      seconds: Spent on each measurement.
    """

    project: ProjectOption
    seconds: float = 5.0


def run(command: str, arguments: Sequence[str]) -> None:
    """Runs the command."""
    if command == "bench train":
        options = parse_project(Train, arguments, prog=f"mmtok {command}")
        if options.timed < 1:
            raise MmtokError(f"--timed is {options.timed}, at least one step must be timed")
        print(measure_step(options.project, steps=options.timed))
    else:
        data = parse_project(Data, arguments, prog=f"mmtok {command}")
        if data.seconds <= 0:
            raise MmtokError(f"--seconds is {data.seconds}, it must be above 0")
        print(measure_input(data.project, seconds=data.seconds))

"""`mmtok train CONFIG`."""

import dataclasses
import re
from collections.abc import Sequence

from mmtok.cli.options import ProjectOption, parse_project
from mmtok.errors import MmtokError
from mmtok.progress import say
from mmtok.project import train_project
from mmtok.train.processes import ending_together, is_first, start
from mmtok.train.targets import claim_gpu_memory


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains the any-to-any model of a project, or resumes it where it stopped.

    On a TPU pod and under SLURM or Open MPI the processes of a run find each other. Elsewhere, each is told.

    Attributes:
      coordinator: HOST:PORT of process 0, given to every process.
      processes: How many there are.
      process: Number of this one, from 0.
      profile: Steps to trace for xprof and TensorBoard, with a summary of where their time goes; 0: none.
    """

    project: ProjectOption
    coordinator: str = ""
    processes: int = 1
    process: int = 0
    profile: int = 0


def run(command: str, arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse_project(Options, arguments, prog=f"mmtok {command}")
    if bool(options.coordinator) != (options.processes > 1) or not 0 <= options.process < options.processes:
        raise MmtokError(
            f"--coordinator '{options.coordinator}', --processes {options.processes}, --process {options.process}:"
            " several processes need all three, with processes above 1 and process from 0 to processes - 1"
        )
    if options.coordinator and not re.fullmatch(r".+:\d+", options.coordinator):
        raise MmtokError(f"--coordinator is '{options.coordinator}', it must be HOST:PORT, such as host0:1234")
    if options.profile < 0:
        raise MmtokError(f"--profile is {options.profile}, it must be the number of steps to trace, or 0 for none")
    claim_gpu_memory()
    start((options.coordinator, options.processes, options.process) if options.coordinator else None)
    with ending_together():
        folder = train_project(options.project, profile=options.profile)
    if is_first():
        say(f"model -> {folder}")

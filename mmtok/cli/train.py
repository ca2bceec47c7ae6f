"""`mmtok train CONFIG`."""

import dataclasses
from collections.abc import Sequence

from mmtok.cli.options import ProjectOption, parse_project
from mmtok.progress import say
from mmtok.project import train_project


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains the any-to-any model of a project, or resumes it where it stopped."""

    project: ProjectOption


def run(command: str, arguments: Sequence[str]) -> None:
    """Runs the command."""
    project = parse_project(Options, arguments, prog=f"mmtok {command}").project
    folder = train_project(project)
    say(f"model -> {folder}")

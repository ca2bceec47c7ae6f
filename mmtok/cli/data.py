"""`mmtok data CONFIG`."""

import dataclasses
from collections.abc import Sequence

from mmtok.cli.options import ProjectOption, parse_project
from mmtok.progress import say


@dataclasses.dataclass(frozen=True)
class Options:
    """Makes the raw data set of a project, where it has to be made."""

    project: ProjectOption


def run(command: str, arguments: Sequence[str]) -> None:
    """Runs the command."""
    project = parse_project(Options, arguments, prog=f"mmtok {command}").project
    project.data.prepare(project.data_folder)
    for split in project.data.splits:
        source = project.data.open(split, project.data_folder)
        say(f"{split}: {len(source)} samples with {', '.join(source.fields)}")

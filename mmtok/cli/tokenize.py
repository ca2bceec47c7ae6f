"""`mmtok tokenize CONFIG`."""

import dataclasses
from collections.abc import Sequence

from mmtok.cli.options import ProjectOption, parse_project
from mmtok.progress import say
from mmtok.project import tokenize_project


@dataclasses.dataclass(frozen=True)
class Options:
    """Encodes the data of a project into its token store; an interrupted run is continued."""

    project: ProjectOption


def run(command: str, arguments: Sequence[str]) -> None:
    """Runs the command."""
    project = parse_project(Options, arguments, prog=f"mmtok {command}").project
    store = tokenize_project(project)
    sizes = ", ".join(f"{count} {split}" for split, count in store.splits.items())
    say(f"{project.token_folder}: {sizes} samples, modalities {', '.join(m.name for m in store.modalities)}")

"""`mmtok eval CONFIG`."""

import dataclasses
from collections.abc import Sequence

from mmtok.cli.options import ProjectOption, parse_project
from mmtok.project import evaluate_project


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures a model on held-out samples, each number beside its controls."""

    project: ProjectOption
    model_dir: str = ""
    """Folder of the model, or name of a shipped one; the project's own when left out."""
    split: str = "test"
    """Which held-out samples."""


def run(command: str, arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse_project(Options, arguments, prog=f"mmtok {command}")
    result = evaluate_project(options.project, model=options.model_dir, split=options.split)
    print(result.table.text())

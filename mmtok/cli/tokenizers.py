"""`mmtok tokenizer train|eval|inspect`."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmtok.cli.options import ProjectOption, parse_project
from mmtok.errors import MmtokError
from mmtok.files import read_json, write_json
from mmtok.project import evaluate_tokenizers, train_tokenizers
from mmtok.tokenizers.artifact import load


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains or evaluates the tokenizers of a project."""

    project: ProjectOption
    only: tuple[str, ...] = ()
    """Only these modalities; all when left out."""


def run(command: str, arguments: Sequence[str]) -> None:
    """Runs the command."""
    if command == "tokenizer inspect":
        return _inspect(arguments)
    options = parse_project(Options, arguments, prog=f"mmtok {command}")
    if command == "tokenizer train":
        return train_tokenizers(options.project, options.only)
    reports = evaluate_tokenizers(options.project, options.only)
    write_json(options.project.root / "eval" / "tokenizers.json", reports)
    _print(reports)
    return None


def _print(reports: dict[str, dict]) -> None:
    """One line per figure, with what the best constant reaches beside it."""
    table = Table("modality", "figure", "tokenizer", "constant")
    for name, report in reports.items():
        for key, value in report.items():
            if not key.startswith("constant "):
                constant = report.get(f"constant {key}")
                table.add_row(name, key, f"{value:.4g}", "" if constant is None else f"{constant:.4g}")
        table.add_section()
    Console().print(table)


def _inspect(arguments: Sequence[str]) -> None:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise MmtokError("usage: mmtok tokenizer inspect FOLDER")
    folder = Path(arguments[0])
    load(folder)  # so that a damaged artifact is not described as if it were whole
    print(json.dumps(read_json(folder / "config.json"), indent=1, ensure_ascii=False))

"""`mmtok import 4m` and `mmtok export 4m`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from mmtok.cli.options import parse
from mmtok.errors import MmtokError
from mmtok.progress import say
from mmtok.project import export_fourm, import_fourm


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Imports a model, with its tokenizers, or tokenizers alone.

    mmtok import 4m 4M-7_B/ 4M_tokenizers_rgb_16k_224-448/ text_tokenizer_4m_wordpiece_30k.json --out models/4m-7-b
    """

    files: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Safetensors files, or folders with one and its config.json; and the text vocabulary (JSON). MODALITY=FILE says
    whose tokenizer it is where its configuration and name do not."""
    out: Path
    """New folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Writes a model or a tokenizer as one safetensors file with its configuration.

    mmtok export 4m runs/mine/model --out model.safetensors
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a model or of a tokenizer."""
    out: Path
    """The file."""


def run(command: str, arguments: Sequence[str]) -> None:
    """Runs the command."""
    if command == "import 4m":
        options = parse(ImportOptions, arguments, prog=f"mmtok {command}")
        if not options.files:
            raise MmtokError("no file given: name the safetensors file of a model or of a tokenizer")
        say(f"{import_fourm(options.files, options.out)} -> {options.out}")
        return
    options = parse(ExportOptions, arguments, prog=f"mmtok {command}")
    export_fourm(options.run, options.out)
    say(f"{options.run} -> {options.out}")

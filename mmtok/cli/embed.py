"""`mmtok embed`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from mmtok.cli.options import parse
from mmtok.errors import MmtokError, unknown
from mmtok.files import new_file
from mmtok.inference import Loaded, load_anytoany
from mmtok.progress import say
from mmtok.show import read_value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Writes the features that a model's encoder has for files.

    mmtok embed photos/ --model models/4m-7-b --out features.npz
    """

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Files or folders of the field `rgb`; FIELD=PATH for others. Files of several fields belong together by name."""
    model: str = "scenes"
    """Folder that `mmtok train` or `mmtok import` wrote, or the name of a shipped model."""
    out: Path
    """An .npz file with names (B,), pooled (B, D), tokens (B, N, D), valid, modality and position (B, N); and
    modalities, the names that `modality` counts."""
    only: tuple[str, ...] = ()
    """Modalities to read; all that are made from the fields given when left out."""
    batch_size: int = 16
    """Samples at a time."""


def run(command: str, arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse(Options, arguments, prog=f"mmtok {command}")
    if options.batch_size < 1:
        raise MmtokError(f"--batch-size {options.batch_size}: at least 1 is needed")
    loaded = load_anytoany(options.model)
    names, samples = _samples(options.inputs, loaded)
    features = loaded.embed(samples, only=options.only, batch_size=options.batch_size)
    with new_file(options.out) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            names=np.array(names),
            modalities=np.array(list(loaded.modalities)),
            **vars(features),
        )
    say(f"{len(names)} samples, {features.pooled.shape[1]} features each -> {options.out}")


def _samples(inputs: Sequence[str], loaded: Loaded) -> tuple[list[str], list[dict[str, Any]]]:
    """Names and raw values; a sample lacks the fields that have no file of its name."""
    samples: dict[str, dict[str, Any]] = {}
    for word in inputs:
        field, equals, place = word.partition("=")
        if not equals or Path(word).exists():
            field, place = "rgb", word
        if field not in loaded.fields:
            raise unknown("input field", field, loaded.fields)
        for path in _files(Path(place)):
            samples.setdefault(path.stem, {})[field] = read_value(str(path), loaded.fields[field])
    if not samples:
        raise MmtokError(f"{', '.join(inputs) or 'no input'}: no files there to embed")
    return list(samples), list(samples.values())


def _files(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place]
    return sorted(path for path in place.iterdir() if path.is_file() and not path.name.startswith("."))

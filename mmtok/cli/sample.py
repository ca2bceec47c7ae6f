"""`mmtok sample`."""

import dataclasses
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from mmtok import __version__
from mmtok.cli.options import parse
from mmtok.config import to_json
from mmtok.errors import MmtokError, unknown
from mmtok.files import new_files, write_json
from mmtok.generate import Target, describe
from mmtok.progress import say
from mmtok.project import Box, Loaded, draw, load_anytoany
from mmtok.show import gallery, read_value, write_value
from mmtok.tokenizers.preprocess import centre_square

TILE = 160  # pixels of one picture in the gallery


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Generates any modalities from any others.

    mmtok sample --given rgb=photo.png --to depth,normal,label,caption,box --out out
    """

    given: tuple[str, ...] = ()
    """FIELD=VALUE, several: a file, or for text and JSON the value itself: rgb=photo.png caption="a red cube"."""
    to: str
    """Target modalities, joined by commas; made in this order, later ones from the earlier ones too. `all` makes every
    modality that is not made from a given field."""
    out: Path
    """Folder for one file per modality and sample, gallery.png and manifest.json."""
    model: str = "scenes"
    """Folder that `mmtok train` wrote, or the name of a shipped model."""
    samples: int = 1
    """How many different answers."""
    seed: int = 0
    """The same seed gives the same answers."""
    keep: tuple[str, ...] = ()
    """FIELD=left,top,right,bottom, fractions of the picture's centre square: only this part of it is known."""
    scheme: Literal["", "roar", "maskgit", "autoregressive"] = ""
    """Decoding scheme of the targets it fits; the model's own setting when left out."""
    steps: int | None = None
    """Decoding steps of grids."""
    temperature: float | None = None
    """0 takes the most likely token."""
    top_k: int | None = None
    """Only the k most likely tokens; 0 means all."""
    top_p: float | None = None
    """Only the most likely tokens that make up this probability, in (0, 1]."""
    guidance: float | None = None
    """Classifier-free guidance scale; 1 is none."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Only say what would be generated from what."""


def run(command: str, arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse(Options, arguments, prog=f"mmtok {command}")
    if options.samples < 1:
        raise MmtokError(f"--samples {options.samples}: at least 1 is needed")
    loaded = load_anytoany(options.model)
    given = {field: _value(text, field, loaded) for field, text in _pairs(options.given, loaded, "given").items()}
    plan = _plan(loaded, options, given)
    keep = {field: _box(text, field) for field, text in _pairs(options.keep, loaded, "keep").items()}
    known = loaded.known(loaded.encode([given]), keep)
    if options.dry_run:
        print(describe(plan, known, loaded.sampler.modalities))
        return
    answers = loaded.sample([given] * options.samples, plan, seed=options.seed, keep=keep)
    with new_files(options.out) as folder:
        files = [
            _write(folder, f"{number:03d}" if len(answers) > 1 else "", answer, loaded)
            for number, answer in enumerate(answers)
        ]
        _draw(folder / "gallery.png", given, keep, answers, loaded)
        manifest = {
            "mmtok": __version__,
            "command": shlex.join(["mmtok", command, *arguments]),
            "plan": to_json(plan),
            "files": files,
        }
        write_json(folder / "manifest.json", manifest)
    made = ", ".join(target.modality for target in plan)
    say(f"{len(answers)} x {made} -> {options.out / 'gallery.png'}")


def _plan(loaded: Loaded, options: Options, given: Collection[str]) -> tuple[Target, ...]:
    plan = []
    words = [word.strip() for word in options.to.split(",")]
    for name in filter(None, loaded.targets(given) if words == ["all"] else words):
        (target,) = loaded.plan([name])
        changes: dict[str, Any] = {
            key: getattr(options, key)
            for key in ("temperature", "top_k", "top_p", "guidance")
            if getattr(options, key) is not None
        }
        grid = loaded.modalities[name].kind == "grid"
        if grid and options.steps is not None:
            changes["steps"] = options.steps
        if options.scheme and grid == (options.scheme != "autoregressive"):
            changes["scheme"] = options.scheme
        plan.append(dataclasses.replace(target, **changes))
    if not plan:
        raise MmtokError("--to: no target modality given")
    return tuple(plan)


def _write(folder: Path, number: str, answer: Mapping[str, Any], loaded: Loaded) -> dict[str, str]:
    """Writes each value in its natural format; returns where, relative to `folder`."""
    paths = {
        name: write_value(folder / number / name, value, loaded.modalities[name].show) for name, value in answer.items()
    }
    return {name: str(path.relative_to(folder)) for name, path in paths.items()}


def _draw(
    path: Path, given: Mapping[str, Any], keep: Mapping[str, Box], answers: Sequence[Mapping[str, Any]], loaded: Loaded
) -> None:
    """One row per answer: what was given, what is not known of it paled, then what was made."""
    left = [
        (value if field not in keep else centre_square(value), loaded.fields[field]) for field, value in given.items()
    ]
    rows = [[*left, *((value, loaded.modalities[name].show) for name, value in answer.items())] for answer in answers]
    tiles = draw(rows, size=TILE)
    for row in tiles:
        for column, field in enumerate(given):
            if field in keep:
                row[column] = _paled(row[column], keep[field])
    names = list(answers[0])
    groups = [("given", len(given)), ("generated", len(names))] if given else [("generated", len(names))]
    gallery(path, tiles, titles=[*given, *names], groups=groups)


def _paled(tile: np.ndarray, box: Box) -> np.ndarray:
    """The picture with everything outside `box` close to white."""
    left, top, right, bottom = (round(edge * TILE) for edge in box)
    paled = 255 - (255 - tile) // 6
    paled[top:bottom, left:right] = tile[top:bottom, left:right]
    return paled


def _pairs(words: Sequence[str], loaded: Loaded, option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for word in words:
        field, equals, value = word.partition("=")
        if not equals or not value.strip():
            raise MmtokError(f"--{option} {word}: FIELD=VALUE with a value that is not empty was expected")
        if field not in loaded.fields:
            raise unknown("input field", field, loaded.fields)
        if field in pairs:
            raise MmtokError(f"--{option} {field}: given twice; one value per field")
        pairs[field] = value
    return pairs


def _value(text: str, field: str, loaded: Loaded) -> Any:
    value = read_value(text, loaded.fields[field])
    if isinstance(value, str) and not value:
        raise MmtokError(f"--given {field}={text}: the text is empty")
    return value


def _box(text: str, field: str) -> Box:
    try:
        left, top, right, bottom = map(float, text.split(","))
    except ValueError:
        raise MmtokError(f"--keep {field}={text}: four numbers left,top,right,bottom in 0..1 were expected") from None
    return left, top, right, bottom

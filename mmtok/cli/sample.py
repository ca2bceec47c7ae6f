"""`mmtok sample`."""

import dataclasses
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from mmtok import __version__
from mmtok.batch import TokenColumn
from mmtok.cli.options import parse
from mmtok.config import to_json
from mmtok.errors import MmtokError, unknown
from mmtok.files import new_files, write_json
from mmtok.generate import Target, describe
from mmtok.modality import Modality
from mmtok.progress import say
from mmtok.project import Box, Loaded, Recipe, Shown, draw, load_anytoany
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
    modality of the recipe that is not made from a given field."""
    out: Path
    """Folder for one file per modality and sample, gallery.png and manifest.json."""
    model: str = "scenes"
    """Folder that `mmtok train` wrote, or the name of a shipped model."""
    recipe: str = ""
    """Named settings that come with the model; when left out, the first that fits what is given."""
    then: str = ""
    """A second model, such as one for super-resolution: it is given all that is known then, and makes what its first
    recipe says."""
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
    """Only say what would be generated from what, by the first model."""


def run(command: str, arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse(Options, arguments, prog=f"mmtok {command}")
    if options.samples < 1:
        raise MmtokError(f"--samples {options.samples}: at least 1 is needed")
    loaded = load_anytoany(options.model)
    given = {field: _value(text, field, loaded) for field, text in _pairs(options.given, loaded, "given").items()}
    plan = _plan(loaded, options, given)
    keep = {field: _box(text, field) for field, text in _pairs(options.keep, loaded, "keep").items()}
    if options.dry_run:
        print(describe(plan, loaded.known(loaded.encode([given]), keep), loaded.sampler.modalities))
        return
    columns = loaded.tokens([given] * options.samples, plan, seed=options.seed, keep=keep)
    made = [Made(loaded, plan, columns)]
    if options.then:
        made.append(_continue(made[0], {field: given[field] for field in given if field not in keep}, options))
    modalities = {name: item for part in made for name, item in part.model.modalities.items()}
    answers = [
        {name: value for part in parts for name, value in part.items()}
        for parts in zip(*(part.answers() for part in made), strict=True)
    ]
    shown: dict[str, Shown] = {
        field: (centre_square(value) if field in keep else value, loaded.sources[field])
        for field, value in given.items()
    }
    with new_files(options.out) as folder:
        files = [
            _write(folder, f"{number:03d}" if len(answers) > 1 else "", answer, modalities)
            for number, answer in enumerate(answers)
        ]
        _draw(folder / "gallery.png", shown, keep, answers, modalities)
        manifest = {
            "mmtok": __version__,
            "command": shlex.join(["mmtok", command, *arguments]),
            "plan": to_json([target for part in made for target in part.plan]),
            "files": files,
        }
        write_json(folder / "manifest.json", manifest)
    say(f"{len(answers)} x {', '.join(answers[0])} -> {options.out / 'gallery.png'}")


@dataclasses.dataclass(frozen=True)
class Made:
    """What a model made.

    Attributes:
      model: The model.
      plan: What it was asked for.
      columns: All that was known in the end.
    """

    model: Loaded
    plan: tuple[Target, ...]
    columns: Mapping[str, TokenColumn]

    def answers(self) -> list[dict[str, Any]]:
        """Returns the raw values of the targets, for each sample."""
        return self.model.decode({target.modality: self.columns[target.modality] for target in self.plan})


def _continue(first: Made, given: Mapping[str, Any], options: Options) -> Made:
    """What the second model makes of all that is known after the first."""
    model = load_anytoany(options.then)
    taken = model.take_over(first.columns, first.model)
    if not taken:
        raise MmtokError(f"--then {options.then}: this model reads nothing of what is known after the first")
    fresh = {field: value for field, value in given.items() if field in model.fields}
    fields = {*fresh, *(model.modalities[name].source for name in taken)}
    recipe = model.recipe(given=fields)
    plan = _settings(model, model.targets(fields, recipe=recipe), recipe, options)
    samples = len(next(iter(taken.values())).length)
    return Made(model, plan, model.tokens([fresh] * samples, plan, seed=options.seed, taken=taken))


def _plan(loaded: Loaded, options: Options, given: Collection[str]) -> tuple[Target, ...]:
    recipe = loaded.recipe(options.recipe, given=given)
    words = [word.strip() for word in options.to.split(",")]
    names = loaded.targets(given, recipe=recipe) if words == ["all"] else [*filter(None, words)]
    if not names:
        raise MmtokError("--to: no target modality given")
    return _settings(loaded, names, recipe, options)


def _settings(loaded: Loaded, names: Sequence[str], recipe: Recipe, options: Options) -> tuple[Target, ...]:
    """The settings of a recipe, changed by the options that fit each target."""
    plan = []
    for name in names:
        (target,) = loaded.plan([name], recipe=recipe)
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
    return tuple(plan)


def _write(folder: Path, number: str, answer: Mapping[str, Any], modalities: Mapping[str, Modality]) -> dict[str, str]:
    """Writes each value in its natural format; returns where, relative to `folder`."""
    paths = {name: write_value(folder / number / name, value, modalities[name].show) for name, value in answer.items()}
    return {name: str(path.relative_to(folder)) for name, path in paths.items()}


def _draw(
    path: Path,
    given: Mapping[str, Shown],
    keep: Mapping[str, Box],
    answers: Sequence[Mapping[str, Any]],
    modalities: Mapping[str, Modality],
) -> None:
    """One row per answer: what was given, what is not known of it paled, then what was made."""
    rows = [[*given.values(), *((value, modalities[name]) for name, value in answer.items())] for answer in answers]
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

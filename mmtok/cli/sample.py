"""`mmtok sample`."""

import dataclasses
import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mmtok.cli.options import parse
from mmtok.config import to_json
from mmtok.errors import MmtokError, unknown
from mmtok.files import new_file, new_files, write_json
from mmtok.inference import (
    MANIFEST,
    MASK,
    RECORDS,
    Box,
    Inputs,
    Job,
    Loaded,
    Manifest,
    Origin,
    Plan,
    PlanFile,
    Stage,
    batches,
    check_fit,
    digest,
    identity,
    known_parts,
    load_anytoany,
    parse_settings,
    plan_after,
    read_plan,
    read_word,
    repeat,
    with_decoding_steps,
    with_mask,
    with_own_settings,
    with_settings,
    work,
    write_answer,
)
from mmtok.progress import say


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Generates any modalities from any others: of one sample, or of a folder, a table or a token store.

    mmtok sample --given rgb=photo.png --to depth,normal,label,caption,box --out out

    mmtok sample --from photos/ --to depth,caption --out out
    """

    given: tuple[str, ...] = ()
    """FIELD=VALUE, several: a file, or for text and JSON the value itself: rgb=photo.png caption="a red cube"."""
    from_: Annotated[str, tyro.conf.arg(name="from")] = ""
    """Many samples: a folder (sub-folders named after raw fields, or the files of one field), a .csv or .jsonl table
    whose columns are raw fields, or a token store."""
    fields: str = ""
    """Only these raw fields of --from, joined by commas; of files that lie in one folder, their field."""
    split: str = ""
    """Split of the token store --from."""
    to: str = ""
    """Target modalities, joined by commas; made in this order, later ones from the earlier ones too. `all` makes every
    modality of the recipe that is not made from a given field."""
    plan: str = ""
    """A JSON file of targets with their settings, as --dry-run --json prints it; instead of --to."""
    set: tuple[str, ...] = ()
    """TARGET.SETTING=VALUE, several: depth.steps=4 depth.guidance=2 caption.temperature=0.3."""
    out: Path
    """Folder for the files, gallery.png and manifest.json; with --from also samples.jsonl, and a stopped run goes on
    when it is started again."""
    model: str = "scenes"
    """Folder that `mmtok train` wrote, or the name of a shipped model."""
    recipe: str = ""
    """Named settings that come with the model; when left out, the first that fits what is given."""
    then: str = ""
    """A second model, such as one for super-resolution: it is given all that is known then, and makes what its first
    recipe says."""
    samples: int = 1
    """How many different answers to each sample."""
    best: int = 0
    """Of the --samples answers, only so many are left: those whose tokens the model finds the most likely."""
    reduce: Literal["", "mean", "median", "vote"] = ""
    """Of the --samples answers, one is made, and TARGET_uncertainty says how far they lie apart: mean or median of
    numbers, the vote for classes."""
    probabilities: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write log-probabilities and entropies of all tokens too, as .npz, and for pictures a map of the entropies."""
    tiles: float | None = None
    """OVERLAP in 0..0.9: a picture larger than the training size is cut into windows of that size, which overlap by at
    least this share of a side; what is made of them is blended."""
    seed: int = 0
    """The same seed gives the same answers."""
    keep: tuple[str, ...] = ()
    """FIELD=left,top,right,bottom, fractions of the picture's centre square: only this part of it is known."""
    mask: tuple[str, ...] = ()
    """FIELD=FILE: a picture of the same proportions, white where the picture is to be painted and black where it is
    known. With --from, masks are files of the sub-folder or column FIELD.mask."""
    place: tuple[str, ...] = ()
    """FIELD=left,top,right,bottom: the picture is put into this part of a square, and the rest is to be painted."""
    scheme: Literal["", "halton", "roar", "maskgit", "autoregressive"] = ""
    """Decoding scheme of the targets it fits; the model's own setting when left out."""
    steps: int | None = None
    """Decoding steps of grids."""
    temperature: float | None = None
    """0 takes the most likely token."""
    top_k: int | None = None
    """Only the k most likely tokens; 0 means all."""
    top_p: float | None = None
    """Only the most likely tokens that make up this probability, in (0, 1]."""
    min_p: float | None = None
    """Only tokens at least this times as likely as the most likely one, in [0, 1]."""
    guidance: float | None = None
    """Classifier-free guidance scale; 1 is none."""
    decoder_steps: int | None = None
    """Passes of tokenizers that decode by diffusion; their own number when left out."""
    batch_size: int = 16
    """Answers at a time."""
    again: str = ""
    """Folder of an earlier run with --from: makes its outputs again, the same to the byte, and needs only --out."""
    only: tuple[str, ...] = ()
    """Names of the samples to make --again; all when left out."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Only say what would be generated from what, and in how many forward passes."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """With --dry-run: print the plan as JSON, which --plan reads."""


def run(command: str, arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse(Options, arguments, prog=f"mmtok {command}")
    _check_together(options)
    if options.again:
        return _again(options)
    words = shlex.join(["mmtok", command, *arguments])
    model = load_anytoany(options.model)
    if options.from_:
        return _many(options, model, words)
    return _one(options, model, words)


def _one(options: Options, model: Loaded, command: str) -> None:
    """One sample, given on the command line."""
    words, masks = _pairs(options.given, model, "given"), _pairs(options.mask, model, "mask")
    job = _job(options, model, words, masked=masks)
    job.check(words)
    given = {
        field: read_word(word, model.fields[field], what=f"--given {field}={word}") for field, word in words.items()
    }
    for field, word in masks.items():
        given = with_mask(given, field, Path(word))
    if options.dry_run:
        (ready,) = job.prepare([given])
        first = model.known(model.encode([ready]), [known_parts(ready)])
        return _describe(options, job, [first, *job.conditions(words)[1:]])
    answers = job.run([given], batch_size=options.batch_size)
    origins = {field: identity(word, model.fields[field]) for field, word in words.items()}
    origins |= {f"{field}{MASK}": identity(word, "mask") for field, word in masks.items()}
    with new_files(options.out) as folder:
        many = len(answers) > 1
        files = tuple(
            write_answer(answers, place, folder, before=f"{place:03d}/" * many, probabilities=options.probabilities)
            for place in range(len(answers))
        )
        with new_file(folder / "gallery.png") as temporary:
            answers.picture().save(temporary, format="PNG", optimize=True)
        manifest = _manifest(options, job, command, given=origins, files=files)
        write_json(folder / MANIFEST, to_json(manifest))
    say(f"{len(answers)} x {', '.join(job.targets)} -> {options.out / 'gallery.png'}")


def _many(options: Options, model: Loaded, command: str) -> None:
    """All samples of a folder, a table or a token store."""
    fields = tuple(_split(options.fields))
    origin = Origin(path=str(Path(options.from_).resolve()), fields=fields, split=options.split)
    inputs = origin.open(model, asked=_asked(options))
    job = _job(options, model, inputs.counts, inputs.modalities, masked=inputs.masked)
    job.check(inputs.counts, inputs.modalities)
    if options.dry_run:
        _describe(options, job, job.conditions(inputs.counts, inputs.modalities))
        return None if options.json else _count(options, job, inputs)
    names = inputs.names
    manifest = _manifest(options, job, command, origin=origin, samples=len(names), names=digest(names))
    failed = work(job, inputs, options.out, manifest)
    say(f"{len(names) - failed} x {', '.join(job.targets)} -> {options.out}")
    if failed:
        raise MmtokError(f"{failed} of {len(names)} samples failed; {options.out / RECORDS} says why")


def _again(options: Options) -> None:
    folder = Path(options.again)
    manifest = Manifest.read(folder)
    if manifest.origin is None:
        raise MmtokError(f"{folder}: one sample given on the command line; make it again by `{manifest.command}`")
    job = manifest.job()
    inputs = manifest.origin.open(job.model, asked=job.targets)
    manifest.check_inputs(inputs.names, folder=folder)
    made = repeat(job, inputs, folder, manifest, only=options.only, out=options.out)
    say(f"{made} x {', '.join(job.targets)} -> {options.out}")


def _describe(options: Options, job: Job, conditions: Sequence[Mapping[str, Any]]) -> None:
    if options.json:
        plans = [stage.plan for stage in job.stages]
        print(json.dumps(PlanFile(plan=plans[0], then=plans[1] if options.then else ()).to_json(), indent=1))
    else:
        print(job.describe(conditions))


def _count(options: Options, job: Job, inputs: Inputs) -> None:
    fields = ", ".join(f"{field} {count}" for field, count in inputs.counts.items())
    number = len(batches(inputs, job, batch_size=options.batch_size))
    each = f", {job.draws} answers each" if job.draws > 1 else ""
    print(f"samples: {len(inputs.names)} ({fields}){each}; batches, each of these forward passes: {number}")


# --- what is asked for -----------------------------------------------------------------------------------------------


def _job(
    options: Options,
    model: Loaded,
    fields: Collection[str],
    taken: Collection[str] = (),
    *,
    masked: Collection[str] = (),
) -> Job:
    """The plans of all models, with every setting.

    Args:
      options: Of the command.
      model: The first one.
      fields: Raw fields that are given.
      taken: Modalities that are given as tokens.
      masked: Raw fields that are given with masks.
    """
    own, common = parse_settings(options.set), _common(options)
    read = read_plan(options.plan) if options.plan else None
    keep, place = _boxes(options.keep, model, "keep"), _boxes(options.place, model, "place")
    plan = read.plan if read else _named(options, model, fields)
    stages = (Stage(model, _settled(model, plan, common, own)),)
    job = Job(
        stages=stages,
        seed=options.seed,
        draws=options.samples,
        keep=keep,
        place=place,
        masked=tuple(masked),
        tiles=options.tiles,
        best=options.best,
        reduce=options.reduce or None,
        probabilities=options.probabilities,
    )
    if options.then:
        second, where = load_anytoany(options.then), f"--then {options.then}"
        given = plan_after(job, second, fields, taken=taken, name=where)
        plan = _settled(second, read.then if read and read.then else given, common, own)
        job = dataclasses.replace(job, stages=(*stages, Stage(second, plan)))
    elif read and read.then:
        raise MmtokError(f"{options.plan}: holds a plan for a second model; name it by --then")
    if options.decoder_steps is not None:
        job = dataclasses.replace(job, stages=with_decoding_steps(job.stages, options.decoder_steps))
    check_fit(job.targets, common)
    for name in own:
        if name not in job.targets:
            raise unknown("target of --set", name, job.targets)
    return job


def _named(options: Options, model: Loaded, fields: Collection[str]) -> Plan:
    """The targets of --to with the settings of the recipe."""
    recipe = model.recipe(options.recipe, given=fields)
    names = _split(options.to)
    if names == ["all"]:
        names = model.targets(fields, recipe=recipe)
        if not names:
            raise MmtokError("--to all: all that the recipe makes is given; say by --fields what is to be given")
    return model.plan(names, recipe=recipe)


def _asked(options: Options) -> list[str]:
    """The targets of the first model that are named."""
    return [target.modality for target in read_plan(options.plan).plan] if options.plan else _split(options.to)


def _common(options: Options) -> dict[str, Any]:
    """The settings for all targets that they fit."""
    keys = ("scheme", "steps", "temperature", "top_k", "top_p", "min_p", "guidance")
    return {key: getattr(options, key) for key in keys if getattr(options, key) not in (None, "")}


def _settled(model: Loaded, plan: Plan, common: Mapping[str, Any], own: Mapping[str, Mapping[str, Any]]) -> Plan:
    """The plan with the settings for all targets, then with those of single ones."""
    return with_own_settings(with_settings(plan, model.modalities, common), own)


def _manifest(options: Options, job: Job, command: str, **samples: Any) -> Manifest:
    models = [path for path in (options.model, options.then) if path]
    models = [str(Path(path).resolve()) if Path(path).exists() else path for path in models]
    return Manifest.of(job, models=models, command=command, batch_size=options.batch_size, **samples)


def _check_together(options: Options) -> None:
    """Raises MmtokError for options that exclude or need one another."""
    if options.samples < 1:
        raise MmtokError(f"--samples {options.samples}: at least 1 is needed")
    if not 0 <= options.best <= options.samples:
        raise MmtokError(f"--best {options.best}: of --samples {options.samples} answers; draw more or leave it out")
    if options.batch_size < 1:
        raise MmtokError(f"--batch-size {options.batch_size}: at least 1 is needed")
    if options.again:
        if options.given or options.from_ or options.to or options.plan or options.set:
            raise MmtokError("--again makes what was made before; leave out what is given and asked for")
        return
    if options.given and options.from_:
        raise MmtokError("--given and --from: one sample or many, give one of the two")
    if options.plan and (options.to or options.recipe):
        raise MmtokError("--plan says what to make; leave out --to and --recipe")
    if not options.plan and not _split(options.to):
        raise MmtokError("--to: no target modality given")
    for name, value, other, there in (
        ("fields", options.fields, "from", options.from_),
        ("split", options.split, "from", options.from_),
        ("mask", options.mask, "given", options.given),
        ("only", options.only, "again", options.again),
        ("json", options.json, "dry-run", options.dry_run),
    ):
        if value and not there:
            raise MmtokError(f"--{name}: only goes with --{other}")


def _split(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def _pairs(words: Sequence[str], model: Loaded, option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for word in words:
        field, equals, value = word.partition("=")
        if not equals or not value.strip():
            raise MmtokError(f"--{option} {word}: FIELD=VALUE with a value that is not empty was expected")
        if field not in model.fields:
            raise unknown("input field", field, model.fields)
        if field in pairs:
            raise MmtokError(f"--{option} {field}: given twice; one value per field")
        pairs[field] = value
    return pairs


def _boxes(words: Sequence[str], model: Loaded, option: str) -> dict[str, Box]:
    return {field: _box(text, f"--{option} {field}={text}") for field, text in _pairs(words, model, option).items()}


def _box(text: str, where: str) -> Box:
    try:
        left, top, right, bottom = map(float, text.split(","))
    except ValueError:
        raise MmtokError(f"{where}: four numbers left,top,right,bottom in 0..1 were expected") from None
    return left, top, right, bottom

"""Evaluating a trained model on held-out samples of a project's data."""

from collections.abc import Sequence
from pathlib import Path

from mmtok.errors import MmtokError
from mmtok.eval.harness import Evaluation, Example, evaluate
from mmtok.files import new_file, write_json
from mmtok.inference.loaded import Loaded
from mmtok.inference.opening import load_anytoany
from mmtok.inference.pictures import draw
from mmtok.progress import say
from mmtok.project.config import Project
from mmtok.show import gallery
from mmtok.source import Sample, Source

CONSTANT_SAMPLES = 512  # training samples that the best constant answers are chosen from
TILE = 128  # pixels of one picture in the galleries


def evaluate_project(project: Project, *, model: Path | str = "", split: str = "test") -> Evaluation:
    """Measures a model in the project's directions and writes `eval/SPLIT.json`, `.md` and galleries.

    Args:
      project: Says what is measured, and holds the data.
      model: Folder of the model; the project's own when left out.
      split: Which held-out samples.

    Returns:
      The table and the first examples.

    Raises:
      MmtokError: the project names no directions, has no such split, or there is no such model.
    """
    if not project.directions:
        raise MmtokError("the project has no `directions`, which say what is evaluated; add one to its configuration")
    loaded = load_anytoany(model or project.model_folder)
    fields = _fields(project, loaded)
    samples = _read(project.data.open(split, project.data_folder), fields, project.eval_samples)
    training = _read(project.data.open("train", project.data_folder), fields, CONSTANT_SAMPLES)
    result = evaluate(
        samples,
        training=training,
        codecs=loaded.tokenizers,
        generate=loaded.sample,
        directions=project.directions,
        batch_size=min(64, len(samples)),
    )
    folder = project.root / "eval"
    write_json(folder / f"{split}.json", result.table.to_json())
    with new_file(folder / f"{split}.md") as temporary:
        temporary.write_text(result.table.markdown())
    for shown in dict.fromkeys((direction.given, direction.through) for direction in project.directions):
        path = folder / f"{split}_{'_'.join((*shown[0], *shown[1]))}.png"
        names = {d.name(t) for d in project.directions if (d.given, d.through) == shown for t in d.targets}
        _draw(path, [example for example in result.examples if example.direction in names], loaded)
        say(f"gallery {path}")
    return result


def _draw(path: Path, examples: Sequence[Example], loaded: Loaded) -> None:
    """One row per sample: what was given, then truth and prediction of every target that the sample has."""
    samples: dict[tuple[int, ...], Sample] = {}
    for example in examples:
        samples |= {_identity(given): given for given in example.given}
    answers = [
        {_identity(given): pair for given, *pair in zip(example.given, example.truths, example.predictions)}
        for example in examples
    ]
    titles = [f"given {field}" for field in examples[0].given[0]]
    for example in examples:
        titles += [f"true {example.target}", example.target]
    rows = []
    for identity, given in samples.items():
        row = [(value, loaded.sources[field]) for field, value in given.items()]
        for example, answer in zip(examples, answers):
            modality = loaded.modalities[example.target]
            row += [(value, modality) for value in answer.get(identity, (None, None))]
        rows.append(row)
    gallery(path, draw(rows, size=TILE), titles=titles)


def _identity(given: Sample) -> tuple[int, ...]:
    """The same for the same raw values: a target that some samples lack was asked of others."""
    return tuple(map(id, given.values()))


def _fields(project: Project, loaded: Loaded) -> tuple[str, ...]:
    """The raw fields that the directions read or are scored against."""
    names = [name for direction in project.directions for name in direction.given]
    names += [loaded.modalities[t].source for direction in project.directions for t in direction.targets]
    return tuple(dict.fromkeys(names))


def _read(source: Source, fields: tuple[str, ...], limit: int) -> list[Sample]:
    return source.read(range(min(limit, len(source))), fields)

"""Training, evaluating and opening the tokenizers of a project."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmtok.config import to_json
from mmtok.data import ArrayBatches
from mmtok.errors import MismatchError, MmtokError, unknown
from mmtok.eval.tokenizers import evaluate_tokenizer
from mmtok.progress import say
from mmtok.project.config import Project
from mmtok.project.initial import Initial
from mmtok.project.values import read_values
from mmtok.show.reconstruction import reconstruction
from mmtok.tokenizers.artifact import Fitted, Learned, Tokenizer, create, load
from mmtok.train.loop import fit
from mmtok.train.tokenizer import TokenizerTask

PICTURES = 8  # samples in a reconstruction picture
REPORTED = 512  # held-out samples behind the figures in a tokenizer's card


def train_tokenizers(project: Project, names: Sequence[str] = ()) -> None:
    """Makes the tokenizers that are not there yet, in the order of the project's modalities.

    A tokenizer that exists with the same configuration is kept; one with another configuration is an error, for
    tokens made with it would silently change their meaning.

    Args:
      project: What to train.
      names: Only these modalities; empty means all.
    """
    for name in _chosen(project, names):
        folder = project.tokenizer_folder(name)
        if folder.exists():
            _open(project, name)
            say(f"tokenizer {name}: is there already ({folder})")
            continue
        if project.initial and Initial.open(project.initial).has(name):
            shutil.copytree(Initial.open(project.initial).tokenizer_folder(name), folder)
            _open(project, name)
            say(f"tokenizer {name}: that of {project.initial}")
            continue
        tokenizer = create(name=name, source=project.source_of(name), config=project.modalities[name].tokenizer)
        trained, training = _train(project, name, tokenizer)
        report = evaluate_tokenizer(trained, _held_out(project, trained, limit=REPORTED))
        dataclasses.replace(trained, summary=report | training).save(folder)
        say(f"tokenizer {name}: {_line(report)} -> {folder}")
        shutil.rmtree(_training_folder(project, name), ignore_errors=True)


def evaluate_tokenizers(project: Project, names: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Measures the project's tokenizers on held-out samples and draws a reconstruction picture beside each.

    Returns:
      Per modality: reconstruction metric, codebook use and perplexity, and the best constant's metric.
    """
    reports = {}
    for name, tokenizer in open_tokenizers(project, names).items():
        values = _held_out(project, tokenizer, limit=project.eval_samples)
        reports[name] = evaluate_tokenizer(tokenizer, values)
        shown = values[:PICTURES]
        decoded = tokenizer.decode(tokenizer.encode(shown))
        picture = project.root / "eval" / f"tokenizer_{name}.png"
        reconstruction(picture, shown, decoded, show=tokenizer.modality.show)
        say(f"tokenizer {name}: {_line(reports[name])}; picture {picture}")
    return reports


def open_tokenizers(project: Project, names: Sequence[str] = ()) -> dict[str, Tokenizer]:
    """Loads the project's tokenizers, all of them or only those named.

    Raises:
      MmtokError: one of them has not been made yet, or is damaged.
      MismatchError: one was made with another configuration.
    """
    return {name: _open(project, name) for name in _chosen(project, names)}


def _open(project: Project, name: str) -> Tokenizer:
    folder, config = project.tokenizer_folder(name), project.modalities[name].tokenizer
    if not folder.exists():
        raise MmtokError(f"{folder}: no tokenizer for '{name}' yet; run `mmtok tokenizer train` first")
    tokenizer = load(folder)
    found = {"name": tokenizer.name, "source": tokenizer.source, "family": tokenizer.config.family}
    wanted = {"name": name, "source": project.source_of(name), "family": config.family}
    if found == wanted:
        found, wanted = to_json(tokenizer.config), to_json(config)
    for key in sorted(found.keys() | wanted.keys()):
        if found.get(key) != wanted.get(key):
            raise MismatchError(
                f"{folder}: this tokenizer was made with {key} = {found.get(key)}, the project says {wanted.get(key)};"
                " set it back, or remove the folder to train the tokenizer anew"
            )
    return tokenizer


def _train(project: Project, name: str, tokenizer: Tokenizer) -> tuple[Tokenizer, dict[str, Any]]:
    field = project.modalities[name]
    if not isinstance(tokenizer, Learned | Fitted):
        return tokenizer, {}
    source = project.data.open("train", project.data_folder)
    values = read_values(source, tokenizer.source, limit=project.tokenizer_samples)
    if not values:
        raise MmtokError(f"tokenizer '{name}': no training sample has the field '{tokenizer.source}'")
    if isinstance(tokenizer, Fitted):
        tokenizer = tokenizer.fit(values)
    if not isinstance(tokenizer, Learned):
        return tokenizer, {"samples": len(values)}
    if len(values) < field.batch_size:
        raise MmtokError(
            f"tokenizer '{name}': {len(values)} training samples have the field '{tokenizer.source}', fewer than a"
            f" batch of {field.batch_size}; lower its batch size or make more data"
        )
    batches = ArrayBatches(tokenizer.prepare(values), batch_size=field.batch_size, seed=project.seed)
    result = fit(TokenizerTask(tokenizer, batches=batches), field.fit, _training_folder(project, name))
    return tokenizer.with_module(result.module), {"samples": len(values), "training": to_json(field.fit)}


def _held_out(project: Project, tokenizer: Tokenizer, *, limit: int) -> list[Any]:
    split = "validation" if "validation" in project.data.splits else "train"
    return read_values(project.data.open(split, project.data_folder), tokenizer.source, limit=limit)


def _training_folder(project: Project, name: str) -> Path:
    return project.root / "tokenizers" / f".training-{name}"


def _chosen(project: Project, names: Sequence[str]) -> list[str]:
    for name in names:
        if name not in project.modalities:
            raise unknown("modality", name, project.modalities)
    return [name for name in project.modalities if not names or name in names]


def _line(report: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in report.items() if isinstance(value, int | float))

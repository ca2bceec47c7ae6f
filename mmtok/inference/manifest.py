"""`manifest.json`: all that decides what a run of `mmtok sample` makes, so that it can be made again."""

import dataclasses
import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmtok import __version__
from mmtok.config import from_json, to_json
from mmtok.errors import MismatchError, MmtokError
from mmtok.files import read_json
from mmtok.generate import Target
from mmtok.inference.inputs.origin import Origin
from mmtok.inference.job import Job, Stage
from mmtok.inference.loaded import Loaded
from mmtok.inference.opening import load_anytoany
from mmtok.inference.reductions import Reduction
from mmtok.inference.regions import Box

MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """A model that took part.

    Attributes:
      path: Its folder, or the name of a shipped one.
      weights: Their fingerprint.
      tokenizers: Their fingerprints by modality.
      targets: What it made, in order.
      decoding_steps: Passes that decoding took, of targets that are decoded by diffusion.
    """

    path: str
    weights: str
    tokenizers: dict[str, str]
    targets: tuple[str, ...]
    decoding_steps: dict[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, stage: Stage, path: str) -> "ModelRecord":
        """Describes the model of a stage."""
        tokenizers = {name: item.fingerprint for name, item in stage.model.modalities.items()}
        return cls(
            path=path,
            weights=stage.model.weights,
            tokenizers=tokenizers,
            targets=stage.targets,
            decoding_steps=stage.model.decoding_steps(stage.targets),
        )

    def open(self) -> Loaded:
        """Opens the model.

        Raises:
          MismatchError: it is another one by now.
        """
        model = load_anytoany(self.path)
        if model.weights != self.weights:
            raise MismatchError(
                f"{self.path}: the outputs were made by a model whose weights have the fingerprint {self.weights},"
                f" these have {model.weights}; put the model back"
            )
        return model.with_decoding_steps(self.decoding_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `manifest.json` holds.

    Attributes:
      mmtok: Version.
      jax: Version.
      numpy: Version.
      command: That was typed.
      models: In the order in which they worked.
      plan: All targets with their settings, in order.
      seed: Of all random choices.
      draws: Answers to each sample.
      keep: Raw field -> the part of the picture that was known.
      place: Raw field -> the part of a larger picture that the picture given was put into.
      tiles: Overlap of the windows that pictures were cut into.
      best: How many of the answers to each sample were left; 0 is all.
      reduce: How they were brought together.
      probabilities: Whether those of the tokens were written.
      batch_size: Answers per compiled step.
      origin: Where the samples came from; None where they were given one by one.
      samples: How many there were.
      names: SHA-256 of their names.
      given: Where the values of a sample given by itself came from, by raw field.
      files: What was written for it, one mapping per answer.
    """

    mmtok: str = __version__
    jax: str = jax.__version__
    numpy: str = np.__version__
    command: str
    models: tuple[ModelRecord, ...]
    plan: tuple[Target, ...]
    seed: int
    draws: int
    keep: dict[str, Box]
    place: dict[str, Box]
    tiles: float | None
    best: int
    reduce: Reduction | None
    probabilities: bool
    batch_size: int
    origin: Origin | None = None
    samples: int = 1
    names: str = ""
    given: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    files: tuple[dict[str, str], ...] = ()

    @classmethod
    def of(cls, job: Job, *, models: Sequence[str], command: str, batch_size: int, **samples: Any) -> "Manifest":
        """Describes a job.

        Args:
          job: The job.
          models: The path of each stage's model.
          command: That was typed.
          batch_size: Answers per compiled step.
          samples: Fields that say which samples there are.
        """
        return cls(
            command=command,
            models=tuple(ModelRecord.of(stage, path) for stage, path in zip(job.stages, models, strict=True)),
            plan=tuple(target for stage in job.stages for target in stage.plan),
            seed=job.seed,
            draws=job.draws,
            keep=dict(job.keep),
            place=dict(job.place),
            tiles=job.tiles,
            best=job.best,
            reduce=job.reduce,
            probabilities=job.probabilities,
            batch_size=batch_size,
            **samples,
        )

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Reads the manifest of a folder.

        Raises:
          MmtokError: there is none, it is damaged or of another version of its layout.
        """
        return from_json(cls, read_json(folder / MANIFEST), where=str(folder / MANIFEST))

    def job(self) -> Job:
        """Opens the models and returns what they did; warns where other versions did it.

        Raises:
          MmtokError: a model is not there.
          MismatchError: a model is another one by now.
        """
        for name, version in (("mmtok", __version__), ("jax", jax.__version__), ("numpy", np.__version__)):
            if getattr(self, name) != version:
                warnings.warn(
                    f"made with {name} {getattr(self, name)}, this is {version}: last bits may differ", stacklevel=2
                )
        stages = tuple(
            Stage(record.open(), tuple(target for target in self.plan if target.modality in record.targets))
            for record in self.models
        )
        return Job(
            stages=stages,
            seed=self.seed,
            draws=self.draws,
            keep=self.keep,
            place=self.place,
            tiles=self.tiles,
            best=self.best,
            reduce=self.reduce,
            probabilities=self.probabilities,
        )

    def check_inputs(self, names: Sequence[str], *, folder: Path) -> None:
        """Raises MmtokError unless these are the names of the samples."""
        if digest(names) != self.names:
            raise MmtokError(
                f"{folder}: was made of {self.samples} samples, {self.origin.path if self.origin else ''} now holds"
                f" {len(names)} or others; put them back"
            )

    def check_same(self, other: "Manifest", *, folder: Path) -> None:
        """Raises MmtokError that names what differs, unless both describe the same work; the command may differ."""
        ours, theirs = (dict(_leaves(to_json(item))) for item in (self, other))
        for key in ours | theirs:
            if key != "command" and ours.get(key) != theirs.get(key):
                raise MmtokError(
                    f"{folder}: what is there was made with {key} = {theirs.get(key)}, now it is {ours.get(key)};"
                    " give the same value or use another folder"
                )


def digest(names: Sequence[str]) -> str:
    """Returns the SHA-256 of names in order."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted names with their values; a target goes by its name."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for place, item in enumerate(value):
            yield from _leaves(item, f"{path}.{item.get('modality', place)}")
    else:
        yield path, value

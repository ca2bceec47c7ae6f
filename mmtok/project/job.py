"""What is to be made of samples, by one model or by several in a row, and how."""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.generate import Known, Target, describe, validate
from mmtok.modality import Modality
from mmtok.project.answers import Answers, Box
from mmtok.project.loaded import Loaded
from mmtok.source import Sample


@dataclasses.dataclass(frozen=True)
class Stage:
    """A model and what it makes."""

    model: Loaded
    plan: tuple[Target, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets."""
        return tuple(target.modality for target in self.plan)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """All that decides what is made of a sample; together with its number, also every random choice.

    Attributes:
      stages: Models in order; each reads what was given and all that was made before, as tokens.
      seed: Of all random choices.
      draws: Different answers to each sample.
      keep: Raw field -> the part of the picture that is known.
    """

    stages: tuple[Stage, ...]
    seed: int = 0
    draws: int = 1
    keep: Mapping[str, Box] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise MmtokError(f"draws must be at least 1, it is {self.draws}")
        names = [name for stage in self.stages for name in stage.targets]
        for name in names:
            if names.count(name) > 1:
                raise MmtokError(f"target '{name}' occurs twice in the plan; each modality is generated once")

    @property
    def model(self) -> Loaded:
        """The first model, which reads what is given."""
        return self.stages[0].model

    @property
    def targets(self) -> dict[str, Modality]:
        """All that is made, in order."""
        return {name: stage.model.modalities[name] for stage in self.stages for name in stage.targets}

    def run(
        self,
        samples: Sequence[Sample],
        *,
        numbers: Sequence[int] | None = None,
        taken: Mapping[str, TokenColumn] | None = None,
        batch_size: int = 64,
    ) -> Answers:
        """Makes all targets of B samples.

        Args:
          samples: Raw values that are given.
          numbers: Of the samples; None counts from 0.
          taken: What is given besides as tokens of the first model, B rows.
          batch_size: Answers per compiled step.

        Returns:
          B x draws answers, those of the first sample first.
        """
        row = np.repeat(np.arange(len(samples)), self.draws)
        passed = {name: column[row] for name, column in (taken or {}).items()}
        parts: list[Answers] = []
        before = None
        for stage in self.stages:
            if before is not None:
                passed = stage.model.take_over(parts[-1].columns, before.model)
                samples = [self._read_again(stage, sample) for sample in samples]
            columns, tokens = stage.model.generate(
                samples,
                stage.plan,
                seed=self.seed,
                draws=self.draws,
                numbers=numbers,
                keep={} if before else self.keep,
                taken=passed,
                batch_size=batch_size,
            )
            given = [samples[index] for index in row.tolist()]
            parts.append(stage.model.answers(given, columns, tokens, keep=self.keep))
            before = stage
        return _joined(parts)

    def problem(self, sample: Sample) -> str:
        """Returns why a raw sample cannot be read by the models; "" if it can."""
        try:
            self.model.encode([sample])
            for stage in self.stages[1:]:
                stage.model.encode([self._read_again(stage, sample)])
        except MmtokError as error:
            return re.sub(", sample 0 of the batch", "", str(error))
        return ""

    def check(self, fields: Collection[str], taken: Collection[str] = ()) -> None:
        """Checks all plans before anything is computed.

        Args:
          fields: Raw fields that samples have.
          taken: Modalities that are given as tokens.

        Raises:
          MmtokError: something that a model does not have, never reads or cannot produce, settings that do not fit, or
            a plan that uses what is not there yet.
        """
        self.model.check_fields(fields)
        for field in fields:
            made_from = [item for item in self.model.modalities.values() if item.source == field]
            if not any(item.is_input or item.name in self.stages[0].targets for item in made_from):
                raise MmtokError(f"input field '{field}': the model makes it, but never reads it; leave it out")
        for stage, known in zip(self.stages, self.conditions(fields, taken), strict=True):
            validate(stage.plan, known, stage.model.sampler.modalities)

    def describe(self, conditions: Sequence[Mapping[str, Known]]) -> str:
        """Returns a text that says what will be made from what, how and in how many forward passes."""
        texts = [
            describe(stage.plan, known, stage.model.sampler.modalities)
            for stage, known in zip(self.stages, conditions, strict=True)
        ]
        return "\nthen, by the second model\n".join(texts)

    def conditions(self, fields: Collection[str], taken: Collection[str] = ()) -> list[dict[str, Known]]:
        """Returns for each stage what is known before it, made up: all tokens of what is given or made by then."""
        names = {*_made_from(self.model, fields), *taken}
        conditions = [self.model.known(_whole(self.model, names), self.keep)]
        for before, stage in zip(self.stages, self.stages[1:]):
            names = self.passed_on(before, stage.model, names) | _made_from(stage.model, {*fields} - {*self.keep})
            conditions.append(stage.model.known(_whole(stage.model, names), {}))
        return conditions

    def passed_on(self, before: Stage, model: Loaded, names: Iterable[str]) -> set[str]:
        """Returns the modalities that `model` reads of what is known after a stage, which knew `names` before it."""
        known = {name for name in names if before.model.modalities[name].source not in self.keep} | {*before.targets}
        return {name for name in known if name in model.modalities and model.modalities[name].is_input}

    def _read_again(self, stage: Stage, sample: Sample) -> Sample:
        """What a later model reads for itself."""
        return {field: sample[field] for field in sample if field in stage.model.fields and field not in self.keep}


def plan_after(
    job: Job, model: Loaded, fields: Collection[str], *, taken: Collection[str] = (), name: str
) -> tuple[Target, ...]:
    """Returns what another model makes of all that is known after a job, by its first recipe that fits.

    Args:
      job: So far.
      model: The other model.
      fields: Raw fields that samples have.
      taken: Modalities that are given as tokens.
      name: Of the model, for an error message.

    Raises:
      MmtokError: it reads nothing of what is known then.
    """
    last = job.stages[-1]
    passed = job.passed_on(last, model, {*_made_from(last.model, fields), *taken})
    if not passed:
        raise MmtokError(f"{name}: this model reads nothing of what is known after the first")
    known = {*({*fields} - {*job.keep}) & model.fields.keys(), *(model.modalities[item].source for item in passed)}
    recipe = model.recipe(given=known)
    return model.plan(model.targets(known, recipe=recipe), recipe=recipe)


def _made_from(model: Loaded, fields: Collection[str]) -> set[str]:
    return {name for name, item in model.modalities.items() if item.source in fields}


def _whole(model: Loaded, names: Collection[str]) -> dict[str, TokenColumn]:
    """One made-up sample that has all of these modalities, in the model's order."""
    columns = {}
    for name, item in model.modalities.items():
        if name in names:
            empty = Known.nothing(item, samples=1)
            columns[name] = TokenColumn(empty.values, np.array([item.size], np.int32))
    return columns


def _joined(parts: Sequence[Answers]) -> Answers:
    """One object of what several models made of the same samples."""
    return Answers(
        given=parts[0].given,
        made=tuple(
            {name: value for answer in answers for name, value in answer.items()}
            for answers in zip(*(part.made for part in parts), strict=True)
        ),
        fields=parts[0].fields,
        targets={name: item for part in parts for name, item in part.targets.items()},
        tokens={name: item for part in parts for name, item in part.tokens.items()},
        columns=parts[-1].columns,
        keep=parts[0].keep,
    )

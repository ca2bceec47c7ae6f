"""What is to be made of samples, by one model or by several in a row, and how."""

import dataclasses
import functools
import operator
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.generate import Known, Target, describe, validate
from mmtok.inference.answers import Answers, with_entropies, with_uncertainties
from mmtok.inference.loaded import Loaded
from mmtok.inference.reductions import Reduction, check_reduction
from mmtok.inference.regions import Box, Part, check_box, keep_parts, place
from mmtok.inference.windows import check_tiles, cut, tiled
from mmtok.modality import Modality
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


def with_decoding_steps(stages: Sequence[Stage], steps: int) -> tuple[Stage, ...]:
    """Returns stages whose targets, where these are decoded by diffusion, take another number of passes.

    Raises:
      MmtokError: no target is, or there are not as many noise levels.
    """
    if not any(stage.model.decoding_steps(stage.targets) for stage in stages):
        raise MmtokError(f"{steps} decoder steps: every target is decoded in one pass; leave the number out")

    def changed(stage: Stage) -> Stage:
        chosen = dict.fromkeys(stage.model.decoding_steps(stage.targets), steps)
        return Stage(stage.model.with_decoding_steps(chosen), stage.plan)

    return tuple(map(changed, stages))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """All that decides what is made of a sample; together with its number, also every random choice.

    Attributes:
      stages: Models in order; each reads what was given and all that was made before, as tokens.
      seed: Of all random choices.
      draws: Different answers to each sample.
      keep: Raw field -> the part of the picture that is known.
      place: Raw field -> the part of a larger picture that the picture given is put into, and which is known.
      masked: Raw fields of which samples may be known in part for reasons of their own.
      tiles: Pictures may be larger than the tokenizers take: they are cut into windows that overlap by at least this
        share of a side, and what is made of them is blended.
      best: Of the answers to each sample, only so many of the most likely ones are left; 0 leaves all.
      reduce: Of the answers to each sample, what they have in common is left, and how far they lie apart.
      probabilities: Log-probabilities and entropies of all tokens are wanted too.
    """

    stages: tuple[Stage, ...]
    seed: int = 0
    draws: int = 1
    keep: Mapping[str, Box] = dataclasses.field(default_factory=dict)
    place: Mapping[str, Box] = dataclasses.field(default_factory=dict)
    masked: Sequence[str] = ()
    tiles: float | None = None
    best: int = 0
    reduce: Reduction | None = None
    probabilities: bool = False

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise MmtokError(f"draws must be at least 1, it is {self.draws}")
        names = [name for stage in self.stages for name in stage.targets]
        for name in names:
            if names.count(name) > 1:
                raise MmtokError(f"target '{name}' occurs twice in the plan; each modality is generated once")
        if not 0 <= self.best <= self.draws:
            raise MmtokError(f"best: {self.best} of {self.draws} answers to each sample were asked for; draw more")
        if self.best and self.reduce:
            raise MmtokError("best and reduce: answers are either chosen or brought together, give one of the two")
        if self.probabilities and (self.reduce or self.tiles is not None):
            what = "answers brought together" if self.reduce else "pictures made of windows"
            raise MmtokError(f"probabilities are those of tokens, and {what} have none; leave them out")

    @property
    def model(self) -> Loaded:
        """The first model, which reads what is given."""
        return self.stages[0].model

    @property
    def targets(self) -> dict[str, Modality]:
        """All that is made, in order."""
        return {name: stage.model.modalities[name] for stage in self.stages for name in stage.targets}

    @property
    def outputs(self) -> dict[str, Modality]:
        """All that an answer holds: what is made, and what is said about it."""
        if self.reduce:
            return with_uncertainties(self.targets)
        return with_entropies(self.targets) if self.probabilities else self.targets

    @property
    def answers(self) -> int:
        """How many answers to each sample are left in the end."""
        return 1 if self.reduce else self.best or self.draws

    @property
    def partial(self) -> set[str]:
        """Raw fields that may be known in part."""
        return {*self.keep, *self.place, *self.masked}

    def prepare(self, samples: Sequence[Sample]) -> list[Sample]:
        """Returns samples of whose pictures only those parts are known that the job says.

        Raises:
          MmtokError: see `mmtok.inference.Part`.
        """
        found = {field for field in {*self.keep, *self.place} if any(field in sample for sample in samples)}
        placed = [
            {
                field: place(value, self.place[field]) if field in self.place else value
                for field, value in sample.items()
            }
            for sample in samples
        ]
        return keep_parts(placed, {field: self.keep[field] for field in found & {*self.keep}})

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
          B x `answers` answers, those of the first sample first.
        """
        samples = self.prepare(samples)
        numbers = range(len(samples)) if numbers is None else numbers

        def run(parts: Sequence[Sample], numbers: Sequence[int], windows: Sequence[int] | None = None) -> Answers:
            return self._run(parts, numbers, windows, taken=taken or {}, batch_size=batch_size)

        if self.tiles is None:
            answers = run(samples, numbers)
        else:
            answers = tiled(run, samples, numbers, sizes=self._sizes(samples), overlap=self.tiles)
        if self.best:
            answers = answers.best(self.best)
        if self.reduce:
            answers = answers.reduced(self.reduce)
        return answers.with_entropies() if self.probabilities else answers

    def _run(
        self,
        samples: Sequence[Sample],
        numbers: Sequence[int],
        windows: Sequence[int] | None,
        *,
        taken: Mapping[str, TokenColumn],
        batch_size: int,
    ) -> Answers:
        """Answers from one model after the other."""
        row = np.repeat(np.arange(len(samples)), self.draws)
        passed = {name: column[row] for name, column in taken.items()}
        parts: list[Answers] = []
        before = None
        for stage in self.stages:
            if before is not None:
                passed = stage.model.take_over(parts[-1].columns, before.model)
                samples = [self._read_again(stage, sample) for sample in samples]
            made = stage.model.generate(
                samples,
                stage.plan,
                seed=self.seed,
                draws=self.draws,
                numbers=numbers,
                windows=windows,
                taken=passed,
                batch_size=batch_size,
            )
            parts.append(made)
            before = stage
        return _joined(parts)

    def _sizes(self, given: Iterable[Collection[str]]) -> dict[str, int]:
        """Side of a window for each picture that is given."""
        fields = {field for names in given for field in names}
        return {field: size for field, size in self.model.picture_sizes.items() if field in fields}

    def problem(self, sample: Sample) -> str:
        """Returns why a raw sample cannot be read by the models; "" if it can."""
        try:
            (sample,) = self.prepare([sample])
            if self.tiles is not None:
                cut(sample, self._sizes([sample]), overlap=self.tiles)
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
        self._check_parts(fields, {self.model.modalities[name].source for name in taken})
        if self.reduce:
            for item in self.targets.values():
                check_reduction(self.reduce, item)
        if self.tiles is not None:
            if taken or self.partial:
                raise MmtokError(
                    "tiles: whole pictures are cut into windows, neither tokens nor pictures known in part"
                )
            check_tiles(self.tiles, self._sizes([fields]), self.targets)
        for field in fields:
            made_from = [item for item in self.model.modalities.values() if item.source == field]
            if not any(item.is_input or item.name in self.stages[0].targets for item in made_from):
                raise MmtokError(f"input field '{field}': the model makes it, but never reads it; leave it out")
        for stage, known in zip(self.stages, self.conditions(fields, taken), strict=True):
            validate(stage.plan, known, stage.model.sampler.modalities)

    def _check_parts(self, fields: Collection[str], taken: Collection[str]) -> None:
        """Raises MmtokError unless parts are those of given pictures, one part of each."""
        for option, boxes in (("keep", self.keep), ("place", self.place)):
            for field, box in boxes.items():
                if field not in fields:
                    raise MmtokError(f"{option}: the field '{field}' is not among the given ones")
                if field in taken:
                    raise MmtokError(f"{option}: '{field}' is given as tokens; only a picture can be known in part")
                if len(self.model.sources[field].shape) != 2:
                    raise MmtokError(f"{option}: '{field}' is not a picture; only a picture can be known in part")
                check_box(box, what=option)
        for field in fields:
            if (field in self.keep) + (field in self.place) + (field in self.masked) > 1:
                raise MmtokError(
                    f"field '{field}': keep, place and mask each say what is known of it; give one of them"
                )

    def describe(self, conditions: Sequence[Mapping[str, Known]]) -> str:
        """Returns a text that says what will be made from what, how and in how many forward passes."""
        texts = [
            describe(stage.plan, known, stage.model.sampler.modalities)
            for stage, known in zip(self.stages, conditions, strict=True)
        ]
        text = "\nthen, by the second model\n".join(texts)
        if self.tiles is not None:
            text = f"in each window of the pictures, blended where two overlap, by at least {self.tiles:.0%}:\n{text}"
        if self.reduce:
            text += f"\nof {self.draws} answers, the {self.reduce} and how far they lie apart"
        if self.best:
            text += f"\nof {self.draws} answers, the {self.best} most likely"
        return text

    def conditions(self, fields: Collection[str], taken: Collection[str] = ()) -> list[dict[str, Known]]:
        """Returns for each stage what is known before it, made up: all tokens of what is given or made by then."""
        names = {*_made_from(self.model, fields), *taken}
        conditions = [self.model.known(_whole(self.model, names), [{**self.keep, **self.place}])]
        for before, stage in zip(self.stages, self.stages[1:]):
            names = self.passed_on(before, stage.model, names) | _made_from(stage.model, {*fields} - self.partial)
            conditions.append(stage.model.known(_whole(stage.model, names)))
        return conditions

    def passed_on(self, before: Stage, model: Loaded, names: Iterable[str]) -> set[str]:
        """Returns the modalities that `model` reads of what is known after a stage, which knew `names` before it."""
        known = {name for name in names if before.model.modalities[name].source not in self.partial} | {*before.targets}
        return {name for name in known if name in model.modalities and model.modalities[name].is_input}

    def _read_again(self, stage: Stage, sample: Sample) -> Sample:
        """What a later model reads for itself."""
        return {
            field: value
            for field, value in sample.items()
            if field in stage.model.fields and not isinstance(value, Part)
        }


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
    known = {*({*fields} - job.partial) & model.fields.keys(), *(model.modalities[item].source for item in passed)}
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
        likelihood=functools.reduce(operator.add, (part.likelihood for part in parts)),
        draws=parts[0].draws,
    )

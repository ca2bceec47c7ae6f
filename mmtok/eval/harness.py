"""Evaluation of an any-to-any model, direction by direction, each number beside its controls."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mmtok.codec import Codec
from mmtok.errors import MmtokError, unknown
from mmtok.eval.constants import best_constant
from mmtok.eval.metrics import Metric, metrics_of
from mmtok.eval.table import Row, Table
from mmtok.eval.tokenizers import match, roundtrip
from mmtok.progress import Progress
from mmtok.source import Sample

BOOTSTRAP = 500  # resamplings behind a standard error
EXAMPLES = 8  # samples kept for a picture


@runtime_checkable
class Generate(Protocol):
    """What the harness asks of a model; `Loaded.sample` of `mmtok.project` is one."""

    def __call__(self, samples: Sequence[Sample], targets: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        """Generates the targets in order, later ones from the earlier ones too.

        Args:
          samples: Raw values by field.
          targets: Names of modalities.

        Returns:
          Per sample: modality -> raw value.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Direction:
    """What is asked of the model.

    Attributes:
      given: Raw fields the model sees.
      targets: Modalities it must produce, each alone.
      through: Modalities it generates before each target and conditions it on, as in caption -> rgb -> depth. A target
        that is itself given is read back from these alone: caption -> rgb -> caption asks whether the picture shows
        what the caption said.
    """

    given: tuple[str, ...]
    targets: tuple[str, ...]
    through: tuple[str, ...] = ()

    def name(self, target: str) -> str:
        """As printed."""
        return " -> ".join((" + ".join(self.given), *self.through, target))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """Predictions of the first samples of a direction, for a picture.

    Attributes:
      direction: As in the table.
      target: Modality that was predicted.
      given: Raw inputs per sample.
      predictions: Decoded values.
      truths: Raw values.
    """

    direction: str
    target: str
    given: tuple[Sample, ...]
    predictions: tuple[Any, ...]
    truths: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
      table: The numbers.
      examples: The first predictions of each direction and target.
    """

    table: Table
    examples: tuple[Example, ...]


def evaluate(
    samples: Sequence[Sample],
    *,
    training: Sequence[Sample],
    codecs: Mapping[str, Codec],
    generate: Generate,
    directions: Sequence[Direction],
    batch_size: int = 64,
) -> Evaluation:
    """Measures a model on held-out samples, each metric beside its controls.

    The controls: `tokenizer` decodes the true tokens (no model that speaks these tokens does better), `constant` is the
    best answer that ignores the input, chosen on training truths, and `shuffled` is the same model given another
    sample's input. A model that does not beat the last two has learned nothing, whatever its loss.

    Args:
      samples: Held-out raw samples; those that lack a field of a direction are left out of that direction.
      training: Raw training samples, from which the constant answers are chosen.
      codecs: Tokenizers by modality name, of all targets.
      generate: The model: raw samples with the given fields and target names -> one mapping of raw values per sample.
      directions: What to measure.
      batch_size: Samples per call of `generate`.

    Raises:
      MmtokError: a target without a tokenizer, or fewer than two samples for a direction.
    """
    rows: list[Row] = []
    examples: list[Example] = []
    total = sum(2 * len(direction.targets) * len(samples) for direction in directions)
    with Progress("evaluate", total=total, unit="samples") as progress:
        for direction in directions:
            for target in direction.targets:
                task = _Task.of(direction, target, samples=samples, training=training, codecs=codecs)
                right = task.predict(generate, batch_size=batch_size, shift=0, progress=progress)
                wrong = task.predict(generate, batch_size=batch_size, shift=1, progress=progress)
                rows.extend(task.rows(right, wrong))
                examples.append(task.example(right))
    return Evaluation(table=Table(rows=tuple(rows)), examples=tuple(examples))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Task:
    """One direction and target with the samples that have both."""

    direction: Direction
    target: str
    codec: Codec
    through: dict[str, str]  # modality made on the way -> its raw field
    given: list[Sample]
    truths: list[Any]
    training: list[Any]

    @classmethod
    def of(
        cls,
        direction: Direction,
        target: str,
        *,
        samples: Sequence[Sample],
        training: Sequence[Sample],
        codecs: Mapping[str, Codec],
    ) -> "_Task":
        if target not in codecs:
            raise unknown("target modality", target, codecs)
        codec = codecs[target]
        field = codec.modality.source or target
        for name in direction.through:
            if name not in codecs:
                raise unknown("modality on the way", name, codecs)
        if field in direction.given and not direction.through:
            raise MmtokError(
                f"direction {direction.name(target)}: '{field}' is given already; name another target, or `through`"
                " which modalities it is to be made and read back"
            )
        used = [sample for sample in samples if all(sample.get(name) is not None for name in (*direction.given, field))]
        learned = [sample[field] for sample in training if sample.get(field) is not None]
        if len(used) < 2 or not learned:
            raise MmtokError(
                f"direction {direction.name(target)}: {len(used)} held-out samples have all of its fields and"
                f" {len(learned)} training samples have '{field}'; at least 2 and 1 are needed"
            )
        return cls(
            direction=direction,
            target=target,
            codec=codec,
            through={name: codecs[name].modality.source or name for name in direction.through},
            given=[{name: sample[name] for name in direction.given} for sample in used],
            truths=[sample[field] for sample in used],
            training=learned,
        )

    def predict(self, generate: Generate, *, batch_size: int, shift: int, progress: Progress) -> list[Any]:
        """Predictions from each sample's input, or from the input of the sample `shift` places further."""
        given = self.given[shift:] + self.given[:shift]
        predictions: list[Any] = []
        for batch, count in _batches(given, batch_size):
            predictions.extend(made[self.target] for made in self._generate(generate, batch)[:count])
            progress.update(count, note=self.direction.name(self.target))
        return predictions

    def _generate(self, generate: Generate, batch: list[Sample]) -> Sequence[Mapping[str, Any]]:
        if (self.codec.modality.source or self.target) not in self.direction.given:
            return generate(batch, (*self.through, self.target))
        on_the_way = generate(batch, tuple(self.through))
        return generate(
            [{self.through[name]: value for name, value in made.items()} for made in on_the_way], (self.target,)
        )

    def rows(self, right: list[Any], wrong: list[Any]) -> Iterator[Row]:
        """One row per metric that can be computed."""
        _, bound = roundtrip(self.codec, self.truths)
        show = self.codec.modality.show
        smooth = show == "grey"
        truths = [match(truth, prediction, smooth=smooth) for truth, prediction in zip(self.truths, right)]
        training = [match(truth, right[0], smooth=smooth) for truth in self.training]
        for metric in metrics_of(show):
            constant = [best_constant(metric, training)] * len(truths)
            row = self._row(metric, truths, model=right, tokenizer=bound, constant=constant, shuffled=wrong)
            if np.isfinite(row.model):
                yield row

    def _row(self, metric: Metric, truths: list[Any], **predictions: list[Any]) -> Row:
        statistics = {name: metric.statistics(values, truths) for name, values in predictions.items()}
        scores = {name: float(metric.value(rows.sum(0, keepdims=True))[0]) for name, rows in statistics.items()}
        picks = np.random.default_rng(0).multinomial(len(truths), np.full(len(truths), 1 / len(truths)), size=BOOTSTRAP)
        again = {name: metric.value(picks.astype(np.float64) @ rows) for name, rows in statistics.items()}
        margins = {
            # Both are scored on the same samples, so the error is that of the difference (a paired bootstrap).
            name: metric.gain(scores["model"], scores[name]) - 2 * _spread(metric.gain(again["model"], again[name]))
            for name in ("constant", "shuffled")
        }
        return Row(
            direction=self.direction.name(self.target),
            metric=metric.name,
            better=metric.better,
            standard_error=_spread(again["model"]),
            samples=len(truths),
            learned=bool(min(margins.values()) > 0),
            **scores,
        )

    def example(self, predictions: list[Any]) -> Example:
        """The first samples."""
        return Example(
            direction=self.direction.name(self.target),
            target=self.target,
            given=tuple(self.given[:EXAMPLES]),
            predictions=tuple(predictions[:EXAMPLES]),
            truths=tuple(self.truths[:EXAMPLES]),
        )


def _batches(samples: list[Sample], size: int) -> Iterator[tuple[list[Sample], int]]:
    """Batches of one size, so that the model compiles once (the last one is filled up), and how many samples count."""
    size = min(size, len(samples))
    for start in range(0, len(samples), size):
        batch = samples[start : start + size]
        yield batch + [batch[-1]] * (size - len(batch)), len(batch)


def _spread(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.std()) if len(finite) else float("nan")

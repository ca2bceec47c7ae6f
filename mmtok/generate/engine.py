"""The decoding engine: known tokens and a plan in, all target modalities out."""

import dataclasses
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError, unknown
from mmtok.generate import context, grids, sequences, steps
from mmtok.generate.generated import Generated
from mmtok.generate.known import Known
from mmtok.generate.machine import Machine
from mmtok.generate.plan import Plan, check_known, validate
from mmtok.generate.target import Target
from mmtok.grammar import Grammar, free
from mmtok.modality import Modality, by_name
from mmtok.progress import track

Outputs = Mapping[str, TokenColumn]


@dataclasses.dataclass(frozen=True)
class Features:
    """What the encoder makes of B samples, for probing, retrieval and transfer.

    Attributes:
      pooled: Mean over the valid slots; 0 for a sample without any.
      tokens: Normalised outputs of N slots, 0 at padding; valid ones first, in the order of the model's modalities.
      valid: False marks padding.
      modality: Index of each slot's modality in the model.
      position: Row-major place of each slot on its grid, or its rank among the visible tokens of a sequence.
    """

    pooled: Float[np.ndarray, "B D"]
    tokens: Float[np.ndarray, "B N D"]
    valid: Bool[np.ndarray, "B N"]
    modality: Int[np.ndarray, "B N"]
    position: Int[np.ndarray, "B N"]


class Sampler:
    """Generates any modalities from any others with one model, batch by batch in compiled steps.

    Each sample's random choices depend on the seed, its number, the draw and the target's place in the plan, not on the
    batch it is in nor on the devices. Targets later in the plan have no influence: a pending sequence shows the encoder
    its sentinel only from its own turn on.
    """

    def __init__(
        self,
        model: Any,
        modalities: tuple[Modality, ...] | None = None,
        *,
        grammars: Mapping[str, Grammar] | None = None,
        devices: Sequence[Any] | None = None,
    ) -> None:
        """Takes a model as it is now; later changes of its parameters do not show.

        Args:
          model: An `AnyToAny`, or any NNX module with its `encode`, `decode`, `begin`, `advance`, `logits` and
            `unstacked`.
          modalities: In the model's order; None takes `model.modalities`.
          grammars: Of sequences, by modality name, as their tokenizers say; any words where none is given.
          devices: Which share the samples of a batch; None is all of this process.
        """
        self.modalities: tuple[Modality, ...] = model.modalities if modalities is None else modalities
        self._machine = Machine.of(model, self.modalities, devices=devices or jax.local_devices())
        self._grammars = {
            modality.name: free(modality.vocabulary)
            for modality in self.modalities
            if modality.kind == "sequence" and modality.vocabulary
        } | dict(grammars or {})

    def sample(
        self,
        known: Mapping[str, Known],
        plan: Sequence[Target],
        *,
        seed: int = 0,
        samples: Sequence[int] | None = None,
        draws: Sequence[int] | None = None,
        batch_size: int = 64,
    ) -> dict[str, TokenColumn]:
        """Generates the targets of a plan, in order; see `generate` for the arguments.

        Returns:
          Target modality -> its tokens, the known ones kept.
        """
        generated = self.generate(known, plan, seed=seed, samples=samples, draws=draws, batch_size=batch_size)
        return {name: item.column for name, item in generated.items()}

    def generate(
        self,
        known: Mapping[str, Known],
        plan: Sequence[Target],
        *,
        seed: int = 0,
        samples: Sequence[int] | None = None,
        draws: Sequence[int] | None = None,
        batch_size: int = 64,
    ) -> dict[str, Generated]:
        """Generates the targets of a plan, in order, with what the model said of each token.

        Args:
          known: What is given, by modality name; a target may be known in part. May be empty.
          plan: Targets; each is conditioned on all that is known and on the targets before it.
          seed: Of all random choices.
          samples: Number of each sample, which together with `seed` decides its random choices; None counts from 0.
            Its length says how many to make when nothing is known.
          draws: Which of several answers to the same sample is made, for each sample; None is the first, 0.
          batch_size: Samples per compiled step; a last batch that is not full is padded.

        Returns:
          Target modality -> tokens, log-probabilities and entropies.

        Raises:
          MmtokError: see `plan.validate`; or `samples`, `draws` or `batch_size` do not fit.
        """
        return self._run(known, plan, None, seed=seed, samples=samples, draws=draws, batch_size=batch_size)

    def score(
        self,
        known: Mapping[str, Known],
        plan: Sequence[Target],
        outputs: Outputs,
        *,
        seed: int = 0,
        samples: Sequence[int] | None = None,
        draws: Sequence[int] | None = None,
        batch_size: int = 64,
    ) -> dict[str, Generated]:
        """Returns what the model says of outputs that are already there, in the steps of a plan; nothing is drawn.

        A grid's positions come in the order that the seed gives, and those of one step are independent: the sum of the
        log-probabilities is the likelihood of the output under this order. `maskgit` has no order of its own: the most
        likely of the given tokens come first. A sequence's tokens come one after the other, as they always do.

        Args:
          known: What is given besides; of a sequence that is scored nothing may be known.
          plan: Targets, in order.
          outputs: Every target's tokens.
          seed: Of the order of positions.
          samples: See `generate`.
          draws: See `generate`.
          batch_size: See `generate`.

        Returns:
          Target modality -> the given tokens, their log-probabilities (-inf for one that may not stand there) and the
          entropies of the distributions they were found in.

        Raises:
          MmtokError: as `generate`; or an output is missing, does not fit, or is a sequence of which a part is known.
        """
        for target in validate(tuple(plan), known, self.modalities):
            self._check_output(target.modality, known, outputs)
        return self._run(known, plan, outputs, seed=seed, samples=samples, draws=draws, batch_size=batch_size)

    def _check_output(self, name: str, known: Mapping[str, Known], outputs: Outputs) -> None:
        if name not in outputs:
            raise unknown("output to score", name, outputs)
        check_known({name: Known.whole(outputs[name])}, self.modalities)
        sequence = self._modality(name).kind == "sequence"
        if sequence and name in known and known[name].visible.any():
            raise MmtokError(f"output '{name}': a part of it is known, so the rest has no places; score it whole")
        if np.asarray(outputs[name].length).min() < (1 if sequence else self._modality(name).size):
            raise MmtokError(f"output '{name}': some samples have none; score those that have it")

    def _run(
        self,
        known: Mapping[str, Known],
        plan: Sequence[Target],
        outputs: Outputs | None,
        *,
        seed: int,
        samples: Sequence[int] | None,
        draws: Sequence[int] | None,
        batch_size: int,
    ) -> dict[str, Generated]:
        """Runs a plan batch by batch."""
        plan = validate(tuple(plan), known, self.modalities)
        count = _count({name: len(item.visible) for name, item in known.items()}, outputs)
        numbers = _numbers("samples", samples, count)
        which = _numbers("draws", [0] * len(numbers) if draws is None else draws, len(numbers))
        if batch_size < 1:
            raise MmtokError(f"batch_size must be at least 1, it is {batch_size}")
        given = {name: _standard(item, self._modality(name)) for name, item in known.items()}
        rows = -(-min(batch_size, len(numbers)) // self._machine.devices) * self._machine.devices
        starts: Iterable[int] = range(0, len(numbers), rows)
        if len(numbers) > rows:
            starts = track(starts, "sample", total=-(-len(numbers) // rows), unit="batches")
        parts = []
        for start in starts:
            picked = np.minimum(np.arange(start, start + rows), len(numbers) - 1)
            keys = [
                steps.sample_keys(
                    jax.random.key(seed), jnp.asarray(numbers[picked]), jnp.asarray(which[picked]), jnp.int32(place)
                )
                for place in range(len(plan))
            ]
            state = {name: item[picked] for name, item in given.items()}
            forced = {name: column[picked] for name, column in (outputs or {}).items()}
            parts.append(self._chain(state, plan, keys, forced))
        return {name: Generated.joined([part[name] for part in parts])[: len(numbers)] for name in parts[0]}

    def _chain(
        self, state: dict[str, Known], plan: Plan, keys: Sequence[Key[jax.Array, " B"]], forced: Outputs
    ) -> dict[str, Generated]:
        """Generates one target after the other for one batch."""
        generated = {}
        for target, own in zip(plan, keys, strict=True):
            name, modality = target.modality, self._modality(target.modality)
            state.setdefault(name, Known.nothing(modality, samples=len(own)))
            if modality.kind == "sequence":
                grammar = self._grammars[name]
                made = sequences.fill(self._machine, state, target, own, grammar=grammar, forced=forced.get(name))
            else:
                tokens = forced[name].values if name in forced else None
                made = grids.fill(self._machine, state, target, own, forced=tokens)
            generated[name], state[name] = made, Known.whole(made.column)
        return generated

    def features(self, known: Mapping[str, Known], *, batch_size: int = 64) -> Features:
        """Returns what the encoder makes of known tokens; nothing is generated.

        Args:
          known: By modality name; at least one sample.
          batch_size: Samples per compiled step; a last batch that is not full is padded.

        Raises:
          MmtokError: known tokens do not fit the model, or there are none.
        """
        check_known(known, self.modalities)
        if not known:
            raise MmtokError("nothing is known, so there is nothing to encode")
        shown = {
            name: context.show(_standard(item, self._modality(name)), self._modality(name), asked=item.present)
            for name, item in known.items()
        }
        rows = len(next(iter(known.values())).visible)
        slots = context.encoder_slots(shown, self.modalities, rows=rows)
        parts = []
        for start in range(0, rows, batch_size):
            picked = np.minimum(np.arange(start, start + min(batch_size, rows)), rows - 1)
            batch = jax.tree.map(operator.itemgetter(picked), slots)
            parts.append(np.asarray(steps.encoder_states(self._machine.graph, self._machine.state, batch)))
        valid = np.asarray(slots.valid)
        tokens = np.concatenate(parts)[:rows] * valid[..., None]
        pooled = tokens.sum(1) / np.maximum(valid.sum(1, dtype=np.float32), 1)[:, None]
        return Features(pooled, tokens, valid, np.asarray(slots.modality), np.asarray(slots.position))

    def _modality(self, name: str) -> Modality:
        return by_name(self.modalities)[name]


def _count(known: Mapping[str, int], outputs: Outputs | None) -> int | None:
    """Returns the number of samples that what is given has; None where nothing is."""
    counts = {**known} | {f"output {name}": len(column.length) for name, column in (outputs or {}).items()}
    if len({*counts.values()}) > 1:
        raise MmtokError(f"numbers of samples differ: {', '.join(f'{name} {count}' for name, count in counts.items())}")
    return next(iter(counts.values()), None)


def _numbers(what: str, numbers: Sequence[int] | None, count: int | None) -> Int[np.ndarray, " B"]:
    found = np.arange(1 if count is None else count) if numbers is None else np.asarray(numbers, np.int64)
    if count is not None and len(found) != count:
        raise MmtokError(f"{what} holds {len(found)} numbers, but {count} samples are given")
    if not len(found) or found.min() < 0 or found.max() >= 2**31:
        raise MmtokError(f"{what} must hold at least one number, each from 0 to 2**31 - 1")
    return found.astype(np.int32)


def _standard(known: Known, modality: Modality) -> Known:
    """Returns the values in the model's dtype, and 0 where they are hidden."""
    values = np.asarray(known.values).astype(np.float32 if modality.kind == "continuous" else np.int32)
    return Known(np.where(known.visible[..., None], values, 0), known.visible)

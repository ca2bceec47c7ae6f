"""The decoding engine: known tokens and a plan in, all target modalities out."""

import dataclasses
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from mmtok.batch import EncoderSlots, TokenColumn
from mmtok.errors import MmtokError
from mmtok.generate import context, spans, steps
from mmtok.generate.known import Known
from mmtok.generate.plan import Plan, Target, check_known, validate
from mmtok.generate.schedules import TOKEN_SCHEDULES, temperatures
from mmtok.modality import Modality
from mmtok.progress import track

State = dict[str, Known]


@dataclasses.dataclass(frozen=True)
class Generated:
    """One generated modality.

    Attributes:
      column: All of its tokens, those known before included.
      log_probs: Log-probability in nats of each generated token under the model when it was drawn (guided, at
        temperature 1, unfiltered); 0 at known tokens and padding.
    """

    column: TokenColumn
    log_probs: Float[np.ndarray, "B L K"]


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

    Each sample's random choices depend on the seed, its number and the target's place in the plan, not on the batch
    it is in. Targets later in the plan have no influence: a pending sequence shows the encoder its sentinel only from
    its own turn on.
    """

    def __init__(self, model: Any, modalities: tuple[Modality, ...] | None = None) -> None:
        """Takes a model as it is now; later changes of its parameters do not show.

        Args:
          model: An `AnyToAny`, or any NNX module with its `encode`, `decode`, `begin`, `advance` and `logits`.
          modalities: In the model's order; None takes `model.modalities`.
        """
        self.modalities: tuple[Modality, ...] = model.modalities if modalities is None else modalities
        self._graph, self._state = nnx.split(model)
        self._index = {modality.name: index for index, modality in enumerate(self.modalities)}
        self._codes = max(modality.codes for modality in self.modalities)

    def sample(
        self,
        known: Mapping[str, Known],
        plan: Sequence[Target],
        *,
        seed: int = 0,
        samples: Sequence[int] | None = None,
        batch_size: int = 64,
    ) -> dict[str, TokenColumn]:
        """Generates the targets of a plan, in order; see `generate` for the arguments.

        Returns:
          Target modality -> its tokens, the known ones kept.
        """
        generated = self.generate(known, plan, seed=seed, samples=samples, batch_size=batch_size)
        return {name: item.column for name, item in generated.items()}

    def generate(
        self,
        known: Mapping[str, Known],
        plan: Sequence[Target],
        *,
        seed: int = 0,
        samples: Sequence[int] | None = None,
        batch_size: int = 64,
    ) -> dict[str, Generated]:
        """Generates the targets of a plan, in order, with their log-probabilities.

        Args:
          known: What is given, by modality name; a target may be known in part. May be empty.
          plan: Targets; each is conditioned on all that is known and on the targets before it.
          seed: Of all random choices.
          samples: Number of each sample, which together with `seed` decides its random choices; None counts from 0.
            Its length says how many to make when nothing is known.
          batch_size: Samples per compiled step; a last batch that is not full is padded.

        Returns:
          Target modality -> tokens and log-probabilities.

        Raises:
          MmtokError: see `plan.validate`; or `samples` or `batch_size` do not fit.
        """
        plan = validate(tuple(plan), known, self.modalities)
        numbers = _numbers(known, samples)
        if batch_size < 1:
            raise MmtokError(f"batch_size must be at least 1, it is {batch_size}")
        given = {name: _standard(item, self._modality(name)) for name, item in known.items()}
        rows = min(batch_size, len(numbers))
        starts: Iterable[int] = range(0, len(numbers), rows)
        if len(numbers) > rows:
            starts = track(starts, "sample", total=-(-len(numbers) // rows), unit="batches")
        parts = []
        for start in starts:
            picked = np.minimum(np.arange(start, start + rows), len(numbers) - 1)
            state = {name: item[picked] for name, item in given.items()}
            parts.append(self._chain(state, plan, jax.random.key(seed), numbers[picked]))
        return {target.modality: _join([part[target.modality] for part in parts], len(numbers)) for target in plan}

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
            parts.append(np.asarray(steps.encoder_states(self._graph, self._state, batch)))
        valid = np.asarray(slots.valid)
        tokens = np.concatenate(parts)[:rows] * valid[..., None]
        pooled = tokens.sum(1) / np.maximum(valid.sum(1, dtype=np.float32), 1)[:, None]
        return Features(pooled, tokens, valid, np.asarray(slots.modality), np.asarray(slots.position))

    def _chain(self, state: State, plan: Plan, key: Key[Array, ""], numbers: np.ndarray) -> dict[str, Generated]:
        """Generates one target after the other for one batch."""
        generated = {}
        for place, target in enumerate(plan):
            modality = self._modality(target.modality)
            state.setdefault(target.modality, Known.nothing(modality, samples=len(numbers)))
            keys = steps.sample_keys(key, jnp.asarray(numbers), jnp.int32(place))
            decode = self._sequence if modality.kind == "sequence" else self._grid
            state[target.modality], log_probs = decode(state, target, modality, keys)
            done = state[target.modality]
            column = TokenColumn(done.values, done.visible.sum(1, dtype=np.int32))
            generated[target.modality] = Generated(column, log_probs)
        return generated

    def _grid(
        self, state: State, target: Target, modality: Modality, keys: Key[Array, " B"]
    ) -> tuple[Known, np.ndarray]:
        """Fills the unknown positions of a grid in steps; all of a step are drawn at once, independently."""
        values, visible = state[target.modality].values.copy(), state[target.modality].visible.copy()
        log_probs = np.zeros(values.shape, np.float32)
        counts, heat = _schedule(target, (~visible).sum(1))
        ranks = np.asarray(steps.random_ranks(keys, size=modality.size))
        order = np.argsort(np.where(visible, np.inf, ranks), axis=1, kind="stable")
        for step in np.flatnonzero(counts.any(0)).tolist():
            count = counts[:, step]
            if target.scheme == "roar":
                position, asked = _take(order, start=counts[:, :step].sum(1), count=count)
            else:
                hidden_first = np.argsort(visible, axis=1, kind="stable")
                position, asked = _take(hidden_first, start=np.zeros_like(count), count=(~visible).sum(1))
            now = state | {target.modality: Known(values, visible)}
            ids, scores, confidence = self._queries(
                now, target, modality, keys, step=step, position=position, asked=asked, temperature=heat[:, step]
            )
            row, slot = np.nonzero(asked if target.scheme == "roar" else _best(confidence, asked, count=count))
            where = row, position[row, slot]
            values[where], log_probs[where], visible[where] = ids[row, slot], scores[row, slot], True
        return Known(values, visible), log_probs

    def _queries(
        self,
        state: State,
        target: Target,
        modality: Modality,
        keys: Key[Array, " B"],
        *,
        step: int,
        position: Int[np.ndarray, "B Q"],
        asked: Bool[np.ndarray, "B Q"],
        temperature: Float[np.ndarray, " B"],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Runs the model once and draws ids, log-probabilities and confidences at the asked positions."""
        encoder, guided = self._context(state, target)
        choice = self._choice(target, modality)
        decoder = context.grid_queries(position, asked, modality, index=choice.index, codes=self._codes)
        slots = jnp.asarray(decoder.position)
        if guided:
            decoder = jax.tree.map(lambda part: np.concatenate([part, part]), decoder)
        hidden = steps.hidden_states(self._graph, self._state, encoder, decoder)
        drawn = steps.choose(
            self._graph,
            self._state,
            hidden,
            keys,
            jnp.int32(step),
            slots,
            jnp.asarray(temperature, jnp.float32),
            jnp.float32(target.guidance),
            choice=choice,
        )
        ids, scores, confidence = (np.asarray(part)[:, : position.shape[1]] for part in drawn)
        return ids, scores, confidence

    def _sequence(
        self, state: State, target: Target, modality: Modality, keys: Key[Array, " B"]
    ) -> tuple[Known, np.ndarray]:
        """Generates the gaps of a sequence, all of it where nothing is known."""
        assert target.length is not None
        known = state[target.modality]
        found = spans.gaps(known, modality, asked=np.ones(len(known.visible), bool))
        if not found.count.any():
            return known, np.zeros(known.values.shape, np.float32)
        free = spans.free_tokens(known, found, longest=target.length)
        size = min(context.bucket(int((free + found.count).max()), step=context.DECODER_STEP), modality.positions)
        encoder, _ = self._context(state, target)
        tokens, scores = steps.generate_spans(
            self._graph,
            self._state,
            encoder,
            keys,
            jnp.asarray(found.count, jnp.int32),
            jnp.asarray(found.open),
            jnp.asarray(free, jnp.int32),
            jnp.full(len(keys), target.temperature, jnp.float32),
            jnp.float32(target.guidance),
            choice=self._choice(target, modality),
            size=size,
        )
        return spans.fill(known, found, modality, spans=np.asarray(tokens), log_probs=np.asarray(scores))

    def _context(self, state: State, target: Target) -> tuple[EncoderSlots, bool]:
        """Returns what the encoder reads, and whether unconditional rows stand below the conditional ones.

        Without condition, only the target's own tokens are visible; hidden sequences still show that they are pending.
        """
        present = {name: item.present | (name == target.modality) for name, item in state.items()}

        def shown(name: str, item: Known) -> context.Shown:
            return context.show(item, self._modality(name), asked=present[name])

        conditional = {name: shown(name, item) for name, item in state.items()}
        others = [name for name, item in state.items() if name != target.modality and item.visible.any()]
        rows = len(next(iter(state.values())).visible)
        if target.guidance == 1 or not others:
            return context.encoder_slots(conditional, self.modalities, rows=rows), False
        unconditional = {
            name: conditional[name] if name == target.modality else shown(name, item.hidden())
            for name, item in state.items()
        }
        both = context.stack([conditional, unconditional])
        return context.encoder_slots(both, self.modalities, rows=2 * rows), True

    def _modality(self, name: str) -> Modality:
        return self.modalities[self._index[name]]

    def _choice(self, target: Target, modality: Modality) -> steps.Choice:
        index = self._index[target.modality]
        return steps.Choice(
            modality=modality,
            index=index,
            top_k=target.top_k,
            top_p=target.top_p,
            tempered=target.tempered_top_p,
            constrained=target.constrained,
        )


def _numbers(known: Mapping[str, Known], samples: Sequence[int] | None) -> Int[np.ndarray, " B"]:
    count = len(next(iter(known.values())).visible) if known else None
    numbers = np.arange(1 if count is None else count) if samples is None else np.asarray(samples, np.int64)
    if count is not None and len(numbers) != count:
        raise MmtokError(f"samples holds {len(numbers)} numbers, but {count} samples are given")
    if not len(numbers) or numbers.min() < 0 or numbers.max() >= 2**31:
        raise MmtokError("samples must hold at least one number, each from 0 to 2**31 - 1")
    return numbers.astype(np.int32)


def _standard(known: Known, modality: Modality) -> Known:
    """Returns the values in the model's dtype, and 0 where they are hidden."""
    values = np.asarray(known.values).astype(np.float32 if modality.kind == "continuous" else np.int32)
    return Known(np.where(known.visible[..., None], values, 0), known.visible)


def _schedule(
    target: Target, unknown: Int[np.ndarray, " B"]
) -> tuple[Int[np.ndarray, "B steps"], Float[np.ndarray, "B steps"]]:
    """Returns tokens and temperature of each step for every sample, by the number of its unknown tokens."""
    assert target.steps is not None
    steps_of, heat_of = {}, {}
    for tokens in np.unique(unknown).tolist():
        steps_of[tokens] = TOKEN_SCHEDULES[target.token_schedule](target.steps, tokens)
        heat_of[tokens] = temperatures(target.temperature_schedule, target.temperature, steps_of[tokens])
    return np.stack([steps_of[n] for n in unknown.tolist()]), np.stack([heat_of[n] for n in unknown.tolist()])


def _take(
    order: Int[np.ndarray, "B L"], *, start: Int[np.ndarray, " B"], count: Int[np.ndarray, " B"]
) -> tuple[Int[np.ndarray, "B Q"], Bool[np.ndarray, "B Q"]]:
    """Returns entries `start` to `start + count` of each row's order, and which of the Q slots these are."""
    slots = np.arange(count.max())
    position = np.take_along_axis(order, np.minimum(start[:, None] + slots, order.shape[1] - 1), axis=1)
    return position, slots < count[:, None]


def _best(
    confidence: Float[np.ndarray, "B Q"], asked: Bool[np.ndarray, "B Q"], *, count: Int[np.ndarray, " B"]
) -> Bool[np.ndarray, "B Q"]:
    """Returns the `count` asked slots of each row with the highest confidence; of equals, the first."""
    order = np.argsort(np.where(asked, -confidence, np.inf), axis=1, kind="stable")
    return np.argsort(order, axis=1) < count[:, None]


def _join(parts: list[Generated], count: int) -> Generated:
    values = np.concatenate([part.column.values for part in parts])[:count]
    length = np.concatenate([part.column.length for part in parts])[:count]
    return Generated(TokenColumn(values, length), np.concatenate([part.log_probs for part in parts])[:count])

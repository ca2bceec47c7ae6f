"""The compiled parts of decoding. Parameters are arguments, so a new set of them compiles nothing.

Each function is compiled once per combination of static arguments and shapes, which the buckets of
`mmtok.generate.context` keep few. Random numbers are keyed by sample, step and position: neither padding nor the
other samples of a batch change what is drawn.

Under guidance the model is run on several views of each sample (`mmtok.generate.passes`). From the decoder on these
are rows of one batch, the G views of a sample side by side, so that they share positions and stay on one device.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from mmtok.batch import DecoderSlots, EncoderSlots
from mmtok.generate.context import causal_slot, causal_slots
from mmtok.generate.filters import GREEDY, draw, filtered
from mmtok.generate.rules import Place, Rules
from mmtok.generate.spans import vocabulary
from mmtok.modality import Modality
from mmtok.model import Context

NOISE = 2**31 - 2  # folded into a slot's key for the noise on its confidence


@dataclasses.dataclass(frozen=True)
class Choice:
    """How tokens of one modality are chosen; static in compiled code.

    Attributes:
      modality: What is generated.
      index: Its place in the model.
      top_k: See `filters.filtered`.
      top_p: See `filters.filtered`.
      min_p: See `filters.filtered`.
      tempered: See `filters.filtered`.
    """

    modality: Modality
    index: int
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    tempered: bool = True

    def distribution(self, logits: Float[Array, "*rows V"], temperature: Float[Array, "*#rows"]) -> Array:
        """Returns the log-probabilities to draw from."""
        return filtered(
            logits,
            temperature=temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            tempered=self.tempered,
        )


@jax.jit
def sample_keys(
    key: Key[Array, ""], samples: Int[Array, " B"], draws: Int[Array, " B"], target: Int[Array, ""]
) -> Key[Array, " B"]:
    """Returns the key of each sample for one target of the plan."""

    def one(sample: Array, draw: Array) -> Array:
        own = jax.random.fold_in(jax.random.fold_in(key, sample), target)
        return jnp.where(draw == 0, own, jax.random.fold_in(own, draw))

    return jax.vmap(one)(samples, draws)


@functools.partial(jax.jit, static_argnames="graph")
def encoder_states(graph: Any, state: Any, encoder: EncoderSlots) -> Float[Array, "B N D"]:
    """Runs the encoder; registers are left out."""
    return nnx.merge(graph, state).encoder_hidden(encoder)[:, -encoder.valid.shape[1] :]


@functools.partial(jax.jit, static_argnames="graph")
def encode(graph: Any, state: Any, views: tuple[EncoderSlots, ...]) -> tuple[Context, ...]:
    """Runs the encoder on all views of each sample."""
    return nnx.merge(graph, state).encode_views(views)


@functools.partial(jax.jit, static_argnames=("graph", "modality"))
def cut_head(graph: Any, state: Any, *, modality: int) -> Float[Array, "rows D"]:
    """Returns a modality's rows of the output table."""
    return nnx.merge(graph, state).head(modality)


@functools.partial(jax.jit, static_argnames="size")
def join(views: tuple[Context, ...], *, size: int) -> Context:
    """Returns the contexts of G views, at most `size` slots each, as one of B * G rows."""

    def side_by_side(*parts: Array) -> Array:
        padded = [jnp.pad(part, ((0, 0), (0, size - part.shape[1])) + ((0, 0),) * (part.ndim - 2)) for part in parts]
        stacked = jnp.stack(padded, axis=1)
        return stacked.reshape(-1, *stacked.shape[2:])

    return jax.tree.map(side_by_side, *views)


@functools.partial(jax.jit, static_argnames="graph")
def hidden_states(graph: Any, state: Any, context: Context, decoder: DecoderSlots) -> Float[Array, "rows M D"]:
    """Runs the decoder on mask queries, the same ones for every view; shared by all grids of the same bucket."""
    return nnx.merge(graph, state).decode(for_views(decoder, len(context.valid)), context)


@functools.partial(jax.jit, static_argnames=("graph", "choice"))
def choose(
    graph: Any,
    state: Any,
    hidden: Float[Array, "rows M D"],
    head: Float[Array, "K_V D"],
    keys: Key[Array, " B"],
    step: Int[Array, ""],
    position: Int[Array, "B M"],
    temperature: Float[Array, " B"],
    noise: Float[Array, " B"],
    coefficients: Float[Array, "B G"],
    forced: Int[Array, "B M K"] | None,
    *,
    choice: Choice,
) -> tuple[Int[Array, "B M K"], Float[Array, "B M K"], Float[Array, "B M K"], Float[Array, "B M"]]:
    """Draws the tokens at mask queries, each code from its own head, or takes those that are forced.

    Returns:
      Ids; their log-probabilities and the entropies of what they were drawn from, both under the model (guided, at
      temperature 1, unfiltered); and the confidence of each position: log-probability under the distribution drawn
      from, or where that is greedy, under the model; with `noise` times Gumbel noise.
    """
    logits = guided(nnx.merge(graph, state).logits(hidden, modality=choice.index, head=head), coefficients)
    log_probs, entropy = _measured(logits)
    slots = _slot_keys(keys, step, position, modality=choice.modality)
    heat = jnp.broadcast_to(temperature[:, None, None], logits.shape[:-1])
    ids = _drawn(slots, logits, heat, choice=choice) if forced is None else forced
    score = picked(log_probs, ids)

    def tempered(_: None) -> Array:
        return jnp.where(heat > GREEDY, picked(choice.distribution(logits, heat), ids), score)

    confidence = jax.lax.cond(jnp.any(heat > GREEDY), tempered, lambda _: score, None).sum(-1)
    gumbel = jax.vmap(jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, NOISE))))(slots[..., 0])
    return ids, score, entropy, confidence + noise[:, None] * gumbel


@functools.partial(jax.jit, static_argnames=("graph", "choice", "size"))
def generate_spans(
    graph: Any,
    state: Any,
    context: Context,
    keys: Key[Array, " B"],
    rules: Rules,
    place: Place,
    temperature: Float[Array, " B"],
    coefficients: Float[Array, "B G"],
    *,
    choice: Choice,
    size: int,
) -> tuple[Int[Array, "B size"], Float[Array, "B size"], Float[Array, "B size"]]:
    """Generates the spans of a sequence token by token; stops when all samples have ended.

    Each token costs the decoder one slot: what it computed for those before is remembered.

    Args:
      graph: Of the model.
      state: Its parameters.
      context: Of all views of each sample.
      keys: Of the samples.
      rules: What may be drawn.
      place: Where the samples stand.
      temperature: Per sample.
      coefficients: What the logits of each view count.
      choice: What and how.
      size: Decoder slots, enough for all tokens and sentinels.

    Returns:
      Generated tokens behind sentinel 1, then padding; their log-probabilities, and the entropies of what they were
      drawn from, among the legal tokens and under the model at temperature 1.
    """
    model, words = nnx.merge(graph, state), vocabulary(choice.modality)
    (samples, views), codes = coefficients.shape, _codes(model)

    def going(carry: tuple) -> Array:
        step, _, place, *_ = carry
        return (step < size) & jnp.any(place.span < rules.gaps)

    def body(carry: tuple) -> tuple:
        step, last, place, tokens, scores, entropies, memory = carry
        slots = causal_slot(jnp.repeat(last, views), step, choice.modality, index=choice.index, codes=codes)
        hidden, memory = model.advance(slots, memory, step)
        logits = guided(model.logits(hidden[:, 0], modality=choice.index), coefficients)[:, 0]
        logits = jnp.where(rules.legal(place, words), logits, -jnp.inf)
        log_probs, entropy = _measured(logits)
        token = _drawn(jax.vmap(jax.random.fold_in, (0, None))(keys, step), logits, temperature, choice=choice)
        active = place.span < rules.gaps
        token = jnp.where(active, token, words.pad)
        tokens = tokens.at[:, step].set(token)
        scores = scores.at[:, step].set(jnp.where(active, picked(log_probs, token), 0))
        entropies = entropies.at[:, step].set(jnp.where(active, entropy, 0))
        return step + 1, token, rules.move(place, token, words), tokens, scores, entropies, memory

    none = jnp.zeros((samples, size), jnp.float32)
    tokens = jnp.full((samples, size), words.pad, jnp.int32)
    opening = jnp.full(samples, words.sentinel_first + 1, jnp.int32)
    memory = model.begin(context, size=size)
    carry = (jnp.int32(0), opening, place, tokens, none, none, memory)
    _, _, _, tokens, scores, entropies, _ = jax.lax.while_loop(going, body, carry)
    return tokens, scores, entropies


@functools.partial(jax.jit, static_argnames=("graph", "choice"))
def score_spans(
    graph: Any,
    state: Any,
    context: Context,
    rules: Rules,
    place: Place,
    coefficients: Float[Array, "B G"],
    tokens: Int[Array, "B T"],
    *,
    choice: Choice,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Returns what `generate_spans` would have said of given tokens behind sentinel 1; the decoder runs once.

    Returns:
      Log-probabilities, -inf for tokens that the rules do not allow, and entropies; 0 behind the last span.
    """
    model, words = nnx.merge(graph, state), vocabulary(choice.modality)
    opening = jnp.full((len(tokens), 1), words.sentinel_first + 1, jnp.int32)
    inputs = jnp.concatenate([opening, tokens[:, :-1]], axis=1)
    slots = causal_slots(inputs, choice.modality, index=choice.index, codes=_codes(model))
    hidden = model.decode(for_views(slots, len(context.valid)), context)

    def one(place: Place, here: tuple[Array, Array]) -> tuple[Place, tuple[Array, Array]]:
        row, token = here
        logits = guided(model.logits(row, modality=choice.index), coefficients)[:, 0]
        log_probs, entropy = _measured(jnp.where(rules.legal(place, words), logits, -jnp.inf))
        active = place.span < rules.gaps
        said = jnp.where(active, picked(log_probs, token), 0), jnp.where(active, entropy, 0)
        return rules.move(place, token, words), said

    _, (scores, entropies) = jax.lax.scan(one, place, (jnp.swapaxes(hidden, 0, 1), tokens.T))
    return scores.T, entropies.T


def for_views(slots: DecoderSlots, rows: int) -> DecoderSlots:
    """Returns the slots of each sample once for each of its views, `rows` in all."""
    return jax.tree.map(lambda part: jnp.repeat(part, rows // len(part), axis=0), slots)


def guided(logits: Float[Array, "rows *rest"], coefficients: Float[Array, "B G"]) -> Float[Array, "B *rest"]:
    """Adds up the logits of the views of each sample, each times its coefficient."""
    samples, views = coefficients.shape
    if views == 1:
        return logits
    return jnp.einsum("bg,bg...->b...", coefficients, logits.reshape(samples, views, *logits.shape[1:]))


def picked(values: Float[Array, "*slots V"], ids: Int[Array, "*slots"]) -> Float[Array, "*slots"]:
    """Returns the value at each id."""
    return jnp.take_along_axis(values, ids[..., None], axis=-1)[..., 0]


def _drawn(
    keys: Key[Array, "*rows"], logits: Float[Array, "*rows V"], temperature: Float[Array, "*rows"], *, choice: Choice
) -> Int[Array, "*rows"]:
    """Draws one id per row; random numbers, which cost more than a small model's logits, only where one is needed."""

    def greedy(_: None) -> Array:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def random(_: None) -> Array:
        return draw(keys, choice.distribution(logits, temperature))

    return jax.lax.cond(jnp.all(temperature <= GREEDY), greedy, random, None)


def _measured(logits: Float[Array, "*slots V"]) -> tuple[Float[Array, "*slots V"], Float[Array, "*slots"]]:
    """Returns log-probabilities and their entropy in nats."""
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    probabilities = jnp.exp(log_probs)
    return log_probs, -jnp.sum(jnp.where(probabilities > 0, probabilities * log_probs, 0), axis=-1)


def _codes(model: Any) -> int:
    return max(modality.codes for modality in model.modalities)


def _slot_keys(
    keys: Key[Array, " B"], step: Int[Array, ""], position: Int[Array, "B M"], *, modality: Modality
) -> Key[Array, "B M K"]:
    """Returns one key per sample, position and code, other ones in each step."""
    slot = (step * modality.size + position)[..., None] * modality.codes + jnp.arange(modality.codes)
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (None, 0))
    return jax.vmap(fold)(keys, slot)

"""The compiled parts of decoding. Parameters are arguments, so a new set of them compiles nothing.

Each function is compiled once per combination of static arguments and shapes, which the buckets of
`mmtok.generate.context` keep few. Random numbers are keyed by sample, step and position: neither padding nor the
other samples of a batch change what is drawn.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from mmtok.batch import DecoderSlots, EncoderSlots
from mmtok.generate.context import causal_slot
from mmtok.generate.filters import draw, filtered
from mmtok.generate.spans import vocabulary
from mmtok.modality import Modality

ORDER = 2**31 - 1  # folded into a sample's key for its order; the slots that are drawn have smaller numbers


@dataclasses.dataclass(frozen=True)
class Choice:
    """How tokens of one modality are chosen; static in compiled code.

    Attributes:
      modality: What is generated.
      index: Its place in the model.
      top_k: See `filters.filtered`.
      top_p: See `filters.filtered`.
      tempered: See `filters.filtered`.
      constrained: See `plan.Target`.
    """

    modality: Modality
    index: int
    top_k: int
    top_p: float
    tempered: bool = True
    constrained: bool = True

    def distribution(self, logits: Float[Array, "*rows V"], temperature: Float[Array, "*#rows"]) -> Array:
        """Returns the log-probabilities to draw from."""
        return filtered(logits, temperature=temperature, top_k=self.top_k, top_p=self.top_p, tempered=self.tempered)


@jax.jit
def sample_keys(key: Key[Array, ""], samples: Int[Array, " B"], target: Int[Array, ""]) -> Key[Array, " B"]:
    """Returns the key of each sample for one target of the plan."""
    return jax.vmap(lambda sample: jax.random.fold_in(jax.random.fold_in(key, sample), target))(samples)


@functools.partial(jax.jit, static_argnames="size")
def random_ranks(keys: Key[Array, " B"], *, size: int) -> Float[Array, "B size"]:
    """Returns a random number per position, by which `roar` orders them."""
    return jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, ORDER), (size,)))(keys)


@functools.partial(jax.jit, static_argnames="graph")
def encoder_states(graph: Any, state: Any, encoder: EncoderSlots) -> Float[Array, "B N D"]:
    """Runs the encoder; registers are left out."""
    return nnx.merge(graph, state).encoder_hidden(encoder)[:, -encoder.valid.shape[1] :]


@functools.partial(jax.jit, static_argnames="graph")
def hidden_states(graph: Any, state: Any, encoder: EncoderSlots, decoder: DecoderSlots) -> Float[Array, "B M D"]:
    """Runs the model on mask queries; shared by all grids of the same bucket."""
    model = nnx.merge(graph, state)
    return model.decode(decoder, model.encode(encoder))


@functools.partial(jax.jit, static_argnames=("graph", "choice"))
def choose(
    graph: Any,
    state: Any,
    hidden: Float[Array, "rows M D"],
    keys: Key[Array, " B"],
    step: Int[Array, ""],
    position: Int[Array, "B M"],
    temperature: Float[Array, " B"],
    guidance: Float[Array, ""],
    *,
    choice: Choice,
) -> tuple[Int[Array, "B M K"], Float[Array, "B M K"], Float[Array, "B M"]]:
    """Draws the tokens at mask queries, each code from its own head.

    Returns:
      Ids; their log-probabilities under the model (guided, at temperature 1, unfiltered); and the confidence of each
      position: log-probability under the distribution drawn from, or where that is greedy, under the model.
    """
    model = nnx.merge(graph, state)
    logits = guided(model.logits(hidden, modality=choice.index), guidance, samples=len(keys))
    temperature = jnp.broadcast_to(temperature[:, None, None], logits.shape[:-1])
    log_probs = choice.distribution(logits, temperature)
    ids = draw(_slot_keys(keys, step, position, modality=choice.modality), log_probs)
    plain = _picked(jax.nn.log_softmax(logits, axis=-1), ids)
    confidence = jnp.where(temperature > 0, _picked(log_probs, ids), plain)
    return ids, plain, confidence.sum(-1)


@functools.partial(jax.jit, static_argnames=("graph", "choice", "size"))
def generate_spans(
    graph: Any,
    state: Any,
    encoder: EncoderSlots,
    keys: Key[Array, " B"],
    gaps: Int[Array, " B"],
    open_end: Bool[Array, " B"],
    free: Int[Array, " B"],
    temperature: Float[Array, " B"],
    guidance: Float[Array, ""],
    *,
    choice: Choice,
    size: int,
) -> tuple[Int[Array, "B size"], Float[Array, "B size"]]:
    """Generates the spans of a sequence token by token; stops when all samples have ended.

    Only tokens that the layout of spans allows are drawn: the next sentinel, words while there is room, the end
    id in the last span of an open sequence. Unless constrained, any token is, until there is no room left; decoding
    then ends with the sentinel behind the last span.

    Each token costs the decoder one slot: what it computed for those before is remembered.

    Args:
      graph: Of the model.
      state: Its parameters.
      encoder: Conditional rows, and below them the unconditional ones under guidance.
      keys: Of the samples.
      gaps: Spans to generate.
      open_end: The last span runs to the end of the sequence.
      free: Tokens besides the end id that may be generated.
      temperature: Per sample.
      guidance: Scale.
      choice: What and how.
      size: Decoder slots, enough for all tokens and sentinels.

    Returns:
      Generated tokens behind sentinel 1, then padding; and their log-probabilities under the model at temperature 1.
    """
    model = nnx.merge(graph, state)
    words, samples = vocabulary(choice.modality), len(keys)
    rows, codes = encoder.ids.shape[0], encoder.ids.shape[-1]
    memory = model.begin(model.encode(encoder), size=size)
    ids = jnp.arange(words.size)
    special = (ids == words.pad) | (ids == words.start) | (ids == words.end)
    special |= (ids >= words.sentinel_first) & (ids < words.sentinel_first + words.sentinel_count)
    vocab = ids[None]

    def going(carry: tuple) -> Array:
        step, _, _, _, span, _, _ = carry
        return (step < size) & jnp.any(span < gaps)

    def body(carry: tuple) -> tuple:
        step, last, tokens, scores, span, left, memory = carry
        slots = causal_slot(jnp.tile(last, rows // samples), step, choice.modality, index=choice.index, codes=codes)
        hidden, memory = model.advance(slots, memory, step)
        logits = guided(model.logits(hidden[:, 0], modality=choice.index), guidance, samples=samples)[:, 0]
        room = (left > 0)[:, None]
        if choice.constrained:
            closing = (words.sentinel_first + span + 2)[:, None]
            ending = (vocab == words.end) & (open_end & (span == gaps - 1))[:, None]
            legal = (vocab == closing) | ending | (~special & room)
        else:
            closing = (words.sentinel_first + gaps + 1)[:, None]
            legal = (vocab == closing) | room
        logits = jnp.where(legal, logits, -jnp.inf)
        log_probs = choice.distribution(logits, temperature)
        token = draw(jax.vmap(jax.random.fold_in, (0, None))(keys, step), log_probs)
        active = span < gaps
        score = jnp.where(active, _picked(jax.nn.log_softmax(logits, axis=-1), token), 0)
        token = jnp.where(active, token, words.pad)
        tokens, scores = tokens.at[:, step].set(token), scores.at[:, step].set(score)
        closes = active & (token == closing[:, 0])
        if choice.constrained:
            closes |= active & (token == words.end)
            span += closes
        else:
            span = jnp.where(closes, gaps, span)
        return step + 1, token, tokens, scores, span, left - (active & ~closes), memory

    tokens, scores = jnp.full((samples, size), words.pad, jnp.int32), jnp.zeros((samples, size), jnp.float32)
    opening = jnp.full(samples, words.sentinel_first + 1, jnp.int32)
    start = (jnp.int32(0), opening, tokens, scores, jnp.zeros(samples, jnp.int32), free, memory)
    _, _, tokens, scores, *_ = jax.lax.while_loop(going, body, start)
    return tokens, scores


def guided(logits: Float[Array, "rows *rest"], guidance: Float[Array, ""], *, samples: int) -> Float[Array, "B *rest"]:
    """Combines conditional rows with the unconditional ones below them, if there are any (Ho & Salimans 2022)."""
    if len(logits) == samples:
        return logits
    conditional, unconditional = logits[:samples], logits[samples:]
    return unconditional + guidance * (conditional - unconditional)


def _picked(values: Float[Array, "*slots V"], ids: Int[Array, "*slots"]) -> Float[Array, "*slots"]:
    return jnp.take_along_axis(values, ids[..., None], axis=-1)[..., 0]


def _slot_keys(
    keys: Key[Array, " B"], step: Int[Array, ""], position: Int[Array, "B M"], *, modality: Modality
) -> Key[Array, "B M K"]:
    """Returns one key per sample, position and code, other ones in each step."""
    slot = (step * modality.size + position)[..., None] * modality.codes + jnp.arange(modality.codes)
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (None, 0))
    return jax.vmap(fold)(keys, slot)

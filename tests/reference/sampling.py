"""Sampling as plainly as can be: everything of full length, nothing remembered from one token or step to the next."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from mmtok.batch import DecoderSlots, EncoderSlots
from mmtok.modality import Modality

Run = Callable[[EncoderSlots, DecoderSlots, int, slice], jax.Array]


def compiled(model: Any) -> Run:
    """Returns the logits of some decoder slots, as a function of both sides, the modality's index and the slots."""
    graph, state = nnx.split(model)

    @jax.jit
    def hidden(state: Any, encoder: EncoderSlots, decoder: DecoderSlots) -> jax.Array:
        model = nnx.merge(graph, state)
        return model.decode(decoder, model.encode(encoder))

    @functools.partial(jax.jit, static_argnums=2)
    def logits(state: Any, hidden: jax.Array, modality: int) -> jax.Array:
        return nnx.merge(graph, state).logits(hidden, modality=modality)

    return lambda encoder, decoder, index, slots: logits(state, hidden(state, encoder, decoder)[:, slots], index)


def greedy_sequence(
    run: Run, encoder: EncoderSlots, modality: Modality, index: int, *, length: int, codes: int, most: int = 0
) -> np.ndarray:
    """Returns the most likely next word again and again, (B, length) ids behind sentinel 1, end included.

    Args:
      run: What `compiled` returned.
      encoder: What is known, and the sentinel of the pending sequence.
      modality: What is generated.
      index: Its place in the model.
      length: Longest sequence, end included.
      codes: Most codes of any modality.
      most: Words after which to stop early, for timing; 0 is none.
    """
    words = modality.vocabulary
    assert words is not None
    rows = len(encoder.valid)
    sentinels = range(words.sentinel_first, words.sentinel_first + words.sentinel_count)
    plain = sorted({*range(words.size)} - {words.pad, words.start, words.end, *sentinels})
    tokens = np.full((rows, length + 1), words.pad, np.int32)
    tokens[:, 0], ended = words.sentinel_first + 1, np.zeros(rows, bool)
    for step in range(most or length):
        used = np.broadcast_to(np.arange(length) <= step, (rows, length))
        decoder = DecoderSlots(
            ids=np.pad(tokens[:, :length, None], ((0, 0), (0, 0), (0, codes - 1)), constant_values=-1),
            modality=np.where(used, index, 0).astype(np.int32),
            position=np.where(used, np.arange(length), 0).astype(np.int32),
            valid=used,
            limit=np.where(used, np.arange(1, length + 1), 0).astype(np.int32),
        )
        logits = np.asarray(run(encoder, decoder, index, slice(step, step + 1)))[:, 0, 0]
        legal = [words.end, words.sentinel_first + 2, *(plain if step < length - 1 else [])]
        best = np.array(legal)[logits[:, legal].argmax(1)]
        best = np.where(best == words.sentinel_first + 2, words.end, best)
        tokens[:, step + 1] = np.where(ended, words.pad, best)
        ended |= best == words.end
    return tokens[:, 1:]


def greedy_grid(
    run: Run,
    encoder: Callable[[np.ndarray, np.ndarray, bool], EncoderSlots],
    modality: Modality,
    index: int,
    *,
    order: np.ndarray,
    counts: list[int],
    guidance: float,
    codes: int,
) -> np.ndarray:
    """Reveals the positions of a grid in a given order with the most likely tokens, (B, L) ids of one code.

    Args:
      run: What `compiled` returned.
      encoder: What is known, of full length, as a function of the grid's ids, which of them are visible, and whether
        the condition is.
      modality: What is generated.
      index: Its place in the model.
      order: (B, L) positions.
      counts: How many of them each step reveals.
      guidance: Scale.
      codes: Most codes of any modality.
    """
    rows, size = order.shape
    ids, visible = np.zeros((rows, size), np.int32), np.zeros((rows, size), bool)
    for start, count in zip(np.cumsum([0, *counts]), counts):
        position = order[:, start : start + count]
        asked = np.pad(np.ones_like(position, bool), ((0, 0), (0, size - count)))
        decoder = DecoderSlots(
            ids=np.broadcast_to(np.where(np.arange(codes) < 1, 0, -1).astype(np.int32), (rows, size, codes)),
            modality=np.where(asked, index, 0).astype(np.int32),
            position=np.pad(position, ((0, 0), (0, size - count))).astype(np.int32),
            valid=asked,
            limit=np.full((rows, size), count, np.int32),
        )
        free = run(encoder(ids, visible, False), decoder, index, slice(count))
        logits = free + guidance * (run(encoder(ids, visible, True), decoder, index, slice(count)) - free)
        best = np.asarray(logits.argmax(-1))[..., 0]
        np.put_along_axis(ids, position, best, axis=1)
        np.put_along_axis(visible, position, True, axis=1)
    return ids

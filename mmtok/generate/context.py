"""What the model is shown: encoder and decoder slots assembled from known tokens, in few fixed shapes."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from mmtok.batch import DecoderSlots, EncoderSlots
from mmtok.generate.known import Known
from mmtok.generate.spans import gaps, vocabulary
from mmtok.modality import Modality

ENCODER_STEP, CONTEXT_STEP, DECODER_STEP = 32, 64, 8


@dataclasses.dataclass(frozen=True)
class Shown:
    """One modality as the encoder sees it: content and position of each candidate slot, `valid` where it is there."""

    values: np.ndarray
    position: Int[np.ndarray, "B L"]
    valid: Bool[np.ndarray, "B L"]


def bucket(count: int, *, step: int) -> int:
    """Returns the padded size for `count` slots: a multiple of `step`, or of an eighth of the next power of two.

    So padding stays below a quarter from 4 steps on, and the number of shapes, each compiled once, stays small.
    """
    count = max(count, 1)
    step = max(step, 2 ** max((count - 1).bit_length() - 3, 0))
    return -(-count // step) * step


def show(known: Known, modality: Modality, *, asked: Bool[np.ndarray, " B"]) -> Shown:
    """Returns what of a modality enters the encoder.

    Args:
      known: Known tokens.
      modality: Theirs.
      asked: Samples that have or shall have this modality: in a sequence each gap there shows a sentinel, so that a
        pending sequence shows sentinel 1, and a variable number of vectors, all of them hidden, one zero vector.
    """
    if not modality.in_spans:
        visible = known.visible if modality.is_input else np.zeros_like(known.visible)
        return Shown(known.values, np.broadcast_to(np.arange(modality.size), known.visible.shape), visible)
    if modality.kind == "continuous":
        valid = known.visible.copy()
        valid[:, 0] |= asked & ~known.present
        values = np.where(known.visible[..., None], known.values, 0)
        return Shown(values, np.maximum(np.cumsum(valid, axis=1) - 1, 0), valid)
    first = gaps(known, modality, asked=asked).first
    sentinel = vocabulary(modality).sentinel_first + np.cumsum(first, axis=1)
    valid = (known.visible | first) & modality.is_input
    position = np.maximum(np.cumsum(valid, axis=1) - 1, 0)
    return Shown(np.where(known.visible[..., None], known.values, sentinel[..., None]), position, valid)


def encoder_slots(
    shown: Mapping[str, Shown], modalities: tuple[Modality, ...], *, rows: int, size: int | None = None
) -> EncoderSlots:
    """Assembles the encoder's slots, in the order of the model's modalities, padded to `size` or else to a bucket."""
    codes = max(modality.codes for modality in modalities)
    ids: list[np.ndarray] = [np.zeros((rows, 0, codes), np.int32)]
    index: list[np.ndarray] = [np.zeros((rows, 0), np.int32)]
    position: list[np.ndarray] = [np.zeros((rows, 0), np.int32)]
    valid: list[np.ndarray] = [np.zeros((rows, 0), bool)]
    vectors = {}
    for number, modality in enumerate(modalities):
        if modality.name not in shown:
            continue
        part = shown[modality.name]
        content = part.values
        if modality.kind == "continuous":
            vectors[modality.name] = part.values.astype(np.float32)
            content = np.broadcast_to(np.arange(modality.size)[:, None], (*part.position.shape, 1))
        padding = ((0, 0), (0, 0), (0, codes - content.shape[-1]))
        ids.append(np.pad(content, padding, constant_values=-1))
        index.append(np.full_like(part.position, number))
        position.append(part.position)
        valid.append(part.valid)
    there = np.concatenate(valid, axis=1)
    if size is None:
        size = min(bucket(int(there.sum(1).max(initial=0)), step=ENCODER_STEP), max(there.shape[1], 1))
    order = np.argsort(~there, axis=1, kind="stable")[:, :size]

    def pick(parts: list[np.ndarray]) -> np.ndarray:
        whole = np.concatenate(parts, axis=1)
        picked = np.take_along_axis(whole, order[..., None] if whole.ndim == 3 else order, axis=1)
        return np.pad(picked, ((0, 0), (0, size - picked.shape[1])) + ((0, 0),) * (whole.ndim - 2))

    used = pick([there])
    return EncoderSlots(
        ids=np.where(used[..., None], pick(ids), 0).astype(np.int32),
        modality=np.where(used, pick(index), 0).astype(np.int32),
        position=np.where(used, pick(position), 0).astype(np.int32),
        valid=used,
        vectors=vectors,
    )


def grid_queries(
    position: Int[np.ndarray, "B Q"], valid: Bool[np.ndarray, "B Q"], modality: Modality, *, index: int, codes: int
) -> DecoderSlots:
    """Returns mask queries at the given positions (valid ones first), padded to a bucket; each sees all of them."""
    rows, count = position.shape
    size = max(count, min(bucket(count, step=DECODER_STEP), modality.size))
    padding = ((0, 0), (0, size - count))
    valid = np.pad(valid, padding)
    return DecoderSlots(
        ids=_no_ids(rows, size, modality, codes=codes),
        modality=np.where(valid, index, 0).astype(np.int32),
        position=np.where(valid, np.pad(position, padding), 0).astype(np.int32),
        valid=valid,
        limit=np.repeat(valid.sum(1, dtype=np.int32)[:, None], size, axis=1),
    )


def causal_slots(ids: Int[Array, "B T"], modality: Modality, *, index: int, codes: int) -> DecoderSlots:
    """Returns the slots of a span sequence, each of which reads the token before it; for compiled code."""
    rows, size = ids.shape
    position = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), (rows, size))
    return DecoderSlots(
        ids=jnp.asarray(_no_ids(rows, size, modality, codes=codes)).at[..., 0].set(ids),
        modality=jnp.full((rows, size), index, jnp.int32),
        position=position,
        valid=jnp.ones((rows, size), bool),
        limit=position + 1,
    )


def causal_slot(
    ids: Int[Array, " B"], step: Int[Array, ""], modality: Modality, *, index: int, codes: int
) -> DecoderSlots:
    """Returns slot number `step` alone."""
    slot = causal_slots(ids[:, None], modality, index=index, codes=codes)
    return dataclasses.replace(slot, position=slot.position + step, limit=slot.limit + step)


def _no_ids(rows: int, size: int, modality: Modality, *, codes: int) -> Int[np.ndarray, "B M K"]:
    return np.broadcast_to(np.where(np.arange(codes) < modality.codes, 0, -1).astype(np.int32), (rows, size, codes))

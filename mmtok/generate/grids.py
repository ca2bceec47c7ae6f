"""Filling a grid: in each step the positions of one share are asked for, and drawn at once, independently."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from mmtok.batch import TokenColumn
from mmtok.generate import context, order, steps
from mmtok.generate.generated import Generated
from mmtok.generate.known import Known
from mmtok.generate.machine import Machine
from mmtok.generate.passes import coefficients, views
from mmtok.generate.schedules import TOKEN_SCHEDULES, temperatures
from mmtok.generate.target import Target
from mmtok.modality import Modality, by_name


@dataclasses.dataclass(frozen=True)
class Steps:
    """What each step does, sample by sample.

    Attributes:
      counts: Tokens revealed.
      heat: Temperature.
      noise: Scale of the noise on confidences.
      coefficients: What the logits of each pass count.
    """

    counts: Int[np.ndarray, "B steps"]
    heat: Float[np.ndarray, "B steps"]
    noise: Float[np.ndarray, "B steps"]
    coefficients: Float[np.ndarray, "B steps passes"]


def fill(
    machine: Machine,
    state: Mapping[str, Known],
    target: Target,
    keys: Key[Array, " B"],
    *,
    forced: Int[np.ndarray, "B L K"] | None,
) -> Generated:
    """Fills the unknown positions of a grid.

    Args:
      machine: The model.
      state: All that is known, the target included.
      target: With every default filled in.
      keys: One per sample.
      forced: Tokens to take instead of drawing them.
    """
    modality = by_name(machine.modalities)[target.modality]
    known = state[target.modality]
    values, visible = known.values.copy(), known.visible.copy()
    log_probs, entropies = np.zeros(values.shape, np.float32), np.zeros(values.shape, np.float32)
    others = [name for name, item in state.items() if name != target.modality and item.visible.any()]
    plan = _plan(target, others, (~visible).sum(1))
    ordered = _order(target, modality, keys, visible)
    choice = machine.choice(target, modality)
    head = steps.cut_head(machine.graph, machine.state, modality=choice.index)
    for step in np.flatnonzero(plan.counts.any(0)).tolist():
        count = plan.counts[:, step]
        if ordered is None:
            hidden_first = np.argsort(visible, axis=1, kind="stable")
            position, asked = _take(hidden_first, start=np.zeros_like(count), count=(~visible).sum(1))
        else:
            position, asked = _take(ordered, start=plan.counts[:, :step].sum(1), count=count)
        now = {**state, target.modality: Known(values, visible)}
        decoder = context.grid_queries(position, asked, modality, index=choice.index, codes=machine.codes)
        read = machine.read(views(target, now, by_name(machine.modalities)), rows=len(count))
        drawn = steps.choose(
            machine.graph,
            machine.state,
            steps.hidden_states(machine.graph, machine.state, read, machine.place(decoder)),
            head,
            keys,
            jnp.int32(step),
            jnp.asarray(decoder.position),
            jnp.asarray(plan.heat[:, step], jnp.float32),
            jnp.asarray(plan.noise[:, step], jnp.float32),
            jnp.asarray(plan.coefficients[:, step], jnp.float32),
            None
            if forced is None
            else jnp.asarray(np.take_along_axis(forced, np.asarray(decoder.position)[..., None], axis=1)),
            choice=choice,
        )
        ids, score, entropy, confidence = (np.asarray(part)[:, : position.shape[1]] for part in drawn)
        row, slot = np.nonzero(_best(confidence, asked, count=count) if ordered is None else asked)
        where = row, position[row, slot]
        values[where], visible[where] = ids[row, slot], True
        log_probs[where], entropies[where] = score[row, slot], entropy[row, slot]
    whole = TokenColumn(values, np.full(len(values), modality.size, np.int32))
    return Generated(whole, log_probs, entropies)


def _plan(target: Target, others: list[str], unknown: Int[np.ndarray, " B"]) -> Steps:
    """Returns what each step does for every sample, by the number of its unknown tokens."""
    assert target.steps is not None
    table = {}
    for tokens in np.unique(unknown).tolist():
        counts = TOKEN_SCHEDULES[target.token_schedule](target.steps, tokens)
        heat = temperatures(target.temperature_schedule, target.temperature, counts)
        noise = target.noise * (1 - np.cumsum(counts) / max(tokens, 1))
        table[tokens] = counts, heat, noise, coefficients(target, others, counts)
    rows = [table[tokens] for tokens in unknown.tolist()]
    return Steps(*(np.stack(part) for part in zip(*rows)))


def _order(
    target: Target, modality: Modality, keys: Key[Array, " B"], visible: Bool[np.ndarray, "B L"]
) -> Int[np.ndarray, "B L"] | None:
    """Returns the positions in the order in which they are revealed; None where that is found out step by step."""
    if target.scheme == "maskgit":
        return None
    if target.scheme == "halton":
        height, width = modality.shape
        ranks = order.halton_ranks(keys, shape=(height, width))
    else:
        ranks = np.asarray(order.random_ranks(keys, size=modality.size))
    return np.argsort(np.where(visible, np.inf, ranks), axis=1, kind="stable")


def _take(
    ordered: Int[np.ndarray, "B L"], *, start: Int[np.ndarray, " B"], count: Int[np.ndarray, " B"]
) -> tuple[Int[np.ndarray, "B Q"], Bool[np.ndarray, "B Q"]]:
    """Returns entries `start` to `start + count` of each row's order, and which of the Q slots these are."""
    slots = np.arange(count.max())
    position = np.take_along_axis(ordered, np.minimum(start[:, None] + slots, ordered.shape[1] - 1), axis=1)
    return position, slots < count[:, None]


def _best(
    confidence: Float[np.ndarray, "B Q"], asked: Bool[np.ndarray, "B Q"], *, count: Int[np.ndarray, " B"]
) -> Bool[np.ndarray, "B Q"]:
    """Returns the `count` asked slots of each row with the highest confidence; of equals, the first."""
    ranked = np.argsort(np.where(asked, -confidence, np.inf), axis=1, kind="stable")
    return np.argsort(ranked, axis=1) < count[:, None]

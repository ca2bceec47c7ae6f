"""Filling the gaps of a sequence, token by token, or scoring one that is there."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from mmtok.batch import TokenColumn
from mmtok.generate import context, rules, spans, steps
from mmtok.generate.generated import Generated
from mmtok.generate.known import Known
from mmtok.generate.machine import Machine
from mmtok.generate.passes import coefficients, views
from mmtok.generate.target import Target
from mmtok.grammar import Grammar
from mmtok.modality import by_name


def fill(
    machine: Machine,
    state: Mapping[str, Known],
    target: Target,
    keys: Key[Array, " B"],
    *,
    grammar: Grammar,
    forced: TokenColumn | None,
) -> Generated:
    """Fills the gaps of a sequence, all of it where nothing is known.

    Args:
      machine: The model.
      state: All that is known, the target included.
      target: With every default filled in.
      keys: One per sample.
      grammar: Of the target's tokenizer.
      forced: Whole sequences to take instead of drawing them; nothing is known then.

    Raises:
      MmtokError: no filling makes a well-formed sequence.
    """
    assert target.length is not None
    modality = by_name(machine.modalities)[target.modality]
    known = state[target.modality]
    found = spans.gaps(known, modality, asked=np.ones(len(known.visible), bool))
    if not found.count.any():
        nothing = np.zeros(known.values.shape, np.float32)
        return Generated(TokenColumn(known.values, known.visible.sum(1, dtype=np.int32)), nothing, nothing)
    free = spans.free_tokens(known, found, longest=target.length)
    ruled = rules.start(grammar, known, found, modality, free=free, constrained=target.constrained)
    others = [name for name, item in state.items() if name != target.modality and item.visible.any()]
    share = jnp.tile(jnp.asarray(coefficients(target, others, np.ones(1, int)), jnp.float32), (len(free), 1))
    read = machine.read(views(target, state, by_name(machine.modalities)), rows=len(free))
    choice, model = machine.choice(target, modality), (machine.graph, machine.state)
    if forced is not None:
        scored = steps.score_spans(*model, read, *ruled, share, jnp.asarray(forced.values[..., 0]), choice=choice)
        return Generated(forced, *(np.asarray(part)[..., None] for part in scored))
    size = min(context.bucket(int((free + found.count).max()), step=context.DECODER_STEP), modality.positions)
    heat = jnp.full(len(free), target.temperature, jnp.float32)
    drawn = steps.generate_spans(*model, read, keys, *ruled, heat, share, choice=choice, size=size)
    tokens, log_probs, entropies = map(np.asarray, drawn)
    return spans.fill(known, found, modality, spans=tokens, said=np.stack([log_probs, entropies], axis=-1))

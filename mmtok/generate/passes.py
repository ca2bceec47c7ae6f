"""Guidance: the forward passes whose logits are combined, what each of them sees, and what it counts."""

from collections.abc import Collection, Mapping

import numpy as np
from jaxtyping import Float, Int

from mmtok.generate.context import Shown, show
from mmtok.generate.known import Known
from mmtok.generate.schedules import ramp
from mmtok.generate.target import Target
from mmtok.modality import Modality


def conditions(target: Target, others: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """Returns for each pass what it sees of the modalities that guide; of other modalities every pass sees all."""
    if target.weights:
        return (*((name,) for name in target.weights), ())
    return ((*others,), ()) if target.guidance != 1 and others else ((*others,),)


def pass_count(target: Target, others: Collection[str]) -> int:
    """Returns the number of forward passes per step, where `others` are what is known besides the target."""
    return len(conditions(target, others))


def views(
    target: Target, state: Mapping[str, Known], modalities: Mapping[str, Modality]
) -> tuple[Mapping[str, Shown], ...]:
    """Returns what each pass sees of each modality, the target's own known tokens in all of them.

    What a pass does not see is hidden, not absent: a sequence still shows that it is there.
    """
    asked = {name: item.present | (name == target.modality) for name, item in state.items()}
    others = [name for name, item in state.items() if name != target.modality and item.visible.any()]
    guiding = {*(target.weights or others)}
    seen = {name: show(item, modalities[name], asked=asked[name]) for name, item in state.items()}
    passes = conditions(target, others)
    if len(passes) == 1:
        return (seen,)
    unseen = {name: show(state[name].hidden(), modalities[name], asked=asked[name]) for name in guiding}
    return tuple(seen | {name: unseen[name] for name in guiding.difference(kept)} for kept in passes)


def coefficients(
    target: Target, others: Collection[str], counts: Int[np.ndarray, " steps"]
) -> Float[np.ndarray, "steps passes"]:
    """Returns what the logits of each pass are multiplied by before they are added up, step by step.

    Args:
      target: Whose guidance it is.
      others: What is known besides the target.
      counts: Tokens per step.
    """
    risen = ramp(target.guidance_schedule, counts)[:, None]
    if pass_count(target, others) == 1:
        return np.ones_like(risen)
    scales = risen * [*target.weights.values()] if target.weights else 1 + risen * (target.guidance - 1)
    return np.concatenate([scales, 1 - scales.sum(1, keepdims=True)], axis=1)

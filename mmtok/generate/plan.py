"""Plans: which modalities to generate, in which order and how."""

from collections.abc import Mapping

import numpy as np

from mmtok.errors import MmtokError, unknown
from mmtok.generate.known import Known
from mmtok.generate.target import SCHEMES, Target
from mmtok.modality import Modality, by_name

Plan = tuple[Target, ...]


def validate(plan: Plan, known: Mapping[str, Known], modalities: tuple[Modality, ...]) -> Plan:
    """Checks a plan and its conditions before anything is computed.

    Returns:
      The plan with all defaults filled in.

    Raises:
      MmtokError: a modality that the model does not have or cannot produce, settings that do not fit it, or known
        tokens of a wrong shape or range.
    """
    if not plan:
        raise MmtokError("the plan is empty: name at least one modality to generate")
    table = by_name(modalities)
    producible = [name for name, modality in table.items() if modality.is_target]
    seen: set[str] = set()
    check_known(known, modalities)
    there = {name for name, item in known.items() if item.present.any()}
    for target in plan:
        name = target.modality
        if name not in table:
            raise unknown("target modality", name, producible)
        if name not in producible:
            kind = "continuous" if table[name].kind == "continuous" else "input-only"
            raise MmtokError(
                f"target '{name}': the model reads this {kind} modality but cannot produce it,"
                f" it can produce {', '.join(producible)}"
            )
        if name in seen:
            raise MmtokError(f"target '{name}' occurs twice in the plan; each modality is generated once")
        _check_settings(target, table[name])
        for condition in target.weights:
            _check_condition(target, condition, there=there | seen, table=table)
        seen.add(name)
    return tuple(target.resolved(table[target.modality]) for target in plan)


def _check_condition(target: Target, name: str, *, there: set[str], table: Mapping[str, Modality]) -> None:
    where = f"target '{target.modality}'"
    if name not in table:
        raise unknown(f"condition in the weights of {where}", name, table)
    if name == target.modality:
        raise MmtokError(f"{where}: it cannot be a condition of itself; leave it out of weights")
    if not table[name].is_input:
        raise MmtokError(f"{where}: the model predicts '{name}' but cannot read it; leave it out of weights")
    if name not in there:
        raise MmtokError(
            f"{where}: its condition '{name}' is neither given nor generated before it; give it, or move it up the plan"
        )


def _check_settings(target: Target, modality: Modality) -> None:
    where, kind = f"target '{target.modality}'", modality.kind
    if target.scheme and target.scheme not in SCHEMES[kind]:
        raise MmtokError(f"{where}: scheme '{target.scheme}' does not fit a {kind}, use {' or '.join(SCHEMES[kind])}")
    if kind == "sequence":
        schedules = (target.token_schedule or "constant", target.temperature_schedule, target.guidance_schedule)
        if target.steps is not None or schedules != ("constant",) * 3:
            raise MmtokError(f"{where}: steps and schedules belong to grids, this is a sequence; leave them out")
        if target.length is not None and target.length > modality.size:
            raise MmtokError(f"{where}: length {target.length} is above the modality's limit of {modality.size} tokens")
    else:
        if target.scheme == "halton" and len(modality.shape) != 2:
            raise MmtokError(f"{where}: scheme 'halton' is for 2-D grids, this one is {modality.shape}; use roar")
        if target.length is not None:
            raise MmtokError(f"{where}: length belongs to sequences, a grid has {modality.size} tokens; leave it out")
        if not target.constrained:
            raise MmtokError(f"{where}: constrained=False belongs to sequences, this is a grid; leave it out")
        if target.steps is not None and target.steps > modality.size:
            raise MmtokError(f"{where}: {target.steps} steps are more than its {modality.size} tokens")
    if target.noise and target.resolved(modality).scheme != "maskgit":
        raise MmtokError(f"{where}: noise belongs to scheme 'maskgit', which orders by confidence; leave it out")
    if target.top_k > modality.vocab_size:
        raise MmtokError(f"{where}: top_k {target.top_k} is more than its vocabulary of {modality.vocab_size}")


def check_known(known: Mapping[str, Known], modalities: tuple[Modality, ...]) -> None:
    """Checks known tokens.

    Raises:
      MmtokError: the model has no such modality, shape or range are wrong, or the numbers of samples differ.
    """
    table = by_name(modalities)
    samples: dict[str, int] = {}
    for name, item in known.items():
        if name not in table:
            raise unknown("known modality", name, table)
        modality, found = table[name], tuple(item.values.shape)
        expected = (modality.size, modality.channels or modality.codes)
        if found[1:] != expected:
            raise MmtokError(
                f"known '{name}': values of shape (samples, {', '.join(map(str, expected))}) expected, found {found}"
            )
        if item.visible.shape != found[:2]:
            raise MmtokError(
                f"known '{name}': visible has shape {item.visible.shape}, expected {found[:2]} like the values"
            )
        if not found[0]:
            raise MmtokError(f"known '{name}' holds no samples")
        samples[name] = found[0]
        if modality.kind != "continuous":
            tokens = np.asarray(item.values)[item.visible]
            if tokens.size and not (tokens.min() >= 0 and tokens.max() < modality.vocab_size):
                raise MmtokError(
                    f"known '{name}': ids {tokens.min()} to {tokens.max()}, expected 0 to {modality.vocab_size - 1}"
                )
        elif not np.isfinite(np.asarray(item.values)[item.visible]).all():
            raise MmtokError(f"known '{name}' holds numbers that are not finite")
    if len(set(samples.values())) > 1:
        raise MmtokError(
            "known modalities differ in the number of samples: "
            + ", ".join(f"{name} {count}" for name, count in samples.items())
        )

"""Plans: which modalities to generate, in which order and how."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from mmtok.errors import MmtokError, unknown
from mmtok.generate.known import Known
from mmtok.generate.schedules import TOKEN_SCHEDULES, parse
from mmtok.modality import Modality, by_name

Scheme = Literal["", "roar", "maskgit", "autoregressive"]
SCHEMES: dict[str, tuple[str, ...]] = {"grid": ("roar", "maskgit"), "sequence": ("autoregressive",)}  # default first
USUAL_STEPS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """One modality to generate. A plan is a tuple of targets; each is conditioned on what is known and on those before.

    Attributes:
      modality: Its name.
      scheme: `roar` reveals positions of a grid in random order, `maskgit` the most confident ones first (Chang et al.
        2022), `autoregressive` makes a sequence token by token; "" is `roar` for grids, `autoregressive` for sequences.
      steps: Decoding steps of a grid; None is 8, or fewer for a grid of fewer tokens.
      token_schedule: Tokens per step, `linear` or `cosine`; "" is linear for `roar`, cosine for `maskgit`.
      temperature: Divides the logits; 0 takes the most likely token.
      temperature_schedule: `constant`, or for grids `linear` or `onex:LOW:POWER` (see `schedules.temperatures`).
      top_k: Draw among the k most likely tokens; 0 is all.
      top_p: Draw among the fewest tokens that have this probability together, in (0, 1].
      tempered_top_p: Whether `top_p` speaks of the distribution that is sampled, or of that at temperature 1.
      guidance: Scale of classifier-free guidance (Ho & Salimans 2022): unconditional logits plus this times their
        difference to the conditional ones; 1 is none. Without condition means: nothing but the target itself visible.
      length: Longest sequence to make, end included; None is the modality's limit.
      constrained: Whether only tokens are drawn that the layout of a sequence allows where they stand. Without, a
        model may write sentinels, padding and the end anywhere, as in 4M's sampler: what follows them is cut off.
    """

    modality: str
    scheme: Scheme = ""
    steps: int | None = None
    token_schedule: Literal["", "cosine", "linear"] = ""
    temperature: float = 1.0
    temperature_schedule: str = "constant"
    top_k: int = 0
    top_p: float = 1.0
    tempered_top_p: bool = True
    guidance: float = 1.0
    length: int | None = None
    constrained: bool = True

    def __post_init__(self) -> None:
        where = f"target '{self.modality}'"
        if self.steps is not None and self.steps < 1:
            raise MmtokError(f"{where}: steps must be at least 1, it is {self.steps}")
        if not 0 <= self.temperature < math.inf:
            raise MmtokError(f"{where}: temperature must be 0 (greedy) or a positive number, it is {self.temperature}")
        if self.top_k < 0:
            raise MmtokError(f"{where}: top_k must be at least 0 (0 keeps all tokens), it is {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise MmtokError(f"{where}: top_p must be above 0 and at most 1 (which keeps all), it is {self.top_p}")
        if not math.isfinite(self.guidance):
            raise MmtokError(f"{where}: guidance must be a finite number, it is {self.guidance}")
        if self.length is not None and self.length < 1:
            raise MmtokError(f"{where}: length must be at least 1, it is {self.length}")
        if self.token_schedule and self.token_schedule not in TOKEN_SCHEDULES:
            raise unknown(f"token schedule of {where}", self.token_schedule, TOKEN_SCHEDULES)
        parse(self.temperature_schedule)

    def resolved(self, modality: Modality) -> "Target":
        """Returns the target with every default filled in."""
        if modality.kind == "sequence":
            length = modality.size if self.length is None else self.length
            return dataclasses.replace(self, scheme="autoregressive", length=length)
        scheme: Scheme = self.scheme or "roar"
        return dataclasses.replace(
            self,
            scheme=scheme,
            steps=min(USUAL_STEPS, modality.size) if self.steps is None else self.steps,
            token_schedule=self.token_schedule or ("linear" if scheme == "roar" else "cosine"),
        )


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
        seen.add(name)
        _check_settings(target, table[name])
    check_known(known, modalities)
    return tuple(target.resolved(table[target.modality]) for target in plan)


def describe(plan: Plan, known: Mapping[str, Known], modalities: tuple[Modality, ...]) -> str:
    """Returns a text that says what will be generated from what, how, and in how many forward passes."""
    plan = validate(plan, known, modalities)
    table = by_name(modalities)
    given = [name for name in table if name in known and known[name].present.any()]
    lines = ["given: " + (", ".join(f"{name} {_amount(known[name])}" for name in given) or "nothing")]
    total = 0
    for number, target in enumerate(plan, 1):
        modality, name = table[target.modality], target.modality
        conditions = [other for other in given if other != name]
        own = [f"its known part {_amount(known[name])}"] if name in given else []
        if target.scheme == "autoregressive":
            assert target.length is not None
            passes, how = target.length, f"autoregressive, at most {target.length} tokens"
        else:
            assert target.steps is not None
            tokens = int((~known[name].visible).sum(1).max()) if name in known else modality.size
            counts = TOKEN_SCHEDULES[target.token_schedule](target.steps, tokens)
            passes = int((counts > 0).sum())
            how = f"{target.scheme}, {tokens} tokens in {passes} {target.token_schedule} steps"
        how += f", temperature {target.temperature:g} {target.temperature_schedule}"
        how += f", top_k {target.top_k}" if target.top_k else ""
        how += f", top_p {target.top_p:g}" if target.top_p < 1 else ""
        if target.guidance != 1 and conditions:
            how += f", guidance {target.guidance:g} (2 passes each)"
            passes *= 2
        lines.append(f"{number}. {name} from {', '.join(conditions + own) or 'nothing'}: {how}")
        total += passes
        given = [other for other in table if other in (*given, name)]
    return "\n".join([*lines, f"forward passes: at most {total}"])


def _amount(known: Known) -> str:
    samples, positions = known.visible.shape
    most, present = int(known.visible.sum(1).max()), int(known.present.sum())
    part = f"{most} of {positions} positions" if most < positions else f"{positions} positions"
    return f"({part})" if present == samples else f"({part}, {present} of {samples} samples)"


def _check_settings(target: Target, modality: Modality) -> None:
    where, kind = f"target '{target.modality}'", modality.kind
    if target.scheme and target.scheme not in SCHEMES[kind]:
        raise MmtokError(f"{where}: scheme '{target.scheme}' does not fit a {kind}, use {' or '.join(SCHEMES[kind])}")
    if kind == "sequence":
        if target.steps is not None or target.token_schedule or target.temperature_schedule != "constant":
            raise MmtokError(f"{where}: steps and schedules belong to grids, this is a sequence; leave them out")
        if target.length is not None and target.length > modality.size:
            raise MmtokError(f"{where}: length {target.length} is above the modality's limit of {modality.size} tokens")
    else:
        if target.length is not None:
            raise MmtokError(f"{where}: length belongs to sequences, a grid has {modality.size} tokens; leave it out")
        if not target.constrained:
            raise MmtokError(f"{where}: constrained=False belongs to sequences, this is a grid; leave it out")
        if target.steps is not None and target.steps > modality.size:
            raise MmtokError(f"{where}: {target.steps} steps are more than its {modality.size} tokens")
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

"""Who shows and who is asked how many tokens: budgets and spans together, for a batch.

Sequences are planned first, since sentinels and whole units seldom fill a budget exactly; grids take what is left.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from mmtok.masking import budgets, spans
from mmtok.masking.random import Draws, Stream
from mmtok.modality import Modality

_UNLIMITED = 2**30

Group = tuple[int, ...]
"""Indices of modalities whose sequences stand in one array, one modality after the other."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What is asked of each sample of a batch, and what there is.

    Attributes:
      length: Tokens of each modality.
      input_alpha: Concentrations of the component drawn for each sample.
      target_alpha: The same for targets.
      keep: Fraction of each sequence's units that may be visible.
      whole: Samples whose modalities are visible or asked whole.
      inputs: Input budget.
      targets: Target budget.
      sequences: Those of all modalities masked in spans, by groups of their indices; B rows for each of a group.
    """

    length: Int[np.ndarray, "B m"]
    input_alpha: Float[np.ndarray, "B m"]
    target_alpha: Float[np.ndarray, "B m"]
    keep: Float[np.ndarray, "B m"]
    whole: Bool[np.ndarray, " B"]
    inputs: Int[np.ndarray, " B"]
    targets: Int[np.ndarray, " B"]
    sequences: dict[Group, spans.Sequences]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The outcome.

    Attributes:
      shown: Encoder slots of each modality.
      asked: Decoder slots of each modality.
      masked: Of each group of sequences, which tokens are masked.
      start: Of each group of sequences, the first target token asked.
    """

    shown: Int[np.ndarray, "B m"]
    asked: Int[np.ndarray, "B m"]
    masked: dict[Group, spans.Masked]
    start: dict[Group, Int[np.ndarray, " R"]]


def redistributed(draws: Draws, task: Task, modalities: tuple[Modality, ...]) -> Plan:
    """Plans so that both budgets are filled wherever the sample has material for them.

    Only present modalities with a concentration above 0 take part; if a sample has none, all that are present do. When
    a sample is too small for both budgets, grids keep back a share of tokens, proportional to the target
    budget, so that there is something to ask; and a sample that would have nothing to ask leaves at least one unit of
    each sequence masked. Hence a sample with any token has at least one input, and at least one
    target unless all it has is input-only or a single grid token.
    """
    rounding = draws.stream(Stream.ROUNDING).uniform(4)
    grid = np.array([not modality.in_spans for modality in modalities])
    askable = np.array([modality.is_target for modality in modalities])
    showable = np.array([modality.is_input for modality in modalities])
    shows = _pool((task.length > 0) & showable, task.input_alpha)
    asks = _pool((task.length > 0) & askable, task.target_alpha)
    shows, asks, whole = _whole(draws.stream(Stream.WHOLE), task, shows, asks, grid)
    shares, target_shares = _shares(draws, task.input_alpha, task.target_alpha)

    caps = np.where(shows, task.length, 0)
    material = np.where(asks, task.length, 0)
    keep = np.where(whole[:, None], 1.0, task.keep)
    orders: dict[Group, spans.Order] = {}
    kept: dict[Group, Int[np.ndarray, " R"]] = {}
    for group, sequences in task.sequences.items():
        length = sequences.length
        stream = draws.stream(Stream.ORDER).each(group).stream(0)
        orders[group] = spans.random_order(stream, sequences, keep=stacked(keep, group))
        budget = np.where(stacked(shows, group), _UNLIMITED, 0)
        kept[group], most = spans.visible(orders[group], budget, length=length)
        caps[:, group] = _apart(most, group)
        material[:, group] = _apart(spans.predictions(kept[group], most, length=length), group) * asks[:, group]
    nothing = material.sum(axis=1) == 0
    for group, sequences in task.sequences.items() if nothing.any() else ():
        rows = stacked(nothing[:, None] & asks, group)
        orders[group] = spans.hold_back(orders[group], rows, length=sequences.length)
        budget = np.where(stacked(shows, group), _UNLIMITED, 0)
        caps[:, group] = _apart(spans.visible(orders[group], budget, length=sequences.length)[1], group)

    budget = budgets.fill(shares, caps=caps, total=task.inputs, rounding=rounding[:, :1])
    shown = np.zeros_like(caps)
    for group, order in orders.items():
        length = task.sequences[group].length
        kept[group], most = spans.visible(order, stacked(budget, group), length=length)
        shown[:, group] = _apart(most, group)
        material[:, group] = _apart(spans.predictions(kept[group], most, length=length), group) * asks[:, group]
    shown += _grids_shown(shares, task, np.where(grid, caps, 0), grid & asks, shown, material, rounding[:, 1:2])

    caps = np.where(asks, np.where(grid, task.length - shown, material), 0)
    budget = budgets.fill(target_shares, caps=caps, total=task.targets, rounding=rounding[:, 2:3])
    spare = np.where(grid, caps - budget, -budget).sum(axis=1)  # room of the grids for what sequences may leave over
    asked = np.zeros_like(caps)
    masked: dict[Group, spans.Masked] = {}
    start: dict[Group, Int[np.ndarray, " R"]] = {}
    tokens = np.where(budget > 0, budget + 1, 0)  # the opening sentinel is given, not predicted
    for group, order in orders.items():
        masked[group] = spans.mask(task.sequences[group], order.rank >= kept[group][:, None])
        stream, exact = draws.stream(Stream.CROP).each(group), np.tile(spare < 0, len(group))
        start[group], count = spans.crop(stream, masked[group], budget=stacked(tokens, group), exact=exact)
        asked[:, group] = _apart(np.maximum(count - 1, 0), group)
    left = task.targets - asked.sum(axis=1)
    asked += budgets.fill(target_shares, caps=np.where(grid, caps, 0), total=left, rounding=rounding[:, 3:])
    return Plan(shown, asked, masked, start)


def reference(draws: Draws, task: Task, modalities: tuple[Modality, ...]) -> Plan:
    """Plans by the rule of the 4M reference, which leaves part of the budgets unused."""
    grid = np.array([not modality.in_spans for modality in modalities])
    sizes = np.broadcast_to([modality.size for modality in modalities], task.length.shape)
    alpha = np.maximum(task.input_alpha, 1e-9)
    budget = budgets.drop(draws.stream(Stream.INPUT_SHARES), alpha, caps=sizes, total=task.inputs)
    budget *= [modality.is_input for modality in modalities]
    caps = np.where(grid, sizes - budget, sizes)
    alpha = np.maximum(task.target_alpha, 1e-9)
    tokens = budgets.drop(draws.stream(Stream.TARGET_SHARES), alpha, caps=caps, total=task.targets)
    shown = np.where(grid, np.minimum(budget, task.length), 0)
    askable = np.array([modality.is_target for modality in modalities])
    asked = np.where(grid & askable & (task.length > 0), tokens, 0)
    masked: dict[Group, spans.Masked] = {}
    start: dict[Group, Int[np.ndarray, " R"]] = {}
    for group in task.sequences:
        masked[group], given = _redrawn(draws, task, group, stacked(budget, group))
        stream, never = draws.stream(Stream.CROP).each(group), np.zeros(len(given), bool)
        start[group], count = spans.crop(stream, masked[group], budget=stacked(tokens, group), exact=never)
        shown[:, group] = _apart(given, group)
        present = askable[list(group)] & (task.length[:, group] > 0)
        asked[:, group] = _apart(np.maximum(count - 1, 0), group) * present
    return Plan(shown, asked, masked, start)


def stacked(table: Shaped[np.ndarray, "B m"], group: Group) -> Shaped[np.ndarray, " R"]:
    """Returns the columns of a group one after the other, as its sequences stand."""
    return table[:, group].T.reshape(-1)


def _apart(values: Shaped[np.ndarray, " R"], group: Group) -> Shaped[np.ndarray, "B _g"]:
    """Returns what `stacked` was given."""
    return values.reshape(len(group), -1).T


def _shares(
    draws: Draws, inputs: Float[np.ndarray, "B m"], targets: Float[np.ndarray, "B m"]
) -> tuple[Float[np.ndarray, "B m"], Float[np.ndarray, "B m"]]:
    """Draws the logarithms of the unnormalised Dirichlet shares of both budgets."""
    alpha = np.concatenate([inputs, targets])
    both = draws.each((Stream.INPUT_SHARES, Stream.TARGET_SHARES)).log_gamma(np.where(alpha > 0, alpha, 1.0))
    return both[: len(inputs)], both[len(inputs) :]


def _pool(present: Bool[np.ndarray, "B m"], alpha: Float[np.ndarray, "B m"]) -> Bool[np.ndarray, "B m"]:
    pool = present & (alpha > 0)
    return np.where(pool.any(axis=1, keepdims=True), pool, present)


def _whole(
    draws: Draws,
    task: Task,
    shows: Bool[np.ndarray, "B m"],
    asks: Bool[np.ndarray, "B m"],
    grid: Bool[np.ndarray, " m"],
) -> tuple[Bool[np.ndarray, "B m"], Bool[np.ndarray, "B m"], Bool[np.ndarray, " B"]]:
    """Narrows both pools to disjoint random subsets in samples that go whole and have two modalities for it."""
    if not task.whole.any():
        return shows, asks, task.whole
    # One modality is set aside to be asked, so that the visible ones never leave nothing to ask.
    spare = asks & ~(shows & (shows.sum(axis=1, keepdims=True) == 1))
    priority = np.where(spare, draws.stream(0).uniform(spare.shape[1]), 0.0)
    aside = np.arange(spare.shape[1]) == priority.argmax(axis=1)[:, None]
    whole = task.whole & spare.any(axis=1) & shows.any(axis=1)
    visible = budgets.subset(draws.stream(1), shows & ~aside, cost=task.length, total=task.inputs)
    cost = np.where(grid, task.length, task.length + 1)
    hidden = budgets.subset(draws.stream(2), asks & ~visible, cost=cost, total=task.targets)
    rows = whole[:, None]
    return np.where(rows, visible, shows), np.where(rows, hidden, asks), whole


def _grids_shown(
    shares: Float[np.ndarray, "B m"],
    task: Task,
    caps: Int[np.ndarray, "B m"],
    shared: Bool[np.ndarray, "B m"],
    shown: Int[np.ndarray, "B m"],
    material: Int[np.ndarray, "B m"],
    rounding: Float[np.ndarray, "B 1"],
) -> Int[np.ndarray, "B m"]:
    """Divides what sequences left of the input budget among the grids, within what must be kept back as targets.

    Args:
      shares: Log weights.
      task: The budgets.
      caps: Tokens of the grids that may be visible.
      shared: Grids that may also be asked.
      shown: Input tokens of sequences.
      material: What can be asked if no grid shows anything.
      rounding: Uniform in (0, 1).
    """
    left = task.inputs - shown.sum(axis=1)
    result = budgets.fill(shares, caps=caps, total=left, rounding=rounding)
    total = material.sum(axis=1)
    reserve = np.minimum(task.targets, -(-total * task.targets // (task.inputs + task.targets)))
    lonely = (task.inputs == left) & (np.where(shared, 0, caps).sum(axis=1) == 0)
    limit = np.maximum(total - reserve, lonely)
    rows = np.nonzero(np.where(shared, result, 0).sum(axis=1) > limit)[0]
    if len(rows):
        caps, shared, shares, rounding = caps[rows], shared[rows], shares[rows], rounding[rows]
        most = limit[rows]
        first = budgets.fill(shares, caps=np.where(shared, caps, 0), total=most, rounding=rounding)
        rest = budgets.fill(shares, caps=np.where(shared, 0, caps), total=left[rows] - most, rounding=rounding)
        result[rows] = first + rest
    return result


def _redrawn(
    draws: Draws, task: Task, group: Group, budget: Int[np.ndarray, " R"]
) -> tuple[spans.Masked, Int[np.ndarray, " R"]]:
    """Draws masks anew, each time with nine tenths of the keep fraction, until the input fits (the 4M reference)."""
    sequences, keep = task.sequences[group], stacked(task.keep, group)
    draws = draws.stream(Stream.ORDER).each(group)
    hidden = np.zeros(sequences.ids.shape, bool)
    shown = np.zeros_like(sequences.length)
    rows = np.arange(len(hidden))
    attempt = 0
    while len(rows):
        own = sequences[rows]
        order = spans.random_order(draws[rows].stream(attempt), own, keep=keep[rows] * 0.9**attempt)
        limit = np.where(budget[rows] > 0, _UNLIMITED, 0)
        kept, shown[rows] = spans.visible(order, limit, length=own.length)
        hidden[rows] = order.rank >= kept[:, None]
        rows = rows[shown[rows] > budget[rows]]
        attempt += 1
    return spans.mask(sequences, hidden), shown

"""Who shows and who is asked how many tokens: budgets and spans together, for a batch.

Sequences are planned first, since sentinels and whole units seldom fill a budget exactly; grids take what is left.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from mmtok.masking import budgets, spans
from mmtok.masking.random import Draws, Stream
from mmtok.modality import Modality

_UNLIMITED = 2**30


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
      ids: Token ids of each sequence modality, by index.
    """

    length: Int[np.ndarray, "B m"]
    input_alpha: Float[np.ndarray, "B m"]
    target_alpha: Float[np.ndarray, "B m"]
    keep: Float[np.ndarray, "B m"]
    whole: Bool[np.ndarray, " B"]
    inputs: Int[np.ndarray, " B"]
    targets: Int[np.ndarray, " B"]
    ids: dict[int, Int[np.ndarray, "B _T"]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The outcome.

    Attributes:
      shown: Encoder slots of each modality.
      asked: Decoder slots of each modality.
      masked: Of each sequence modality, which tokens are masked.
      start: Of each sequence modality, the first target token asked.
    """

    shown: Int[np.ndarray, "B m"]
    asked: Int[np.ndarray, "B m"]
    masked: dict[int, spans.Masked]
    start: dict[int, Int[np.ndarray, " B"]]


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
    shares = draws.stream(Stream.INPUT_SHARES).log_gamma(np.where(task.input_alpha > 0, task.input_alpha, 1.0))

    caps = np.where(shows, task.length, 0)
    material = np.where(asks, task.length, 0)
    orders: dict[int, spans.Order] = {}
    kept: dict[int, Int[np.ndarray, " B"]] = {}
    for m, ids in task.ids.items():
        length = task.length[:, m]
        keep = np.where(whole, 1.0, task.keep[:, m])
        stream = draws.stream(Stream.ORDER, m, 0)
        orders[m] = spans.random_order(stream, ids, length=length, keep=keep, vocabulary=modalities[m].vocabulary)
        kept[m], caps[:, m] = spans.visible(orders[m], np.where(shows[:, m], _UNLIMITED, 0), length=length)
        material[:, m] = spans.predictions(kept[m], caps[:, m], length=length) * asks[:, m]
    nothing = material.sum(axis=1) == 0
    for m in task.ids if nothing.any() else ():
        orders[m] = spans.hold_back(orders[m], nothing & asks[:, m], length=task.length[:, m])
        budget = np.where(shows[:, m], _UNLIMITED, 0)
        caps[:, m] = spans.visible(orders[m], budget, length=task.length[:, m])[1]

    budget = budgets.fill(shares, caps=caps, total=task.inputs, rounding=rounding[:, :1])
    shown = np.zeros_like(caps)
    for m, order in orders.items():
        length = task.length[:, m]
        kept[m], shown[:, m] = spans.visible(order, budget[:, m], length=length)
        material[:, m] = spans.predictions(kept[m], shown[:, m], length=length) * asks[:, m]
    shown += _grids_shown(shares, task, np.where(grid, caps, 0), grid & asks, shown, material, rounding[:, 1:2])

    shares = draws.stream(Stream.TARGET_SHARES).log_gamma(np.where(task.target_alpha > 0, task.target_alpha, 1.0))
    caps = np.where(asks, np.where(grid, task.length - shown, material), 0)
    budget = budgets.fill(shares, caps=caps, total=task.targets, rounding=rounding[:, 2:3])
    spare = np.where(grid, caps - budget, -budget).sum(axis=1)  # room of the grids for what sequences may leave over
    asked = np.zeros_like(caps)
    masked: dict[int, spans.Masked] = {}
    start: dict[int, Int[np.ndarray, " B"]] = {}
    for m, order in orders.items():
        masked[m] = spans.mask(task.ids[m], order.rank >= kept[m][:, None], length=task.length[:, m])
        tokens = np.where(budget[:, m] > 0, budget[:, m] + 1, 0)  # the opening sentinel is given, not predicted
        start[m], count = spans.crop(draws.stream(Stream.CROP, m), masked[m], budget=tokens, exact=spare < 0)
        asked[:, m] = np.maximum(count - 1, 0)
    left = task.targets - asked.sum(axis=1)
    asked += budgets.fill(shares, caps=np.where(grid, caps, 0), total=left, rounding=rounding[:, 3:])
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
    masked: dict[int, spans.Masked] = {}
    start: dict[int, Int[np.ndarray, " B"]] = {}
    never = np.zeros(len(tokens), bool)
    for m in task.ids:
        length = task.length[:, m]
        masked[m], shown[:, m] = _redrawn(draws, task, m, modalities[m], budget[:, m])
        stream = draws.stream(Stream.CROP, m)
        start[m], count = spans.crop(stream, masked[m], budget=tokens[:, m], exact=never)
        asked[:, m] = np.maximum(count - 1, 0) * (askable[m] & (length > 0))
    return Plan(shown, asked, masked, start)


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
    draws: Draws, task: Task, m: int, modality: Modality, budget: Int[np.ndarray, " B"]
) -> tuple[spans.Masked, Int[np.ndarray, " B"]]:
    """Draws masks anew, each time with nine tenths of the keep fraction, until the input fits (the 4M reference)."""
    length, ids = task.length[:, m], task.ids[m]
    hidden = np.zeros(ids.shape, bool)
    shown = np.zeros_like(length)
    rows = np.arange(len(ids))
    attempt = 0
    while len(rows):
        order = spans.random_order(
            draws[rows].stream(Stream.ORDER, m, attempt),
            ids[rows],
            length=length[rows],
            keep=task.keep[rows, m] * 0.9**attempt,
            vocabulary=modality.vocabulary,
        )
        limit = np.where(budget[rows] > 0, _UNLIMITED, 0)
        kept, shown[rows] = spans.visible(order, limit, length=length[rows])
        hidden[rows] = order.rank >= kept[:, None]
        rows = rows[shown[rows] > budget[rows]]
        attempt += 1
    return spans.mask(ids, hidden, length=length), shown

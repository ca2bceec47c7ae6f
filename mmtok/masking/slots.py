"""Lays the planned tokens out in encoder and decoder slots."""

import numpy as np
from jaxtyping import Bool, Int, Real

from mmtok.batch import DecoderSlots, EncoderSlots, MaskedBatch, TokenBatch, TokenColumn
from mmtok.masking import grids, spans
from mmtok.masking.memory import Memory
from mmtok.masking.plan import Group, Plan, stacked
from mmtok.masking.random import Draws, Stream
from mmtok.masking.rows import ragged
from mmtok.modality import Modality

_KEPT = (np.dtype(np.uint8), np.dtype(np.float16))
"""Numbers that the device makes float32; all others are float32 when they get there."""


def lay_out(
    draws: Draws,
    plan: Plan,
    tokens: TokenBatch,
    modalities: tuple[Modality, ...],
    *,
    inputs: int,
    targets: int,
    memory: Memory,
) -> MaskedBatch:
    """Returns the batch of `inputs` encoder and `targets` decoder slots; both follow the order of `modalities`."""
    codes = np.array([modality.codes for modality in modalities])
    causal = np.array([modality.kind == "sequence" for modality in modalities])
    encoder, decoder = _Slots(plan.shown, inputs), _Slots(plan.asked, targets)
    read, asked = (np.full((codes.max(), len(slots.row)), -1, np.int32) for slots in (encoder, decoder))
    given = np.where(np.arange(codes.max())[:, None] < codes[decoder.modality], 0, -1)
    limit = np.where(causal[decoder.modality], decoder.column + 1, decoder.stop)
    _choose(draws.stream(Stream.GRID), plan, modalities, encoder, decoder)
    for group, masked in plan.masked.items():
        shown, hidden = encoder.of(group), decoder.of(group)
        own = spans.inputs(masked, shown=stacked(plan.shown, group))
        read[0, shown], encoder.place[shown], encoder.hidden[shown] = own.ids, own.place, own.hidden
        row, rank = ragged(stacked(plan.asked, group))
        sequence, place = spans.targets(masked), plan.start[group][row] + rank
        given[0, hidden], asked[0, hidden] = sequence[row, place], sequence[row, place + 1]
    vectors = {}
    for m, modality in enumerate(modalities):
        shown, hidden, column = encoder.part(m), decoder.part(m), tokens.get(modality.name)
        if modality.kind == "continuous":
            read[0, shown] = encoder.rank[shown]
            vectors[modality.name] = _vectors(memory, encoder, m, plan.shown[:, m], column, modality, most=inputs)
        elif modality.kind == "grid" and column is not None:
            rows = column.values.reshape(-1, modality.codes)
            for slots, ids, part in ((encoder, read, shown), (decoder, asked, hidden)):
                ids[: modality.codes, part] = rows[slots.row[part] * modality.size + slots.place[part]].T
    return MaskedBatch(
        encoder=EncoderSlots(
            encoder.spread(*read, fill=-1),
            encoder.spread(encoder.modality)[..., 0],
            encoder.spread(encoder.position)[..., 0],
            encoder.valid,
            vectors,
        ),
        decoder=DecoderSlots(
            decoder.spread(*given, fill=-1),
            decoder.spread(decoder.modality)[..., 0],
            decoder.spread(decoder.position)[..., 0],
            decoder.valid,
            decoder.spread(limit)[..., 0],
        ),
        targets=decoder.spread(*asked, fill=-1),
    )


class _Slots:
    """The slots in use of a batch, modality after modality and row after row.

    Attributes:
      modality: Index of each slot's modality.
      row: Sample.
      rank: Number within its modality and row.
      column: Place in its row.
      stop: Place in the row where its modality ends.
      position: See `EncoderSlots`; the rank to begin with, until grids are chosen.
      place: Which of the sample's tokens it is, to be filled.
      hidden: Whether it stands for a masked run, to be filled.
      valid: Which slots of the batch are in use.
    """

    def __init__(self, counts: Int[np.ndarray, "B m"], size: int) -> None:
        end = counts.cumsum(axis=1)
        counts, ends = counts.T.reshape(-1), end.T.reshape(-1)
        block, self.rank = ragged(counts)
        self.modality, self.row = np.divmod(block, max(len(end), 1))
        self.column = (ends - counts)[block] + self.rank
        self.stop = ends[block]
        self.position = self.rank.astype(np.int32)
        self.place = self.rank.copy()
        self.hidden = np.zeros(len(block), bool)
        self.valid = np.arange(size) < end[:, -1:]
        self._slot = self.row * size + self.column
        self._first = self.modality.searchsorted(np.arange(end.shape[1] + 1))

    def part(self, m: int) -> slice:
        """Returns where modality `m` stands."""
        return slice(self._first[m], self._first[m + 1])

    def of(self, group: Group) -> Bool[np.ndarray, " n"]:
        """Returns which slots are of a modality of the group."""
        member = np.zeros(len(self._first) - 1, bool)
        member[list(group)] = True
        return member[self.modality]

    def spread(self, *values: Int[np.ndarray, " n"], fill: int = 0) -> Int[np.ndarray, "B S K"]:
        """Returns each of K values of every slot in its place in the batch, `fill` in the others."""
        result = np.full((self.valid.size, len(values)), fill, np.int32)
        for numbers, own in zip(result.T, values):
            numbers[self._slot] = own
        return result.reshape(*self.valid.shape, len(values))


def _choose(draws: Draws, plan: Plan, modalities: tuple[Modality, ...], encoder: _Slots, decoder: _Slots) -> None:
    """Fills in the positions of grids, of all grids of one size together."""
    groups: dict[int, list[int]] = {}
    for m, modality in enumerate(modalities):
        if not modality.in_spans:
            groups.setdefault(modality.size, []).append(m)
    for size, members in groups.items():
        group = tuple(members)
        shown, asked = stacked(plan.shown, group), stacked(plan.asked, group)
        chosen = grids.choose(draws.each(group), size, shown=shown, asked=asked)
        for slots, own in ((encoder, chosen.shown), (decoder, chosen.asked)):
            here = slots.of(group)
            slots.position[here] = slots.place[here] = own


def _vectors(
    memory: Memory,
    slots: _Slots,
    m: int,
    shown: Int[np.ndarray, " B"],
    column: TokenColumn | None,
    modality: Modality,
    *,
    most: int,
) -> Real[np.ndarray, "B rows channels"]:
    """Returns the visible vectors of a continuous modality; nothing else of the column is read."""
    shape = len(shown), min(most, modality.size), modality.channels
    if column is None:
        return np.zeros(shape, np.float32)
    dtype = column.values.dtype if column.values.dtype in _KEPT else np.dtype(np.float32)
    values = column.values.astype(dtype, copy=False)
    result = memory.lend(shape, dtype, used=shown)
    part, stop = slots.part(m), shown.cumsum()
    place, hidden = slots.place[part], slots.hidden[part]
    for b in shown.nonzero()[0]:
        # With `clip` numpy writes straight into `out`, otherwise by way of a copy.
        values[b].take(place[stop[b] - shown[b] : stop[b]], axis=0, out=result[b, : shown[b]], mode="clip")
    result[slots.row[part][hidden], slots.rank[part][hidden]] = 0  # a hidden run shows one vector of zeros
    return result

"""Lays the planned tokens out in encoder and decoder slots."""

import numpy as np
from jaxtyping import Int, Real

from mmtok.batch import DecoderSlots, EncoderSlots, MaskedBatch, TokenBatch, TokenColumn
from mmtok.masking import grids, spans
from mmtok.masking.memory import Memory
from mmtok.masking.plan import Plan
from mmtok.masking.random import Draws, Stream
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
    places, vectors = draws.stream(Stream.GRID), {}
    for m, modality in enumerate(modalities):
        shown, hidden, column = encoder.part(m), decoder.part(m), tokens.get(modality.name)
        if not modality.in_spans:
            chosen = grids.choose(places.stream(m), modality.size, shown=plan.shown[:, m], asked=plan.asked[:, m])
            encoder.position[shown], decoder.position[hidden] = chosen.shown, chosen.asked
        if modality.kind == "continuous":
            read[0, shown] = encoder.rank[shown]
            vectors[modality.name] = _vectors(memory, encoder, m, plan, column, modality, most=inputs)
        elif column is None:
            continue
        elif modality.kind == "sequence":
            masked, vocabulary = plan.masked[m], modality.vocabulary
            assert vocabulary is not None
            read[0, shown] = spans.inputs(masked, shown=plan.shown[:, m], vocabulary=vocabulary)
            row, rank = decoder.row[hidden], decoder.rank[hidden]
            sequence, place = spans.targets(masked, vocabulary=vocabulary), plan.start[m][row] + rank
            given[0, hidden] = sequence[row, place]
            asked[0, hidden] = sequence[row, place + 1]
        else:
            for slots, ids, part in ((encoder, read, shown), (decoder, asked, hidden)):
                place = slots.row[part] * modality.size + slots.position[part]
                for k, values in enumerate(column.values.reshape(-1, modality.codes).T):
                    ids[k, part] = values[place]
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
      position: To be filled; the rank to begin with.
      valid: Which slots of the batch are in use.
    """

    def __init__(self, counts: Int[np.ndarray, "B m"], size: int) -> None:
        end = np.cumsum(counts, axis=1)
        counts, ends = counts.T.ravel(), end.T.ravel()
        block, self.rank = grids.ragged(counts)
        self.modality, self.row = np.divmod(block, max(len(end), 1))
        self.column = (ends - counts)[block] + self.rank
        self.stop = ends[block]
        self.position = self.rank.astype(np.int32)
        self.valid = np.arange(size) < end[:, -1:]
        self._slot = self.row * size + self.column
        self._first = np.searchsorted(self.modality, np.arange(end.shape[1] + 1))

    def part(self, m: int) -> slice:
        """Returns where modality `m` stands."""
        return slice(self._first[m], self._first[m + 1])

    def spread(self, *values: Int[np.ndarray, " n"], fill: int = 0) -> Int[np.ndarray, "B S K"]:
        """Returns each of K values of every slot in its place in the batch, `fill` in the others."""
        result = np.full((self.valid.size, len(values)), fill, np.int32)
        for numbers, own in zip(result.T, values):
            numbers[self._slot] = own
        return result.reshape(*self.valid.shape, len(values))


def _vectors(
    memory: Memory,
    slots: _Slots,
    m: int,
    plan: Plan,
    column: TokenColumn | None,
    modality: Modality,
    *,
    most: int,
) -> Real[np.ndarray, "B rows channels"]:
    """Returns the visible vectors of a continuous modality; nothing else of the column is read."""
    shown, shape = plan.shown[:, m], (len(slots.valid), min(most, modality.size), modality.channels)
    if column is None:
        return np.zeros(shape, np.float32)
    dtype = column.values.dtype if column.values.dtype in _KEPT else np.dtype(np.float32)
    values = column.values.astype(dtype, copy=False)
    result = memory.lend(shape, dtype, used=shown)
    part, stop = slots.part(m), np.cumsum(shown)
    row, rank, place = slots.row[part], slots.rank[part], slots.position[part]
    if modality.variable:
        _, place = spans.places(plan.masked[m], shown=shown)
    for b in np.nonzero(shown)[0]:
        # With `clip` numpy writes straight into `out`, otherwise by way of a copy.
        values[b].take(place[stop[b] - shown[b] : stop[b]], axis=0, out=result[b, : shown[b]], mode="clip")
    if modality.variable:
        hidden = plan.masked[m].masked[row, place]  # a hidden run shows one vector of zeros
        result[row[hidden], rank[hidden]] = 0
    return result

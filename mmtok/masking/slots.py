"""Lays the planned tokens out in encoder and decoder slots."""

import numpy as np
from jaxtyping import Int

from mmtok.batch import DecoderSlots, EncoderSlots, MaskedBatch, TokenBatch
from mmtok.masking import grids, spans
from mmtok.masking.plan import Plan
from mmtok.masking.random import Draws, Stream
from mmtok.modality import Modality


def lay_out(
    draws: Draws, plan: Plan, tokens: TokenBatch, modalities: tuple[Modality, ...], *, inputs: int, targets: int
) -> MaskedBatch:
    """Returns the batch of `inputs` encoder and `targets` decoder slots; both follow the order of `modalities`."""
    codes = max(modality.codes for modality in modalities)
    encoder, decoder = _Slots(plan.shown, inputs, codes), _Slots(plan.asked, targets, codes)
    given = np.full(decoder.ids.shape, -1, np.int32)
    limit = np.zeros(decoder.position.shape, np.int32)
    vectors = {}
    for m, modality in enumerate(modalities):
        k = modality.codes
        if modality.kind == "continuous":
            vectors[modality.name] = np.zeros(
                (len(plan.shown), min(inputs, modality.size), modality.channels), np.float32
            )
        if modality.name not in tokens:
            continue
        values = tokens[modality.name].values
        if modality.variable:
            slot, row, rank = encoder.place(m)
            encoder.position.flat[slot] = rank
            encoder.ids.reshape(-1, codes)[slot, 0] = rank
            masked = plan.masked[m]
            _, column = spans.places(masked, shown=plan.shown[:, m])
            vectors[modality.name][row, rank] = np.where(masked.masked[row, column, None], 0, values[row, column])
            continue
        if modality.kind == "sequence":
            vocabulary = modality.vocabulary
            assert vocabulary is not None
            slot, _, rank = encoder.place(m)
            encoder.position.flat[slot] = rank
            encoder.ids.reshape(-1, codes)[slot, 0] = spans.inputs(
                plan.masked[m], shown=plan.shown[:, m], vocabulary=vocabulary
            )
            slot, row, rank = decoder.place(m)
            decoder.position.flat[slot] = rank
            sequence = spans.targets(plan.masked[m], vocabulary=vocabulary)
            column = plan.start[m][row] + rank
            given.reshape(-1, codes)[slot, 0] = sequence[row, column]
            decoder.ids.reshape(-1, codes)[slot, 0] = sequence[row, column + 1]
            limit.flat[slot] = slot % targets + 1
            continue
        chosen = grids.choose(
            draws.stream(Stream.GRID, m), modality.size, shown=plan.shown[:, m], asked=plan.asked[:, m]
        )
        slot, row, rank = encoder.place(m)
        encoder.position.flat[slot] = chosen.shown
        if modality.kind == "continuous":
            encoder.ids.reshape(-1, codes)[slot, 0] = rank
            vectors[modality.name][row, rank] = values[row, chosen.shown]
            continue
        encoder.ids.reshape(-1, codes)[slot, :k] = values[row, chosen.shown]
        slot, row, rank = decoder.place(m)
        decoder.position.flat[slot] = chosen.asked
        decoder.ids.reshape(-1, codes)[slot, :k] = values[row, chosen.asked]
        given.reshape(-1, codes)[slot, :k] = 0
        limit.flat[slot] = decoder.end[row, m]
    return MaskedBatch(
        encoder=EncoderSlots(encoder.ids, encoder.modality, encoder.position, encoder.valid, vectors),
        decoder=DecoderSlots(given, decoder.modality, decoder.position, decoder.valid, limit),
        targets=decoder.ids,
    )


class _Slots:
    """Slots of a batch, filled modality after modality."""

    def __init__(self, counts: Int[np.ndarray, "B m"], size: int, codes: int) -> None:
        self.counts = counts
        self.end = np.cumsum(counts, axis=1)
        self.size = size
        self.ids = np.full((len(counts), size, codes), -1, np.int32)
        self.modality = np.zeros((len(counts), size), np.int32)
        self.position = np.zeros((len(counts), size), np.int32)
        self.valid = np.arange(size) < self.end[:, -1:]

    def place(self, m: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Returns (flat slot, row, rank within the row) of each slot of modality `m`, and marks them as its own."""
        counts = self.counts[:, m]
        row, rank = grids.ragged(counts)
        slot = row * self.size + (self.end[:, m] - counts)[row] + rank
        self.modality.flat[slot] = m
        return slot, row, rank

"""A variable number of vectors (a text encoder's outputs): tokenizer, masking in spans, and what a sampler shows."""

import numpy as np
import pytest

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.generate import Known
from mmtok.generate.context import encoder_slots, show
from mmtok.masking import Component, Masker, MaskingConfig, Role
from mmtok.modality import Modality, Vocabulary
from mmtok.tokenizers.embeddings import EmbeddingConfig, EmbeddingTokenizer
from mmtok.tokenizers.ids import IdConfig, IdTokenizer

VECTORS = EmbeddingTokenizer(name="t5", source="t5", config=EmbeddingConfig(length=6, channels=3))
GRID = Modality(name="grid", kind="grid", shape=(4,), vocabulary=Vocabulary(size=9))
HINT = Modality(name="hint", kind="grid", shape=(4,), vocabulary=Vocabulary(size=9), role="input")
ANSWER = Modality(name="answer", kind="grid", shape=(4,), vocabulary=Vocabulary(size=9), role="target")


def vectors(count: int) -> np.ndarray:
    return np.arange(1, 3 * count + 1, dtype=np.float32).reshape(count, 3)


def test_vectors_are_taken_and_given_as_they_are():
    column = VECTORS.encode([vectors(2), None, vectors(8)])
    assert column.length.tolist() == [2, 0, 6]
    first, absent, last = VECTORS.decode(column)
    np.testing.assert_array_equal(first, vectors(2))
    assert absent is None
    np.testing.assert_array_equal(last, vectors(8)[:6])
    with pytest.raises(MmtokError, match=r"sample 0 of the batch: expected numbers \(n, 3\), found float32 of shape"):
        VECTORS.encode([np.zeros((2, 4), np.float32)])


@pytest.mark.parametrize("redistribute", [True, False])
def test_hidden_runs_show_one_zero_vector_each(redistribute):
    batch = 400
    items = (VECTORS.modality, GRID, HINT, ANSWER)
    column = VECTORS.encode([vectors(5)] * batch)
    grid = TokenColumn(np.zeros((batch, 4, 1), np.int32), np.full(batch, 4, np.int32))
    config = MaskingConfig(
        input_tokens=12, target_tokens=8, components=(Component(default=Role()),), redistribute=redistribute
    )
    data = {"t5": column, "grid": grid, "hint": grid, "answer": grid}
    masked = Masker(config, items)(data, seed=0, step=0, samples=np.arange(batch))
    encoder = masked.encoder
    counts = set()
    for row in range(batch):
        slots = np.flatnonzero(encoder.valid[row] & (encoder.modality[row] == 0))
        assert encoder.position[row, slots].tolist() == list(range(len(slots)))
        shown = encoder.vectors["t5"][row, encoder.ids[row, slots, 0]]
        hidden = np.logical_not(np.any(shown, axis=1))
        assert not (hidden[1:] & hidden[:-1]).any()
        kept = shown[~hidden]
        assert (np.diff(kept[:, 0]) > 0).all()
        assert {tuple(vector) for vector in kept} <= {tuple(vector) for vector in vectors(5)}
        counts.add(len(slots))
    assert len(counts) > 3
    asked = set(masked.decoder.modality[masked.decoder.valid].tolist())
    assert asked == {1, 3}  # neither vectors nor what is an input only
    assert 3 not in encoder.modality[encoder.valid]


def test_a_sampler_shows_what_is_given_or_one_zero_vector():
    item = VECTORS.modality
    known = Known.whole(VECTORS.encode([vectors(2), vectors(3)]))
    shown = show(known, item, asked=np.ones(2, bool))
    assert shown.valid.sum(1).tolist() == [2, 3]
    shown = show(known.hidden(), item, asked=np.array([True, False]))
    assert shown.valid.sum(1).tolist() == [1, 0]
    slots = encoder_slots({"t5": shown}, (item, GRID), rows=2)
    assert slots.position[0, 0] == 0
    assert not slots.vectors["t5"][0, slots.ids[0, 0, 0]].any()
    answer = Known(np.zeros((2, 4, 1), np.int32), np.ones((2, 4), bool))
    assert not show(answer, ANSWER, asked=np.ones(2, bool)).valid.any()


def test_ids_of_grids_and_sequences():
    grid = IdTokenizer(name="g", source="g", config=IdConfig(kind="grid", shape=(2, 3), vocabulary=Vocabulary(size=9)))
    column = grid.encode([np.arange(6).reshape(2, 3), None, np.arange(6)])
    assert column.length.tolist() == [6, 0, 6]
    np.testing.assert_array_equal(grid.decode(column)[0], np.arange(6).reshape(2, 3))
    assert grid.decode(column)[1] is None
    for wrong in (np.arange(5), np.full((2, 3), 9), np.zeros((2, 3))):
        with pytest.raises(MmtokError, match="sample 0 of the batch: expected 2 x 3 token ids below 9, found"):
            grid.encode([wrong])
    words = Vocabulary(size=90, sentinel_count=20)
    text = IdTokenizer(name="t", source="t", config=IdConfig(kind="sequence", shape=(5,), vocabulary=words))
    column = text.encode([np.array([40, 41]), None])
    assert column.values[0, :, 0].tolist() == [40, 41, 3, 0, 0]
    assert text.decode(column)[0].tolist() == [40, 41]
    with pytest.raises(MmtokError, match="expected < 5 token ids below 90"):
        text.encode([np.arange(40, 45)])

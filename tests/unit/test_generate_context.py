"""What the model is shown, against slots written out by hand; gaps of sequences."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtok.batch import TokenColumn
from mmtok.generate.context import bucket, causal_slot, encoder_slots, grid_queries, show
from mmtok.generate.known import Known
from mmtok.generate.spans import fill, free_tokens, gaps
from mmtok.modality import Modality, Vocabulary

TEXT = Vocabulary(size=40, sentinel_first=4, sentinel_count=10)  # words from 14 on
PIXELS = Modality(name="pixels", kind="continuous", shape=(2, 2), channels=3)
WORDS = Modality(name="words", kind="sequence", shape=(6,), vocabulary=TEXT)
GRID = Modality(name="grid", kind="grid", shape=(2, 2), vocabulary=Vocabulary(size=9), codes=2)
MODALITIES = (PIXELS, WORDS, GRID)
YES = np.ones(1, bool)


def words(tokens: list[int], visible: str) -> Known:
    """One sentence; `visible` marks known positions with x."""
    values = np.array([*tokens, *[0] * (6 - len(tokens))]).reshape(1, 6, 1)
    return Known(values, np.array([[mark == "x" for mark in visible.ljust(6, ".")]]))


@pytest.mark.parametrize(
    ("known", "asked", "ids"),
    [
        (words([20, 21, 3], "xxx"), True, [20, 21, 3]),  # whole
        (words([], ""), True, [5]),  # pending: sentinel 1
        (words([], ""), False, []),  # absent
        (words([20, 21], "xx"), True, [20, 21, 5]),  # what follows is open
        (words([20, 0, 0, 22, 3], "x..xx"), True, [20, 5, 22, 3]),  # one gap of any length
        (words([0, 21, 0, 22], ".x.x"), True, [5, 21, 6, 22, 7]),
        (words([20, 21, 22, 23, 24, 25], "xxxxxx"), True, [20, 21, 22, 23, 24, 25]),  # full, no end id
    ],
)
def test_sequences_show_known_tokens_and_a_sentinel_per_gap(known, asked, ids):
    shown = show(known, WORDS, asked=np.array([asked]))
    assert shown.values[shown.valid][:, 0].tolist() == ids
    assert shown.position[shown.valid].tolist() == list(range(len(ids)))  # rank among the visible tokens


def test_encoder_slots_by_hand():
    pixels = Known(np.arange(12, dtype=np.float32).reshape(1, 4, 3), np.array([[True, False, True, False]]))
    grid = Known(np.array([[[1, 2], [3, 4], [5, 6], [7, 8]]]), np.array([[False, True, True, False]]))
    parts = {"grid": grid, "words": words([20, 21, 3], "x.x"), "pixels": pixels}
    items = {modality.name: modality for modality in MODALITIES}
    shown = {name: show(known, items[name], asked=YES) for name, known in parts.items()}
    slots = encoder_slots(shown, MODALITIES, rows=1)
    used = 7
    assert slots.valid.sum() == used
    assert slots.valid[0, :used].all()
    assert slots.modality[0, :used].tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert slots.position[0, :used].tolist() == [0, 2, 0, 1, 2, 1, 2]
    assert slots.ids[0, :used].tolist() == [[0, -1], [2, -1], [20, -1], [5, -1], [3, -1], [3, 4], [5, 6]]
    assert (slots.vectors["pixels"] == pixels.values).all()
    assert slots.ids.shape == (1, 14, 2)  # never more than there is
    assert not slots.ids[0, used:].any()
    assert {part.dtype for part in (slots.ids, slots.modality, slots.position)} == {np.dtype(np.int32)}


def test_nothing_known_gives_one_empty_bucket():
    slots = encoder_slots({}, MODALITIES, rows=3)
    assert slots.ids.shape == (3, 1, 2)
    assert not slots.valid.any()


def test_queries_and_a_causal_slot():
    queries = grid_queries(np.array([[3, 0], [1, 0]]), np.array([[True, True], [True, False]]), GRID, index=2, codes=2)
    assert queries.position.tolist() == [[3, 0, 0, 0], [1, 0, 0, 0]]  # the grid has no more than 4 positions
    assert queries.valid.sum(1).tolist() == [2, 1]
    assert queries.limit.tolist() == [[2] * 4, [1] * 4]
    assert queries.modality.tolist() == [[2, 2, 0, 0], [2, 0, 0, 0]]
    causal = causal_slot(jnp.array([7, 8]), jnp.int32(3), WORDS, index=1, codes=2)
    assert causal.ids.tolist() == [[[7, -1]], [[8, -1]]]
    assert causal.position.tolist() == [[3], [3]]
    assert causal.limit.tolist() == [[4], [4]]


@given(st.integers(0, 5000), st.sampled_from([1, 8, 32]))
def test_buckets_fit_and_are_few(count, step):
    size = bucket(count, step=step)
    assert size >= max(count, 1)
    assert size % step == 0
    assert size - count <= max(step, count / 3)
    assert bucket(size, step=step) == size


def test_there_are_few_buckets():
    assert len({bucket(count, step=32) for count in range(4097)}) <= 24
    assert {bucket(count, step=8) for count in range(33)} == {8, 16, 24, 32}


def said(*log_probs: float) -> np.ndarray:
    numbers = np.array([log_probs], np.float32)
    return np.stack([numbers, -2 * numbers], axis=-1)


def test_spans_fill_their_gaps():
    known = words([20, 0, 21], "x.x")
    found = gaps(known, WORDS, asked=YES)
    assert (found.count.tolist(), found.open.tolist()) == ([2], [True])
    assert free_tokens(known, found, longest=6).tolist() == [3]  # one place is kept for the end id
    spans = np.array([[30, 31, 6, 32, 3, 0, 0]])
    filled = fill(known, found, WORDS, spans=spans, said=said(*(-np.arange(7.0) - 1)))
    assert filled.column.values[0, :, 0].tolist() == [20, 30, 31, 21, 32, 3]
    assert filled.column.length.tolist() == [6]
    assert filled.log_probs[0, :, 0].tolist() == [0, -1, -2, 0, -4, -5]
    assert filled.entropies[0, :, 0].tolist() == [0, 2, 4, 0, 8, 10]


def test_a_span_closed_without_end_id_gets_one():
    known = words([20], "x")
    found = gaps(known, WORDS, asked=YES)
    filled = fill(known, found, WORDS, spans=np.array([[30, 6, 0]]), said=said(-1, -2, 0))
    assert filled.column.values[0, :, 0].tolist() == [20, 30, 3, 0, 0, 0]
    assert filled.column.length.tolist() == [3]
    assert filled.log_probs[0, :, 0].tolist() == [0, -1, -2, 0, 0, 0]


def test_empty_spans():
    known = words([20, 0, 3], "x.x")
    found = gaps(known, WORDS, asked=YES)
    assert not found.open.any()
    filled = fill(known, found, WORDS, spans=np.array([[6, 0]]), said=said(-1, 0))
    assert filled.column.values[0, :, 0].tolist() == [20, 3, 0, 0, 0, 0]
    assert not filled.log_probs.any()


def test_columns_become_known():
    column = TokenColumn(np.array([[[20], [3], [0], [0], [0], [0]], [[0]] * 6]), np.array([2, 0], np.int32))
    known = Known.whole(column)
    assert known.visible.sum(1).tolist() == [2, 0]
    assert known.present.tolist() == [True, False]

"""Sample order and batches: every sample once per epoch, the same on any number of processes."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtok.batch import DecoderSlots, EncoderSlots, MaskedBatch, TokenColumn
from mmtok.data import ArrayBatches, Store, TokenBatches, tokenize
from mmtok.data.shuffle import Order, permute
from mmtok.errors import MmtokError
from mmtok.modality import Modality, Vocabulary
from mmtok.source import Sample

MODALITY = Modality(name="number", kind="grid", shape=(3,), vocabulary=Vocabulary(size=1000), source="number")


class Numbers:
    """Sample i is the number i; its tokens are i three times."""

    modality = MODALITY
    fields = ("number",)

    def __len__(self):
        return 23

    def key(self, index):
        return str(index)

    def read(self, indices, fields) -> list[Sample]:
        return [{"number": index} for index in indices]

    def encode(self, values):
        ids = np.repeat(np.array(values, np.int32), 3).reshape(-1, 3, 1)
        return TokenColumn(ids, np.full(len(values), 3, np.int32))

    def decode(self, column):
        return column.values[:, 0, 0].tolist()


def masker(tokens, *, seed, step, samples):
    """Shows all tokens; the targets tell what the masker was given."""
    ids = tokens["number"].values
    zeros, valid = np.zeros(ids.shape[:2], np.int32), np.ones(ids.shape[:2], bool)
    asked = np.stack([samples, np.full_like(samples, seed), np.full_like(samples, step)], axis=1)
    return MaskedBatch(
        encoder=EncoderSlots(ids=ids, modality=zeros, position=zeros, valid=valid, vectors={}),
        decoder=DecoderSlots(ids=ids, modality=zeros, position=zeros, valid=valid, limit=zeros),
        targets=asked[:, :, None],
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers")
    tokenize(Numbers(), [Numbers()], folder=folder, split="train")
    return Store(folder)


@given(size=st.integers(1, 5000), seed=st.integers(0, 2**32), epoch=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_permutation_is_a_bijection(size, seed, epoch):
    image = permute(np.arange(size), size=size, seed=seed, epoch=epoch)
    np.testing.assert_array_equal(np.sort(image), np.arange(size))


@given(size=st.integers(100, 5000), seed=st.integers(0, 2**31), epoch=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_permutation_differs_by_seed_and_epoch(size, seed, epoch):
    def image(seed, epoch):
        return permute(np.arange(size), size=size, seed=seed, epoch=epoch)

    base = image(seed, epoch)
    for other in (image(seed + 1, epoch), image(seed, epoch + 1), np.arange(size)):
        assert np.mean(base == other) < 0.1


def test_permutation_needs_no_more_than_the_indices_asked_for():
    size = 10**12
    asked = np.array([0, 1, 2, 10**11, size - 1])
    image = permute(asked, size=size, seed=1, epoch=0)
    assert len(set(image.tolist())) == 5
    assert image.min() >= 0
    assert image.max() < size
    with pytest.raises(IndexError, match=r"outside 0\.\.9"):
        permute(np.array([10]), size=10, seed=0, epoch=0)


def test_permutation_looks_random():
    """Position and value are uncorrelated, every value lands everywhere (chi-squared over many keys)."""
    images = np.stack([permute(np.arange(12), size=12, seed=seed, epoch=0) for seed in range(3000)])
    counts = np.stack([np.bincount(images[:, place], minlength=12) for place in range(12)])
    statistic = np.sum((counts - 250) ** 2 / 250)
    assert statistic < 121 + 5 * np.sqrt(2 * 121)
    large = permute(np.arange(10_000), size=10_000, seed=3, epoch=0)
    assert abs(np.corrcoef(np.arange(10_000), large)[0, 1]) < 0.05
    assert abs(np.corrcoef(large[1:], large[:-1])[0, 1]) < 0.05


@given(size=st.integers(1, 40), rows=st.integers(1, 8), processes=st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_epochs_cover_every_sample_once_on_any_number_of_processes(size, rows, processes):
    batch_size = rows * processes
    order = Order(size=size, batch_size=batch_size, seed=5)
    blocks = np.arange(batch_size).reshape(processes, rows)
    steps = -(-3 * size // batch_size)
    seen = []
    for step in range(steps):
        together = np.concatenate([order.indices(order.ordinals(step, block)) for block in blocks])
        np.testing.assert_array_equal(together, order.indices(order.ordinals(step)))
        seen.append(together)
    stream = np.concatenate(seen)[: 3 * size].reshape(3, size)
    for epoch in stream:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(size))


def test_token_batches_are_pure_in_the_step(store):
    batches = TokenBatches(store, "train", batch_size=10, seed=7, masker=masker)
    again = TokenBatches(store, "train", batch_size=10, seed=7, masker=masker)
    backwards = [again(step) for step in reversed(range(6))][::-1]
    seen = []
    for step, other in enumerate(backwards):
        batch = batches(step)
        np.testing.assert_array_equal(batch.encoder.ids, other.encoder.ids)
        np.testing.assert_array_equal(batch.targets, other.targets)
        np.testing.assert_array_equal(batch.targets[:, 0, 0], np.arange(step * 10, step * 10 + 10))
        assert set(batch.targets[:, 1, 0]) == {7}
        assert set(batch.targets[:, 2, 0]) == {step}
        seen.extend(batch.encoder.ids[:, 0, 0].tolist())
    assert sorted(seen[:23]) == list(range(23))
    assert sorted(seen[23:46]) == list(range(23))
    assert seen[:23] != seen[23:46]


def test_processes_share_a_batch(store):
    batches = TokenBatches(store, "train", batch_size=8, seed=1, masker=masker)
    whole = batches(3)
    parts = [batches(3, rows) for rows in np.arange(8).reshape(4, 2)]
    for name in ("ids", "valid"):
        together = np.concatenate([np.asarray(getattr(part.encoder, name)) for part in parts])
        np.testing.assert_array_equal(together, getattr(whole.encoder, name))
    np.testing.assert_array_equal(np.concatenate([np.asarray(part.targets) for part in parts]), whole.targets)


def test_unknown_split_is_named(store):
    with pytest.raises(MmtokError, match=r"unknown split .*'validation'"):
        TokenBatches(store, "validation", batch_size=2, seed=0, masker=masker)


def test_array_batches_follow_the_same_order(store):
    tokens = TokenBatches(store, "train", batch_size=6, seed=3, masker=masker)
    numbers = ArrayBatches(np.arange(23), batch_size=6, seed=3)
    pairs = ArrayBatches({"a": np.arange(23), "b": np.arange(46).reshape(23, 2)}, batch_size=6, seed=3)
    for step in range(8):
        expected = np.asarray(tokens(step).encoder.ids)[:, 0, 0]
        np.testing.assert_array_equal(numbers(step), expected)
        np.testing.assert_array_equal(pairs(step)["a"], expected)
        np.testing.assert_array_equal(pairs(step)["b"][:, 1], 2 * expected + 1)
    with pytest.raises(MmtokError, match=r"one and the same positive length"):
        ArrayBatches({"a": np.zeros(3), "b": np.zeros(4)}, batch_size=2, seed=0)


def test_modality_name_carries_no_meaning(tmp_path):
    other = Numbers()
    other.modality = dataclasses.replace(MODALITY, name="rgb@224 (odd)")
    tokenize(Numbers(), [other], folder=tmp_path, split="train")
    np.testing.assert_array_equal(Store(tmp_path).read("train", [4])["rgb@224 (odd)"].values.ravel(), [4, 4, 4])

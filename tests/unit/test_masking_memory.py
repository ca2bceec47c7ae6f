"""Memory that is lent again: never while somebody can see it, and always zero where it should be."""

import gc

import jax
import numpy as np
import pytest

from mmtok.batch import TokenColumn
from mmtok.masking import Masker, MaskingConfig
from mmtok.masking.memory import Memory
from mmtok.modality import Modality

FLOAT = np.dtype(np.float32)


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_what_comes_back_is_lent_with_zeros_behind_the_rows_in_use(dtype):
    memory, rng, places = Memory(), np.random.default_rng(0), set()
    for _ in range(50):
        used = rng.integers(0, 7, 4)
        array = memory.lend((4, 6, 3), np.dtype(dtype), used=used)
        assert array.dtype == dtype
        assert array.shape == (4, 6, 3)
        places.add(address(array))
        for sample, count in enumerate(used):
            assert not array[sample, count:].any()
            array[sample, :count] = 7
        del array
    assert len(places) == 1


@pytest.mark.parametrize(
    "view",
    [
        lambda array: array[1:][:, 2:],
        lambda array: array.reshape(-1)[-3:],
        lambda array: np.broadcast_to(array.T, (2, 3, 6, 4)),
        lambda array: memoryview(array),
        lambda array: array.view(np.uint8)[..., 0],
    ],
)
def test_nothing_is_lent_while_a_view_of_it_is_left(view):
    memory, used = Memory(), np.full(4, 6)
    array = memory.lend((4, 6, 3), FLOAT, used=used)
    first, kept = address(array), view(array)
    del array
    gc.collect()
    assert address(memory.lend((4, 6, 3), FLOAT, used=used)) != first
    del kept
    gc.collect()
    both = [memory.lend((4, 6, 3), FLOAT, used=used) for _ in range(2)]
    assert first in map(address, both)


def test_arrays_of_another_shape_or_dtype_are_other_memory():
    memory, used = Memory(), np.full(4, 1)
    for shape, dtype in (((4, 6, 3), "float32"), ((4, 3, 6), "float32"), ((4, 6, 6), "float16")):
        array = memory.lend(shape, np.dtype(dtype), used=used)
        assert array.shape == shape
        assert not array[:, 1:].any()
        array[:, :1] = 1


def test_batches_that_are_kept_stay_as_they_are():
    modalities = (
        Modality(name="patches", kind="continuous", shape=(3, 4), channels=5),
        Modality(name="text", kind="continuous", shape=(12,), channels=5, variable=True),
    )
    masker, rng = Masker(MaskingConfig(input_tokens=14, target_tokens=2), modalities), np.random.default_rng(0)
    tokens = {
        modality.name: TokenColumn(rng.normal(size=(8, 12, 5)).astype(np.float32), np.full(8, 12, np.int32))
        for modality in modalities
    }

    def batch(step):
        return masker(tokens, seed=0, step=step, samples=np.arange(8)).encoder.vectors

    kept, copies = [], []
    for step in range(20):
        vectors = batch(step)
        if step % 3 == 0:
            kept.append({name: array[2:, 1:] for name, array in vectors.items()})
            copies.append({name: array.copy() for name, array in kept[-1].items()})
    for held, copy, step in zip(kept, copies, range(0, 20, 3), strict=True):
        for name, array in batch(step).items():
            np.testing.assert_array_equal(held[name], copy[name])
            np.testing.assert_array_equal(array[2:, 1:], copy[name])


@pytest.mark.parametrize("shape", [(4, 6, 3), (8, 64, 64), (32, 16, 256)])
def test_what_jax_was_given_stays_as_it_is(shape):
    memory, used = Memory(), np.full(shape[0], shape[1])
    given = []
    for number in range(20):
        array = memory.lend(shape, FLOAT, used=used)
        array[:] = number
        given.append(jax.device_put(array))
        del array
    for number, array in enumerate(given):
        assert (np.asarray(array) == number).all()

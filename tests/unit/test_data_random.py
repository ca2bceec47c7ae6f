"""Random tokens look like real ones."""

import dataclasses

import numpy as np
import pytest

from mmtok.data.random import random_tokens
from mmtok.data.tokenize import stored_dtype
from mmtok.modality import Modality, Vocabulary
from mmtok.project import load_project, plan_training
from mmtok.tokenizers.artifact import create

PIXELS = Modality(name="pixels", kind="continuous", shape=(4, 4), channels=48, mean=(120.0, 60.0, 10.0), std=(20.0,))


def draw(*modalities, **dtypes):
    return random_tokens(modalities, samples=200, seed=0, dtypes={name: np.dtype(d) for name, d in dtypes.items()})


def test_bytes_have_the_mean_and_deviation_of_the_modality_and_stay_in_range():
    values = draw(PIXELS, pixels="uint8")["pixels"].values
    assert values.dtype == np.uint8
    np.testing.assert_allclose(values.reshape(-1, 3).mean(axis=0)[:2], (120, 60), atol=0.5)
    np.testing.assert_allclose(values.reshape(-1, 3).std(axis=0)[:2], 20, atol=0.5)
    assert (values.reshape(-1, 3)[:, 2] == 0).mean() == pytest.approx(0.32, abs=0.02)  # clipped, not wrapped


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_vectors_have_the_dtype_asked_for_and_variable_ones_every_length(dtype):
    text = Modality(name="text", kind="continuous", shape=(7,), channels=64, variable=True)
    column = draw(text, text=dtype)["text"]
    assert column.values.dtype == dtype
    assert set(column.length) == set(range(1, 8))
    used = np.arange(7) < column.length[:, None]
    assert not column.values[~used].any()
    np.testing.assert_allclose(column.values[used].astype(np.float32).std(), 1, atol=0.05)


def test_sequences_end_and_hold_no_special_ids():
    words = Vocabulary(size=300, sentinel_count=20)
    column = draw(Modality(name="words", kind="sequence", shape=(9,), vocabulary=words))["words"]
    for ids, length in zip(column.values[..., 0], column.length):
        assert ids[length - 1] == words.end
        assert (ids[: length - 1] >= words.sentinel_first + words.sentinel_count).all()
        assert not ids[length:].any()


@pytest.mark.parametrize(
    ("name", "expected"), [("quickstart", {"pixels": "uint8"}), ("pods_xl", {"rgb": "uint8", "t5_caption": "float32"})]
)
def test_a_planned_batch_has_the_vectors_that_the_store_would_give(name, expected, tmp_path):
    project = dataclasses.replace(load_project(name), root=tmp_path, batch_size=2)
    vectors = plan_training(project).batch(0, np.arange(2)).encoder.vectors
    dtypes = {name: array.dtype.name for name, array in vectors.items()}
    tokenizers = {n: create(name=n, source="x", config=project.modalities[n].tokenizer) for n in vectors}
    assert dtypes == {name: stored_dtype(tokenizer).name for name, tokenizer in tokenizers.items()}
    assert dtypes == expected

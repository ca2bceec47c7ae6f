from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtok.errors import MmtokError
from mmtok.tokenizers.artifact import create, load
from mmtok.tokenizers.features import FeatureConfig
from mmtok.tokenizers.pixels import PixelConfig
from mmtok.tokenizers.scalars import ScalarConfig, ScalarTokenizer

VECTORS = list(np.random.default_rng(0).gamma(2, size=(500, 3)).astype(np.float32) * (1, 10, 0))


def scalars(**changes: Any) -> ScalarTokenizer:
    tokenizer = create(name="camera", source="camera", config=ScalarConfig(**{"length": 3, "bins": 20, **changes}))
    assert isinstance(tokenizer, ScalarTokenizer)
    return tokenizer.fit(VECTORS)


def test_quantile_bins_hold_equally_many_values_and_decode_to_their_mean():
    tokenizer = scalars()
    tokens = tokenizer.encode(VECTORS)
    assert tokens.values.shape == (500, 3, 1)
    counts = np.bincount(tokens.values[:, 0, 0], minlength=20)
    assert counts.min() >= 24
    assert counts.max() <= 26
    decoded = np.stack(tokenizer.decode(tokens))
    values = np.stack(VECTORS)
    for id in range(20):
        mine = tokens.values[:, 0, 0] == id
        np.testing.assert_allclose(decoded[mine, 0], values[mine, 0].mean(), rtol=1e-5)
    np.testing.assert_array_equal(decoded[:, 2], 0)
    assert decoded.dtype == np.float32


def test_linear_bins_have_equal_widths():
    tokenizer = scalars(spacing="linear")
    values, decoded = np.stack(VECTORS), np.stack(tokenizer.decode(tokenizer.encode(VECTORS)))
    widths = np.diff(tokenizer.arrays["edges"][0])
    np.testing.assert_allclose(widths, widths[0], rtol=1e-3)
    assert np.abs(decoded - values)[:, 0].max() <= widths[0] * 1.001


@settings(max_examples=30, deadline=None)
@given(
    vector=st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3),
    spacing=st.sampled_from(["quantile", "linear"]),
)
def test_any_vector_is_encoded_in_order_of_its_entries(vector: list[float], spacing: str):
    tokenizer = scalars(spacing=spacing)
    low, high = tokenizer.encode([np.array(vector, np.float32), np.array(vector, np.float32) + 1]).values
    assert (low >= 0).all()
    assert (low <= high).all()
    assert (high < 20).all()


def test_scalar_artifact(tmp_path: Path):
    scalars().save(tmp_path / "camera")
    loaded = load(tmp_path / "camera")
    assert loaded.modality == scalars().modality
    assert loaded.modality.shape == (3,)
    np.testing.assert_array_equal(loaded.encode(VECTORS).values, scalars().encode(VECTORS).values)
    tokens = loaded.encode([None, VECTORS[0]])
    assert tokens.length.tolist() == [0, 3]
    assert loaded.decode(tokens)[0] is None
    assert loaded.code_vectors() is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(4, np.float32), r"expected 3 finite numbers, found float32 of shape \(4,\)"),
        (np.array([0, np.nan, 0], np.float32), "expected 3 finite numbers, found nan"),
        (np.array(["a", "b", "c"]), "expected 3 finite numbers, found <U1"),
    ],
)
def test_bad_scalars(value: np.ndarray, message: str):
    with pytest.raises(MmtokError, match=f"'camera', sample 0 of the batch: {message}"):
        scalars().encode([value])
    with pytest.raises(MmtokError, match="no values to fit to"):
        scalars().fit([None])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), channels=st.sampled_from([1, 3]), patch=st.sampled_from([1, 2, 4]))
def test_pixels_are_exact_and_ordered(seed: int, channels: int, patch: int):
    tokenizer = create(name="pixels", source="rgb", config=PixelConfig(size=8, patch=patch, channels=channels))
    shape = (5, 8, 8) if channels == 1 else (5, 8, 8, channels)
    images = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    tokens = tokenizer.encode(list(images))
    grid = 8 // patch
    assert tokens.values.dtype == np.uint8
    assert tokens.values.shape == (5, grid * grid, patch * patch * channels)
    for position in range(grid * grid):
        row, column = position // grid * patch, position % grid * patch
        cut = images[:, row : row + patch, column : column + patch]
        np.testing.assert_array_equal(tokens.values[:, position], cut.reshape(5, -1))
    np.testing.assert_array_equal(tokenizer.decode(tokens), images)


def test_pixel_modality():
    tokenizer = create(name="pixels", source="rgb", config=PixelConfig(size=8, patch=4, mean=(1.0, 2.0, 3.0)))
    modality = tokenizer.modality
    assert (modality.kind, modality.shape, modality.channels, modality.source) == ("continuous", (2, 2), 48, "rgb")
    assert modality.mean == (1.0, 2.0, 3.0)
    tokens = tokenizer.encode([None, np.zeros((8, 8, 3), np.uint8)])
    assert tokens.length.tolist() == [0, 4]
    assert tokenizer.decode(tokens)[0] is None


def test_feature_maps_are_standardised_by_the_data():
    rng = np.random.default_rng(0)
    maps = list(rng.normal((5, -3), (2, 0.1), (100, 4, 4, 2)).astype(np.float32))
    tokenizer: Any = create(name="feature", source="feature", config=FeatureConfig(size=4, channels=2))
    with pytest.raises(MmtokError, match="must be fitted"):
        tokenizer.inputs(np.stack(maps))
    fitted = tokenizer.fit(maps)
    seen = np.asarray(fitted.inputs(np.stack(maps)))
    np.testing.assert_allclose(seen.mean(axis=(0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(seen.std(axis=(0, 1, 2)), 1, atol=1e-3)
    np.testing.assert_allclose(fitted.values(seen), np.stack(maps), rtol=1e-4)

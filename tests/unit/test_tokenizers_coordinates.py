from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.tokenizers.artifact import create, load
from mmtok.tokenizers.coordinates import (
    BoxConfig,
    BoxTokenizer,
    MetadataConfig,
    MetadataTokenizer,
    PaletteConfig,
    PaletteTokenizer,
)

LABELS = ("cone", "cube", "small sphere")


def boxes(**changes: Any) -> BoxTokenizer:
    config = BoxConfig(**{"boxes": 3, "bins": 11, "labels": LABELS, "sentinels": 20, **changes})
    tokenizer = create(name="box", source="box", config=config)
    assert isinstance(tokenizer, BoxTokenizer)
    return tokenizer.fit([])


def palettes(**changes: Any) -> PaletteTokenizer:
    tokenizer = create(name="palette", source="palette", config=PaletteConfig(**{"sentinels": 20, **changes}))
    assert isinstance(tokenizer, PaletteTokenizer)
    return tokenizer


RANGES = {"brightness": (0.0, 255.0), "objects": (0.0, 49.0), "share": (-1.0, 1.0)}


def metadata(**changes: Any) -> MetadataTokenizer:
    tokenizer = create(
        name="meta", source="meta", config=MetadataConfig(**{"ranges": RANGES, "sentinels": 20, **changes})
    )
    assert isinstance(tokenizer, MetadataTokenizer)
    return tokenizer.fit([])


def column(ids: list[int], length: int) -> TokenColumn:
    values = np.zeros((1, length, 1), np.int32)
    values[0, : len(ids), 0] = ids
    return TokenColumn(values, np.array([len(ids)], np.int32))


# 4 specials, 20 sentinels, then 11 bins of v0, v1, v2, v3 from 24, 35, 46, 57, then the labels from 68
CUBE = {"label": "cube", "box": [0.0, 0.2, 0.5, 1.0]}
CUBE_IDS = [24, 37, 51, 67, 69]


def test_box_ids_follow_the_layout():
    tokens = boxes().encode([[CUBE], [], None])
    assert tokens.values[0, :, 0].tolist() == [*CUBE_IDS, 3] + [0] * 10
    assert tokens.values[1, :, 0].tolist() == [3] + [0] * 15
    assert tokens.length.tolist() == [6, 1, 0]
    vocabulary = boxes().modality.vocabulary
    assert vocabulary is not None
    assert (vocabulary.size, vocabulary.sentinel_first, vocabulary.sentinel_count) == (71, 4, 20)
    assert boxes().decode(tokens) == [[CUBE], [], None]


ANY_BOX = st.tuples(st.sampled_from(LABELS), st.lists(st.integers(0, 100), min_size=4, max_size=4)).map(
    lambda pair: {
        "label": pair[0],
        "box": [
            min(pair[1][0], pair[1][2]) / 100,
            min(pair[1][1], pair[1][3]) / 100,
            max(pair[1][0], pair[1][2]) / 100,
            max(pair[1][1], pair[1][3]) / 100,
        ],
    }
)


@settings(max_examples=50, deadline=None)
@given(value=st.lists(ANY_BOX, max_size=3))
def test_boxes_come_back_within_half_a_bin(value: list[dict[str, Any]]):
    (decoded,) = boxes(bins=101).decode(boxes(bins=101).encode([value]))
    assert [item["label"] for item in decoded] == [item["label"] for item in value]
    for got, wanted in zip(decoded, value):
        np.testing.assert_allclose(got["box"], wanted["box"], atol=1e-9)
    coarse = boxes().decode(boxes().encode([value]))[0]
    for got, wanted in zip(coarse, value):
        np.testing.assert_allclose(got["box"], wanted["box"], atol=0.05 + 1e-9)


def test_boxes_as_arrays():
    arrays = {"label": np.array(["cube"]), "box": np.array([CUBE["box"]], np.float32)}
    np.testing.assert_array_equal(boxes().encode([arrays]).values, boxes().encode([[CUBE]]).values)


def test_malformed_boxes_are_skipped():
    sentinel = 7
    ids = [37, 68, *CUBE_IDS[:4], *CUBE_IDS, sentinel, 24]
    assert boxes(boxes=5).decode(column(ids, 26)) == [[CUBE]]


def test_corners_may_be_swapped():
    swapped = [29, 37, 46, 67, 69]  # xmin greater than xmax
    assert boxes().decode(column(swapped, 16)) == [[CUBE]]


@settings(max_examples=50, deadline=None)
@given(ids=st.lists(st.integers(0, 70), min_size=1, max_size=16))
def test_decoding_boxes_never_fails(ids: list[int]):
    (value,) = boxes().decode(column(ids, 16))
    again = boxes().decode(boxes().encode([value]))
    assert again == [value]


def test_surplus_boxes_are_left_out_with_a_warning():
    with pytest.warns(UserWarning, match="'box': only the first 3 boxes of a sample are kept; raise `boxes`"):
        tokens = boxes().encode([[CUBE] * 4])
    assert boxes().decode(tokens) == [[CUBE] * 3]


def test_labels_from_the_data_are_kept_in_the_artifact(tmp_path: Path):
    tokenizer = create(name="box", source="box", config=BoxConfig(boxes=3))
    assert isinstance(tokenizer, BoxTokenizer)
    fitted = tokenizer.fit([[CUBE], None, [{"label": "apple", "box": CUBE["box"]}]])
    fitted.save(tmp_path / "box")
    loaded = load(tmp_path / "box")
    assert isinstance(loaded, BoxTokenizer)
    assert loaded.coordinates.names == ("apple", "cube")
    with pytest.raises(MmtokError, match="no box to fit to"):
        tokenizer.fit([[], None])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([{"label": "cupe", "box": [0, 0, 1, 1]}], r"unknown box label 'cupe' \(did you mean 'cube'\?\)"),
        (
            [{"label": "cube", "box": [0, 0, 20, 10]}],
            r"expected a box xmin, ymin, xmax, ymax .* found \[0\.0, 0\.0, 20",
        ),
        ([{"label": "cube", "box": [0.5, 0, 0.2, 1]}], "ordered within 0 .. 1"),
        ([{"label": "cube", "box": [0, 0, 1]}], "expected four finite numbers for the box of 'cube'"),
        ([{"label": "cube", "box": [0, 0, 1, float("nan")]}], "expected four finite numbers"),
        ([{"label": "cube"}], 'expected a list of {"label": text'),
        ("cube", "expected a list of"),
        (3, "expected a list of"),
    ],
)
def test_bad_boxes(value: Any, message: str):
    with pytest.raises(MmtokError, match=message) as error:
        boxes().encode([[CUBE], value])
    assert str(error.value).startswith("modality 'box', sample 1 of the batch: ")


def test_palette_ids():
    tokens = palettes(bins=256).encode([np.array([[0, 128, 255], [3, 4, 5]], np.uint8)])
    first = 24
    assert tokens.values[0, :9, 0].tolist() == [first + 256 + 2, *(first + np.array([0, 128, 255, 3, 4, 5])), 3, 0]
    assert palettes().modality.shape == (17,)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 255), min_size=3, max_size=3), max_size=5), bins=st.sampled_from([16, 256])
)
def test_palettes_come_back(rows: list[list[int]], bins: int):
    value = np.array(rows, np.uint8).reshape(-1, 3)
    (decoded,) = palettes(bins=bins).decode(palettes(bins=bins).encode([value]))
    assert decoded.dtype == np.uint8
    assert decoded.shape == value.shape
    assert np.abs(decoded.astype(int) - value).max(initial=0) <= (0 if bins == 256 else 8)


@settings(max_examples=50, deadline=None)
@given(ids=st.lists(st.integers(0, palettes(bins=16).modality.vocab_size - 1), min_size=1, max_size=17))
def test_decoding_palettes_never_fails(ids: list[int]):
    (value,) = palettes(bins=16).decode(column(ids, 17))
    assert value.dtype == np.uint8
    assert value.shape == (len(value), 3)
    assert len(value) <= 5


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((6, 3), np.uint8), "expected at most 5 colours, found 6"),
        (np.zeros((2, 4), np.uint8), r"expected colours, uint8 \(n, 3\), found uint8 \(2, 4\)"),
        (np.zeros((2, 3), np.float32), "found float32"),
    ],
)
def test_bad_palettes(value: np.ndarray, message: str):
    with pytest.raises(MmtokError, match=message):
        palettes().encode([value])
    with pytest.raises(MmtokError, match="5 bins cannot count 5 colours"):
        PaletteConfig(colours=5, bins=5)


def test_metadata_pairs_are_masking_units_in_a_fixed_order():
    tokenizer = metadata()
    tokens = tokenizer.encode([{"share": 0.0, "brightness": 255.0}])
    v0, v1 = 24, 24 + 50
    assert tokens.values[0, :, 0].tolist() == [v1, v0 + 49, v1 + 2, v0 + 24, 3, 0, 0]
    vocabulary = tokenizer.modality.vocabulary
    assert vocabulary is not None
    assert (vocabulary.unit_first, vocabulary.unit_count) == (v1, 50)


@settings(max_examples=50, deadline=None)
@given(
    value=st.fixed_dictionaries(
        {}, optional={key: st.floats(low, high) for key, (low, high) in RANGES.items() if key != "objects"}
    ),
    objects=st.integers(0, 49),
)
def test_metadata_come_back(value: dict[str, float], objects: int):
    value = {**value, "objects": float(objects)}
    (decoded,) = metadata().decode(metadata().encode([value]))
    assert set(decoded) == set(value)
    assert decoded["objects"] == objects
    for key, number in value.items():
        low, high = RANGES[key]
        assert abs(decoded[key] - number) <= (high - low) / 49 / 2 + 1e-9


@settings(max_examples=50, deadline=None)
@given(ids=st.lists(st.integers(0, metadata().modality.vocab_size - 1), min_size=1, max_size=7))
def test_decoding_metadata_never_fails(ids: list[int]):
    (value,) = metadata().decode(column(ids, 7))
    assert set(value) <= set(RANGES)


def test_metadata_ranges_from_the_data(tmp_path: Path):
    tokenizer = create(name="meta", source="meta", config=MetadataConfig(bins=8))
    assert isinstance(tokenizer, MetadataTokenizer)
    values = [{"count": 2.0, "size": 0.5}, None, {"count": 5.0, "size": 1.5, "rare": 1.0}]
    fitted = tokenizer.fit(values)
    assert fitted.ranges == {"count": (2.0, 9.0), "size": (0.5, 1.5), "rare": (1.0, 8.0)}
    assert fitted.decode(fitted.encode(values)) == values
    assert fitted.decode(fitted.encode([{"size": 9.0}])) == [{"size": 1.5}]
    fitted.save(tmp_path / "meta")
    assert load(tmp_path / "meta").modality == fitted.modality
    with pytest.raises(MmtokError, match="no metadata to fit to"):
        tokenizer.fit([None, {}])
    with pytest.raises(MmtokError, match="9 keys need as many bins, found 8"):
        tokenizer.fit([{str(index): 0.0 for index in range(9)}])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"brigthness": 1.0}, r"unknown metadata key 'brigthness' \(did you mean 'brightness'\?\)"),
        ({"share": "much"}, "expected a number for 'share', found 'much'"),
        ({"share": float("inf")}, "expected a finite number for 'share', found inf"),
        ([1.0], "expected a mapping of numbers"),
    ],
)
def test_bad_metadata(value: Any, message: str):
    with pytest.raises(MmtokError, match=message):
        metadata().encode([value])

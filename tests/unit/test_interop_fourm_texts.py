"""What 4M writes as text: exact words where the format says them, and values that come back."""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.interop.fourm import forms
from mmtok.interop.fourm.forms import FORMS, METADATA
from mmtok.interop.fourm.modalities import CHUNKS, WORDS
from mmtok.interop.fourm.texts import FourMTextConfig, FourMTextTokenizer
from mmtok.project import export_fourm
from mmtok.tokenizers.artifact import create, load
from mmtok.tokenizers.networks.mlp import MLPConfig
from mmtok.tokenizers.quantizers import MemcodesConfig
from mmtok.tokenizers.vectors import VectorConfig
from mmtok.tokenizers.wordpiece import WordPieceConfig, WordPieceTokenizer
from reference import fourm_vocabulary as vocabulary


def text_of(form: str, value) -> str:
    return " ".join(FORMS[form][0](value))


def text_tokenizer(form: str, length: int) -> WordPieceTokenizer:
    config = FourMTextConfig(length=length, form=form)  # pyright: ignore[reportArgumentType]
    return FourMTextTokenizer(name=form, source=form, config=config).with_vocabulary(vocabulary.small_vocabulary())


def caption(length: int = 12) -> WordPieceTokenizer:
    made = WordPieceTokenizer(name="caption", source="caption", config=WordPieceConfig(length=length))
    return made.with_vocabulary(vocabulary.small_vocabulary())


def test_boxes_are_written_as_the_format_says():
    boxes = [
        {"label": "traffic light", "box": [0.5, 0.5, 1.2, 1.0]},
        {"label": "person", "box": [0.1, 0.2, 0.3, 0.9], "score": 0.61},
        {"label": "person", "box": [0.1, 0.2, 0.3, 0.9], "score": 0.59},
        {"label": "person", "box": [1.1, 0.2, 1.3, 0.9]},
    ]
    expected = "v0=100 v1=200 v2=300 v3=899 person v0=500 v1=500 v2=999 v3=999 traffic light"
    assert text_of("boxes", boxes) == expected
    found = forms.read_boxes(f"person {expected} v0=1 v1=2 person v0=9 v1=3 v2=3 v3=10")
    assert [item["label"] for item in found] == ["person", "traffic light"]
    (swapped,) = forms.read_boxes("v0=9 v1=9 v2=3 v3=10 person")
    assert swapped["box"] == [3 / 999, 9 / 999, 9 / 999, 10 / 999]
    np.testing.assert_allclose(found[0]["box"], [100 / 999, 200 / 999, 300 / 999, 899 / 999])
    assert text_of("boxes", []) == ""


def test_metadata_are_written_as_the_format_says():
    value = {"aesthetic_score": 4.5, "original_width": 640, "n_humans": 2000, "brightness": 255, "contrast": 63.5}
    assert text_of("metadata", value) == "v1=0 v0=20 v1=5 v0=999 v1=10 v0=49 v1=11 v0=24 v1=20 v0=1"
    found = forms.read_metadata("v1=0 v0=20 v1=99 v0=3 v1=10 v0=49 v1=11 v1=19 v0=1")
    assert found == {"original_width": 640.0, "brightness": 255.0, "watermark_score": 0.75}
    with pytest.raises(MmtokError, match=r"unknown metadata key 'brightnes' .*'brightness'"):
        forms.write_metadata({"brightnes": 1})


@given(st.dictionaries(st.sampled_from(list(METADATA)), st.integers(0, 49), min_size=1))
def test_values_of_metadata_fall_into_the_bin_they_were_read_from(bins):
    classes = {key: rule for key, rule in METADATA.items() if isinstance(rule, forms.Classes)}
    bins = {key: bin % (len(classes[key].edges) - 1) if key in classes else bin for key, bin in bins.items()}
    order = list(METADATA)
    text = " ".join(f"v1={order.index(key)} v0={bins[key]}" for key in sorted(bins, key=order.index))
    assert text_of("metadata", forms.read_metadata(text)) == text


def test_palettes_are_written_as_the_format_says():
    colours = np.array([[255, 0, 7], [1, 2, 3]], np.uint8)
    assert text_of("palette", colours) == "v1=2 v0=255 v0=0 v0=7 v0=1 v0=2 v0=3"
    np.testing.assert_array_equal(forms.read_palette(text_of("palette", colours)), colours)
    np.testing.assert_array_equal(forms.read_palette("v1=3 v0=1 v0=2 v0=999 v0=4"), [[1, 2, 255]])


PERSON = {
    "box": [0.0, 0.25, 0.5, 1.0],
    "pose": [0, 511, 512, 1023, 1, 2, 3, 4],
    "global": np.eye(3),
    "camera": [-2.0, 0.0, 19.0],
    "shape": np.linspace(-9, 9, 10),
}


def test_poses_are_written_as_the_format_says():
    text = text_of("poses", [PERSON, PERSON])
    words = text.split()
    assert " ".join(words[:14]) == ("human v0=0 v1=250 v2=500 v3=999 pose v0=0 v0=511 v1=0 v1=511 v0=1 v0=2 v0=3 v0=4")
    assert " ".join(words[14:24]) == ("global v0=999 v0=500 v0=500 v0=500 v0=999 v0=500 v0=500 v0=500 v0=999")
    assert words[24:28] == ["camera", "v0=0", "v0=50", "v0=999"]
    assert words[28:39] == ["shape", "v0=0", *words[30:38], "v0=999"]  # clipped, not broken into pieces
    assert len(words) == 2 * 39
    found = forms.read_poses(text)
    assert len(found) == 2
    assert found[0]["pose"] == PERSON["pose"]
    np.testing.assert_allclose(found[0]["global"], np.eye(3).ravel(), atol=2e-3)
    assert text_of("poses", []) == "none"
    assert forms.read_poses("none") == []
    part = forms.read_poses(
        "human v0=1 v1=2 v2=3 v3=4 shape v0=1 pose v0=1 v0=2 v0=3 v0=4 v0=5 v0=6 v0=7 v0=8 human v0=1"
    )
    assert [set(person) for person in part] == [{"box", "pose"}]


def test_instances_are_written_as_the_format_says():
    one = {"box": [0.0, 0.5, 0.25, 1.0], "mask": [*range(510, 526)]}
    text = text_of("instances", [{"point": [0.5, 0.25], "instances": [one]}, {"point": [0.0, 1.0], "instances": []}])
    words = text.split()
    assert " ".join(words[:8]) == "point v0=56 v1=112 polygon v0=0 v1=112 v2=56 v3=224"
    assert words[8:11] == ["v0=510", "v0=511", "v1=0"]
    assert words[24:] == ["point", "v0=224", "v1=0", "none"]
    found = forms.read_instances(text)
    assert found[0] == {"point": [0.5, 0.25], "instances": [one]}
    assert found[1] == {"point": [0.0, 1.0], "instances": []}
    assert forms.read_instances("point v0=1 polygon v0=1 point v0=56 v1=112 polygon v0=0 v1=1 v2=2") == [
        {"point": [0.5, 0.25], "instances": []}
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(FORMS)),
    st.lists(
        st.one_of(
            st.builds("v{}={}".format, st.integers(0, 4), st.integers(0, 1200)),
            st.sampled_from(
                ["person", "human", "pose", "global", "camera", "shape", "point", "polygon", "none", "[UNK]"]
            ),
        ),
        max_size=60,
    ),
)
def test_no_text_is_too_odd_to_read(form, words):
    value = FORMS[form][1](" ".join(words))
    if form not in ("poses", "palette"):  # a person may lack groups, a palette colours, which cannot be written
        FORMS[form][0](value)


@pytest.mark.parametrize(
    ("form", "value"),
    [
        (
            "boxes",
            [{"label": "person", "box": [0.1, 0.2, 0.3, 0.9]}, {"label": "traffic light", "box": [0.5, 0, 1, 1]}],
        ),
        ("metadata", {"brightness": 255.0, "n_humans": 3.0}),
        ("palette", np.array([[1, 2, 3]], np.uint8)),
        ("poses", [PERSON]),
        ("instances", [{"point": [0.5, 0.25], "instances": [{"box": [0, 0.5, 0.25, 1], "mask": [1000] * 16}]}]),
    ],
)
def test_tokens_of_texts_stand_for_the_same_text(form, value):
    tokenizer = text_tokenizer(form, 64)
    column = tokenizer.encode([value, None])
    assert column.length.tolist()[1] == 0
    assert column.length[0] == len(text_of(form, value).replace("traffic light", "light").split()) + 1
    decoded, absent = tokenizer.decode(column)
    assert absent is None
    assert str(FORMS[form][1](text_of(form, value))) == str(decoded)


def test_keys_of_metadata_open_masking_units_and_are_never_cut():
    tokenizer = text_tokenizer("metadata", 6)
    assert tokenizer.vocabulary.unit_first == 4 + 64 + 1000
    assert tokenizer.vocabulary.unit_count == 1000
    with pytest.warns(UserWarning, match="more than 5 tokens is truncated"):
        column = tokenizer.encode([dict.fromkeys(list(METADATA)[:3], 0.0)])
    assert column.length.tolist() == [5]
    assert len(tokenizer.decode(column)[0]) == 2


def test_values_of_another_form_are_one_sentence():
    for form, value in (
        ("boxes", [{"box": [0, 0, 1, 1]}]),
        ("poses", [{**PERSON, "pose": [1]}]),
        ("palette", [[1, 2]]),
        ("palette", [[1, 2, 256]]),
        ("boxes", [{"label": " ", "box": [0, 0, 1, 1]}]),
    ):
        with pytest.raises(MmtokError, match=f"modality '{form}', sample 0 of the batch: not a value of the form"):
            text_tokenizer(form, 64).encode([value])


def body_tokenizer(codes: int = 8, size: int = 1024, length: int = 207) -> Any:
    network = MLPConfig(width=8, depth=1)
    config = VectorConfig(
        length=length,
        encoder=network,
        decoder=network,
        quantizer=MemcodesConfig(size=size, latent=2 * codes, codes=codes),
    )
    made: Any = create(name="pose", source="pose", config=config)
    return made.with_module(made.init(jax.random.key(0)))


def test_a_tokenizer_within_the_text_is_part_of_the_artifact(tmp_path):
    inner, plain = body_tokenizer(), text_tokenizer("poses", 64)
    assert isinstance(plain, FourMTextTokenizer)
    nested = plain.with_inner(inner)
    poses = np.random.default_rng(0).normal(size=(2, 23, 3, 3)).astype(np.float32)
    ids = inner.encode([pose.ravel() for pose in poses]).values[..., 0]
    column = nested.encode([[{**PERSON, "pose": poses[0]}], [], None, [{**PERSON, "pose": poses[1].tolist()}]])
    as_ids = plain.encode([[{**PERSON, "pose": row}] for row in ids])
    np.testing.assert_array_equal(column.values[[0, 3]], as_ids.values)
    decoded = nested.decode(column)
    assert decoded[1:3] == [[], None]
    expected = inner.decode(inner.encode([pose.ravel() for pose in poses]))
    np.testing.assert_allclose(decoded[0][0]["pose"], expected[0].reshape(23, 3, 3), atol=1e-5)
    np.testing.assert_allclose(decoded[3][0]["pose"], expected[1].reshape(23, 3, 3), atol=1e-5)
    assert nested.read("human v0=1 v1=2 v2=3 v3=4") == [{"box": [1 / 999, 2 / 999, 3 / 999, 4 / 999]}]
    nested.save(tmp_path / "t")
    again = load(tmp_path / "t")
    assert again.fingerprint == nested.fingerprint != plain.fingerprint
    other = dataclasses.replace(nested, arrays={name: array + 1 for name, array in nested.arrays.items()})
    assert other.fingerprint != nested.fingerprint
    np.testing.assert_array_equal(again.decode(column)[0][0]["pose"], decoded[0][0]["pose"])
    inner.save(tmp_path / "inner")
    for folder in ("t", "inner"):  # what is written back is the file that the inner one came from
        export_fourm(tmp_path / folder, tmp_path / f"{folder}.safetensors")
    assert (tmp_path / "t.safetensors").read_bytes() == (tmp_path / "inner.safetensors").read_bytes()
    with pytest.raises(MmtokError, match=r"modality 'poses', sample 1 of the batch: .*expected 207 finite numbers"):
        nested.encode([None, [{**PERSON, "pose": [1] * 8}]])


@pytest.mark.parametrize(
    ("form", "inner", "sentence"),
    [
        ("poses", {"codes": 4}, "holds 8 tokens out of 1024 for each pose, the tokenizer given makes 4 out of 1024"),
        ("poses", {"size": 2048}, "the tokenizer given makes 8 out of 2048"),
        ("poses", {"length": 12}, "each pose is 207 numbers, the tokenizer given takes 12"),
        ("boxes", {}, "texts of the form 'boxes' hold no tokens of another"),
    ],
)
def test_tokenizers_that_a_text_cannot_hold(form, inner, sentence):
    plain = text_tokenizer(form, 64)
    assert isinstance(plain, FourMTextTokenizer)
    with pytest.raises(MmtokError, match=sentence):
        plain.with_inner(body_tokenizer(**inner))


def test_wordpiece_text_and_its_artifact(tmp_path):
    tokenizer = caption()
    column = tokenizer.encode(["A red doghouse", "", None, "A Person"])
    first = 4 + 64 + 4000 + 2
    assert column.values[0, :5, 0].tolist() == [first, first + 1, first + 2, first + 4, 3]
    assert column.length.tolist() == [5, 1, 0, 3]
    assert tokenizer.decode(column) == ["a red doghouse", "", None, "a person"]
    tokenizer.save(tmp_path / "t")
    again = load(tmp_path / "t")
    assert again.modality == tokenizer.modality
    assert again.decode(column) == tokenizer.decode(column)
    with pytest.warns(UserWarning, match="truncated"):
        assert caption(4).encode(["a a a a a"]).length.tolist() == [4]
    spoiled = TokenColumn(np.array([[[0], [5], [first], [2], [3]]]), np.array([5], np.int32))
    assert tokenizer.decode(spoiled) == ["a"]


def test_vocabularies_that_do_not_fit():
    empty = WordPieceTokenizer(name="caption", source="caption", config=WordPieceConfig())
    with pytest.raises(MmtokError, match="not a vocabulary file of the tokenizers library"):
        empty.with_vocabulary(b"{}")
    content = json.loads(vocabulary.small_vocabulary())
    content["added_tokens"] = []
    content["model"]["vocab"] = {"[UNK]": 0, "a": 1}
    with pytest.raises(MmtokError, match=r"must have \[PAD\] as id 0, it has None"):
        empty.with_vocabulary(json.dumps(content).encode())


def test_the_vocabulary_of_4m(shared):
    words = (shared / "text" / "text_tokenizer_4m_wordpiece_30k.json").read_bytes()
    made = WordPieceTokenizer(name="c", source="c", config=WordPieceConfig()).with_vocabulary(words)
    assert made.vocabulary == WORDS
    assert made.encode(["human pose person"]).values[0, :4, 0].tolist() == [6304, 8620, 4253, 3]
    config = FourMTextConfig(length=40, form="metadata")
    made = FourMTextTokenizer(name="m", source="m", config=config).with_vocabulary(words)
    assert made.vocabulary == CHUNKS

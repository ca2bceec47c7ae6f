import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.tokenizers.artifact import create, load
from mmtok.tokenizers.text import TextConfig, TextTokenizer

COLOURS, SHAPES = ("red", "green", "blue", "grey"), ("sphere", "cube", "cone")
TEXTS = [
    f"A {size} {colour} {shape} is {side} of a {other} {shape}."
    for size, colour, shape, side, other in itertools.product(
        ("small", "large"), COLOURS, SHAPES, ("left", "right"), COLOURS
    )
]
LETTERS = sorted(set("".join(TEXTS)))


def fitted(config: TextConfig) -> TextTokenizer:
    tokenizer = create(name="caption", source="caption", config=config)
    assert isinstance(tokenizer, TextTokenizer)
    return tokenizer.fit(TEXTS)


TOKENIZER = fitted(TextConfig(length=120, pieces=80))


@pytest.mark.parametrize("model", ["bpe", "unigram"])
def test_round_trip_is_exact_and_tokens_follow_the_layout(model):
    tokenizer = fitted(TextConfig(length=60, pieces=80, model=model))
    tokens = tokenizer.encode(TEXTS)
    assert tokens.values.shape == (len(TEXTS), 60, 1)
    for row, length in zip(tokens.values[..., 0], tokens.length):
        assert row[length - 1] == 3
        assert (row[length:] == 0).all()
        assert (row[: length - 1] >= 4 + 64).all()
    vocabulary = tokenizer.modality.vocabulary
    assert vocabulary is not None
    assert (vocabulary.sentinel_first, vocabulary.sentinel_count) == (4, 64)
    assert tokens.values.max() < vocabulary.size <= 68 + 80
    assert tokenizer.decode(tokens) == TEXTS


def test_pieces_are_words_rather_than_letters():
    assert TOKENIZER.encode(TEXTS).length.mean() < 15


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.sampled_from(LETTERS), max_size=60))
def test_any_string_of_known_characters_is_exact(text: str):
    assert TOKENIZER.decode(TOKENIZER.encode([text])) == [text]


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(0, TOKENIZER.modality.vocab_size - 1), min_size=1, max_size=120))
def test_decoding_never_fails(ids: list[int]):
    values = np.zeros((1, 120, 1), np.int32)
    values[0, : len(ids), 0] = ids
    (text,) = TOKENIZER.decode(TokenColumn(values, np.array([len(ids)], np.int32)))
    assert isinstance(text, str)


def test_unknown_characters_become_the_unknown_id():
    tokens = TOKENIZER.encode(["A red ☃ cube."])
    assert 1 in tokens.values
    assert TOKENIZER.decode(tokens) == ["A red \ufffd cube."]


def test_long_text_is_truncated_with_one_warning():
    tokenizer = fitted(TextConfig(length=8, pieces=80))
    with pytest.warns(
        UserWarning, match=r"'caption': a text of more than 7 tokens is truncated; raise its `length`"
    ) as seen:
        tokens = tokenizer.encode(TEXTS)
    assert len(seen) == 1
    assert (tokens.length == 8).all()
    assert (tokens.values[:, -1, 0] == 3).all()
    decoded = tokenizer.decode(tokens)
    assert all(whole.startswith(part) and part for whole, part in zip(TEXTS, decoded))


def test_missing_and_empty_texts():
    tokens = TOKENIZER.encode([None, ""])
    assert tokens.length.tolist() == [0, 1]
    assert TOKENIZER.decode(tokens) == [None, ""]


def test_fit_is_repeatable_and_the_artifact_holds_the_model(tmp_path: Path):
    again = fitted(TextConfig(length=120, pieces=80))
    assert again.fingerprint == TOKENIZER.fingerprint
    again.save(tmp_path / "caption")
    assert (tmp_path / "caption" / "sentencepiece.model").is_file()
    loaded = load(tmp_path / "caption")
    assert loaded.modality == TOKENIZER.modality
    np.testing.assert_array_equal(loaded.encode(TEXTS).values, TOKENIZER.encode(TEXTS).values)
    (tmp_path / "caption" / "sentencepiece.model").write_bytes(b"nonsense")
    with pytest.raises(MmtokError, match="fingerprint"):
        load(tmp_path / "caption")


def test_bad_values():
    with pytest.raises(MmtokError, match="'caption', sample 1 of the batch: expected a text, found int"):
        TOKENIZER.encode(["a", 3])
    with pytest.raises(MmtokError, match="no text to fit to"):
        TOKENIZER.fit([None, ""])

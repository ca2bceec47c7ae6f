"""The masker against a plain-Python account of what a masked sample must be."""

import dataclasses
import os
import zlib
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtok.batch import MaskedBatch, TokenBatch, TokenColumn
from mmtok.config import from_json, to_json
from mmtok.errors import MmtokError
from mmtok.masking import Component, Masker, MaskingConfig, Role, fill_rates
from mmtok.masking import masker as masker_module
from mmtok.modality import Modality, Vocabulary

GOLDEN = Path(__file__).parents[1] / "golden" / "masks.txt"
REGENERATE = "MMTOK_REGENERATE_GOLDEN"
KEYS = range(60, 70)
WORDS = Vocabulary(size=500, sentinel_count=40)
CHUNKS = Vocabulary(size=500, sentinel_count=40, unit_first=KEYS.start, unit_count=len(KEYS))


def grid(name: str, *shape: int, codes: int = 1) -> Modality:
    return Modality(name=name, kind="grid", shape=shape, codes=codes, vocabulary=Vocabulary(size=200))


MODALITIES = (
    Modality(name="patches", kind="continuous", shape=(3, 4), channels=5),
    grid("image", 4, 5),
    Modality(name="words", kind="sequence", shape=(24,), vocabulary=WORDS),
    grid("video", 2, 3, 2, codes=2),
    Modality(name="pairs", kind="sequence", shape=(17,), vocabulary=CHUNKS),
    grid("label", 1),
)
NAMES = [modality.name for modality in MODALITIES]
ASKABLE = [modality.is_target for modality in MODALITIES]


def column(modality: Modality, lengths: list[int], seed: int = 0) -> TokenColumn:
    """Tokens that differ within each sequence, so that each can be traced; the end id closes every sequence."""
    rng = np.random.default_rng(seed)
    values = np.zeros((len(lengths), modality.size, modality.channels or modality.codes), np.uint16)
    for row, length in enumerate(lengths):
        if modality.kind == "sequence":
            ids = rng.permutation(np.arange(100, 500))[:length]
            if modality.name == "pairs":
                ids[rng.random(length) < 0.4] = 0
                keys = rng.permutation(KEYS)
                ids[np.nonzero(ids == 0)[0][10:]] = 99
                ids[ids == 0] = keys[: (ids == 0).sum()]
            ids[-1:] = 3
            values[row, :length, 0] = ids
        else:
            values[row, :length] = rng.integers(0, 200, (length, values.shape[2]))
    return TokenColumn(values, np.array(lengths, np.int32))


def batch_of(lengths: list[list[int]], seed: int = 0) -> TokenBatch:
    """`lengths` per sample and modality; for all but sequences anything above 0 means present."""
    columns = {}
    for m, modality in enumerate(MODALITIES):
        own = [row[m] if modality.kind == "sequence" else modality.size * (row[m] > 0) for row in lengths]
        columns[modality.name] = column(modality, own, seed + m)
    return columns


FULL = [9, 9, 24, 9, 17, 9]


def corrupted(ids: list[int], hidden: list[bool], vocabulary: Vocabulary) -> tuple[list[int], list[int]]:
    """Span corruption, token by token."""
    given, target, runs = [], [], 0
    for place, (token, is_hidden) in enumerate(zip(ids, hidden)):
        if is_hidden and (place == 0 or not hidden[place - 1]):
            runs += 1
            given.append(vocabulary.sentinel(runs))
            target.append(vocabulary.sentinel(runs))
        (target if is_hidden else given).append(token)
    return given, [*target, vocabulary.sentinel(runs + 1)]


def units(ids: list[int], vocabulary: Vocabulary) -> list[int]:
    """Unit number of each token."""
    numbers, unit = [], -1
    for place, token in enumerate(ids):
        chunked = vocabulary.unit_count > 0
        if not chunked or place == 0 or token in KEYS or token == vocabulary.end:
            unit += 1
        numbers.append(unit)
    return numbers


def check(masked: MaskedBatch, tokens: TokenBatch, config: MaskingConfig) -> None:
    """Checks every row of a batch against its tokens."""
    encoder, decoder = masked.encoder, masked.decoder
    rows = len(encoder.valid)
    assert encoder.ids.shape == (rows, config.input_tokens, 2)
    assert masked.targets.shape == decoder.ids.shape == (rows, config.target_tokens, 2)
    assert encoder.vectors["patches"].shape == (rows, min(config.input_tokens, 12), 5)
    for valid in (encoder.valid, decoder.valid):
        assert (np.sort(~valid, axis=1) == ~valid).all()  # valid ones first
    assert (masked.targets[~decoder.valid] == -1).all()
    assert (decoder.limit[~decoder.valid] == 0).all()
    for slots in (encoder, decoder):
        assert (slots.modality[~slots.valid] == 0).all()
        order = np.where(slots.valid, slots.modality, len(MODALITIES))
        assert (np.diff(order, axis=1) >= 0).all()  # grouped, in the order of the modalities
    for b in range(rows):
        for m, modality in enumerate(MODALITIES):
            shown = np.nonzero(encoder.valid[b] & (encoder.modality[b] == m))[0]
            asked = np.nonzero(decoder.valid[b] & (decoder.modality[b] == m))[0]
            own = tokens[modality.name]
            length = int(own.length[b])
            values = own.values[b, :length].astype(int)
            if modality.kind == "sequence":
                check_sequence(masked, b, shown, asked, values[:, 0].tolist(), modality)
                continue
            places, wanted = encoder.position[b, shown], decoder.position[b, asked]
            both = [*places, *wanted]
            assert len(set(both)) == len(both) <= length
            assert all(0 <= place < length for place in both)
            assert modality.is_target or not len(asked)
            if modality.kind == "continuous":
                contents = encoder.vectors[modality.name][b, encoder.ids[b, shown, 0]]
                np.testing.assert_array_equal(contents, values[places])
                assert (encoder.ids[b, shown, 1] == -1).all()
                continue
            k = modality.codes
            np.testing.assert_array_equal(encoder.ids[b, shown, :k], values[places])
            np.testing.assert_array_equal(masked.targets[b, asked, :k], values[wanted])
            assert (decoder.ids[b, asked, :k] == 0).all()
            for ids in (encoder.ids[b, shown], masked.targets[b, asked], decoder.ids[b, asked]):
                assert (ids[:, k:] == -1).all()
            assert (decoder.limit[b, asked] == (asked[-1] + 1 if len(asked) else 0)).all()


def check_sequence(
    masked: MaskedBatch, b: int, shown: np.ndarray, asked: np.ndarray, ids: list[int], modality: Modality
) -> None:
    encoder, decoder = masked.encoder, masked.decoder
    vocabulary = modality.vocabulary
    assert vocabulary is not None
    for slots, index in ((encoder.ids, shown), (decoder.ids, asked), (masked.targets, asked)):
        assert (slots[b, index, 1] == -1).all()
    seen = encoder.ids[b, shown, 0].tolist()
    np.testing.assert_array_equal(encoder.position[b, shown], np.arange(len(shown)))
    np.testing.assert_array_equal(decoder.position[b, asked], np.arange(len(asked)))
    np.testing.assert_array_equal(decoder.limit[b, asked], asked + 1)
    before, after = decoder.ids[b, asked, 0].tolist(), masked.targets[b, asked, 0].tolist()
    assert before[1:] == after[:-1]  # teacher forcing
    # Tokens of a sequence differ within it except filler 99 inside units, which goes with its unit.
    number = units(ids, vocabulary)
    visible = {unit for unit, token in zip(number, ids) if token != 99 and token in seen}
    if not len(seen):
        hidden = [True] * len(ids)
        _, target = corrupted(ids, hidden, vocabulary)
    else:
        hidden = [unit not in visible for unit in number]
        given_ids, target = corrupted(ids, hidden, vocabulary)
        assert seen == given_ids
    if len(asked):
        span = [before[0], *after]
        sentinels = [i for i, token in enumerate(target) if token in range(4, 44)]
        assert any(target[i : i + len(span)] == span for i in sentinels)
        if len(span) == len(target) and seen:
            assert merged(seen, span, vocabulary) == ids


def merged(given: list[int], target: list[int], vocabulary: Vocabulary) -> list[int]:
    """Puts each run of the target in the place of its sentinel."""
    result = []
    for token in given:
        if vocabulary.sentinel_first <= token < vocabulary.sentinel_first + vocabulary.sentinel_count:
            first = target.index(token) + 1
            result += target[first : target.index(token + 1)]
        else:
            result.append(token)
    return result


alphas = st.sampled_from([0.0, 1e-9, 0.05, 1.0, 1000.0])
roles = st.builds(
    Role, input_alpha=alphas, target_alpha=alphas, keep=st.sampled_from(["random", "random", "all", "binary"])
)


@st.composite
def configs(draw: st.DrawFn, redistribute: bool) -> MaskingConfig:
    inputs, targets = draw(st.integers(1, 45)), draw(st.integers(1, 45))
    component = st.builds(
        Component,
        weight=st.sampled_from([0.0, 0.5, 2.0]),
        default=roles,
        roles=st.dictionaries(st.sampled_from(NAMES), roles),
        whole=st.booleans() if redistribute else st.just(False),
    )
    first = dataclasses.replace(draw(component), weight=1.0)
    return MaskingConfig(
        input_tokens=inputs,
        target_tokens=targets,
        min_input_tokens=draw(st.none() | st.integers(1, inputs)),
        min_target_tokens=draw(st.none() | st.integers(1, targets)),
        components=(first, *draw(st.lists(component, max_size=2))),
        redistribute=redistribute,
    )


def length_of(modality: Modality) -> st.SearchStrategy[int]:
    return st.integers(0, modality.size if modality.kind == "sequence" else 1)


lengths = st.lists(st.tuples(*map(length_of, MODALITIES)).map(list), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(config=configs(True), lengths=lengths, seed=st.integers(0, 2**40))
def test_rows_are_true_and_use_their_budgets(config, lengths, seed):
    tokens = batch_of(lengths)
    masked = Masker(config, MODALITIES)(tokens, seed=seed, step=3, samples=np.arange(len(lengths)))
    check(masked, tokens, config)
    inputs, targets = masked.encoder.valid.sum(1), masked.decoder.valid.sum(1)
    if len(config.components) > 1:
        return
    role = {name: config.components[0].roles.get(name, config.components[0].default) for name in NAMES}
    for b, row in enumerate(lengths):
        present = [length > 0 for length in row]
        shows = pool(present, [role[name].input_alpha for name in NAMES])
        asks = pool([p and a for p, a in zip(present, ASKABLE)], [role[name].target_alpha for name in NAMES])
        alone = shows == asks == [NAMES.index("label")]  # a single token cannot be both shown and asked
        assert (inputs[b] > 0) == any(present)
        assert (targets[b] > 0) == (len(asks) > 0 and not alone)
        if config.components[0].whole:
            continue
        least_in = config.min_input_tokens or config.input_tokens
        least_out = config.min_target_tokens or config.target_tokens
        for m, modality in enumerate(MODALITIES):
            here = ((slots.valid & (slots.modality == m))[b].sum() for slots in (masked.encoder, masked.decoder))
            shown, asked = map(int, here)
            assert m in shows or not shown
            assert m in asks or not asked
            if modality.kind != "sequence" and m in shows and m not in asks and inputs[b] < least_in:
                assert shown == modality.size
            if modality.kind != "sequence" and m in asks and targets[b] < least_out:
                assert shown + asked == modality.size


def pool(present: list[bool], alpha: list[float]) -> list[int]:
    both = [m for m, here in enumerate(present) if here and alpha[m] > 0]
    return both or [m for m, here in enumerate(present) if here]


@settings(max_examples=50, deadline=None)
@given(config=configs(False), lengths=lengths, seed=st.integers(0, 2**40))
def test_rows_are_true_by_the_reference_rule(config, lengths, seed):
    tokens = batch_of(lengths)
    masked = Masker(config, MODALITIES)(tokens, seed=seed, step=3, samples=np.arange(len(lengths)))
    check(masked, tokens, config)


@settings(max_examples=60, deadline=None)
@given(config=st.booleans().flatmap(configs), lengths=lengths, seed=st.integers(0, 2**40), data=st.data())
def test_a_row_depends_on_its_own_sample_only(config, lengths, seed, data):
    masker, tokens = Masker(config, MODALITIES), batch_of(lengths)
    samples = np.arange(len(lengths)) + 10
    whole = masker(tokens, seed=seed, step=5, samples=samples)
    rows = np.array(data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1, max_size=4)))
    part = masker({name: item[rows] for name, item in tokens.items()}, seed=seed, step=5, samples=samples[rows])
    assert_equal(part, whole, rows)


def assert_equal(part: MaskedBatch, whole: MaskedBatch, rows: np.ndarray) -> None:
    for a, b in zip(jax.tree.leaves(part), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(a, b[rows])


@settings(max_examples=30, deadline=None)
@given(config=st.booleans().flatmap(configs), lengths=lengths, seed=st.integers(0, 2**40))
def test_sequences_are_masked_alike_together_and_apart(config, lengths, seed):
    tokens, samples = batch_of(lengths), np.arange(len(lengths))
    batches = []
    for padding in (-1, 30, 10**6):
        with mock.patch.object(masker_module, "_PADDING", padding):
            batches.append(Masker(config, MODALITIES)(tokens, seed=seed, step=1, samples=samples))
    for other in batches[1:]:
        assert_equal(other, batches[0], samples)


def test_a_missing_column_is_an_absent_modality():
    masker = Masker(MaskingConfig(input_tokens=20, target_tokens=20), MODALITIES)
    row = [0, 9, 24, 9, 0, 9]
    tokens = batch_of([row] * 4)
    fewer = {name: item for name, item in tokens.items() if name not in ("patches", "pairs")}
    full, part = (masker(columns, seed=1, step=1, samples=np.arange(4)) for columns in (tokens, fewer))
    assert_equal(part, full, np.arange(4))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("uint8", "uint8"), ("float16", "float16"), ("float32", "float32"), ("float64", "float32"), ("int16", "float32")],
)
def test_vectors_are_float32_or_stay_small(dtype, expected):
    masker = Masker(MaskingConfig(input_tokens=20, target_tokens=20), MODALITIES)
    tokens = batch_of([FULL] * 30)
    patches = tokens["patches"]
    tokens = {**tokens, "patches": TokenColumn(patches.values.astype(dtype), patches.length)}
    masked = masker(tokens, seed=0, step=0, samples=np.arange(30))
    assert masked.encoder.vectors["patches"].dtype == expected
    check(masked, tokens, masker.config)


def test_masks_are_those_of_earlier_versions():
    """A run that is resumed by a newer version sees the batches it would have seen."""
    role = Role(input_alpha=0.2, target_alpha=0.5)
    parts = (Component(weight=2.0, default=role, roles={"words": Role(keep="binary")}), Component(whole=True))
    rng = np.random.default_rng(0)
    rows = [[int(rng.integers(0, modality.size + 1)) for modality in MODALITIES] for _ in range(50)]
    lines = []
    for redistribute in (True, False):
        config = MaskingConfig(
            input_tokens=30,
            target_tokens=25,
            min_input_tokens=3,
            components=parts if redistribute else parts[:1],
            redistribute=redistribute,
        )
        masked = Masker(config, MODALITIES)(batch_of(rows), seed=7, step=11, samples=np.arange(50) * 1000)
        for path, leaf in jax.tree_util.tree_leaves_with_path(masked):
            values = np.ascontiguousarray(leaf, np.float32)
            lines.append(
                f"redistribute {redistribute} {jax.tree_util.keystr(path)} {zlib.crc32(values.tobytes()):08x}\n"
            )
    if os.environ.get(REGENERATE):
        GOLDEN.write_text("".join(lines))
    assert "".join(lines) == GOLDEN.read_text(), f"masks changed; set {REGENERATE}=1 to accept that"


def test_seed_step_and_sample_each_change_the_mask():
    masker = Masker(MaskingConfig(input_tokens=20, target_tokens=20), MODALITIES)
    tokens = batch_of([FULL] * 2)

    def ids(seed: int, step: int, sample: int) -> np.ndarray:
        return np.asarray(masker(tokens, seed=seed, step=step, samples=np.array([sample, 7])).encoder.ids[0])

    base = ids(0, 0, 0)
    for other in (ids(1, 0, 0), ids(0, 1, 0), ids(0, 0, 1)):
        assert (base != other).any()
    np.testing.assert_array_equal(base, ids(0, 0, 0))


@pytest.mark.parametrize("alpha", [1e-9, 0.01, 0.5, 10.0])
def test_both_budgets_are_full_when_there_is_material(alpha):
    config = MaskingConfig(
        input_tokens=25,
        target_tokens=18,
        components=(Component(default=Role(input_alpha=alpha, target_alpha=alpha)),),
    )
    masked = Masker(config, MODALITIES)(batch_of([FULL] * 300), seed=0, step=0, samples=np.arange(300))
    assert fill_rates(masked) == {"input": 1.0, "target": 1.0}


def test_fill_rates_count_slots_in_use():
    config = MaskingConfig(input_tokens=40, target_tokens=50)
    tokens = batch_of([[0, 9, 0, 0, 0, 0], [0] * 6])
    assert fill_rates(Masker(config, MODALITIES)(tokens, seed=0, step=0, samples=np.arange(2))) == {
        "input": pytest.approx(8 / 80),  # 20 tokens divide 8 to 12, as 40 to 50
        "target": pytest.approx(12 / 100),
    }


def test_shares_follow_the_concentrations():
    role = Role(input_alpha=1.0, target_alpha=1.0)
    config = MaskingConfig(
        input_tokens=6,
        target_tokens=6,
        components=(Component(default=role, roles={"image": Role(input_alpha=3.0), "label": Role(input_alpha=0.0)}),),
    )
    tokens = batch_of([[9, 9, 0, 9, 0, 9]] * 4000)
    masked = Masker(config, MODALITIES)(tokens, seed=0, step=0, samples=np.arange(4000))
    share = [np.mean(masked.encoder.modality[masked.encoder.valid] == m) for m in (0, 1, 3)]
    np.testing.assert_allclose(share, [0.2, 0.6, 0.2], atol=0.02)  # no cap is reached: Dirichlet means
    position = masked.encoder.position[masked.encoder.modality == 1]
    counts = np.bincount(position, minlength=20)
    np.testing.assert_allclose(counts / counts.mean(), 1.0, atol=0.12)


def test_budgets_are_uniform_in_their_range():
    config = MaskingConfig(input_tokens=12, target_tokens=9, min_input_tokens=5, min_target_tokens=9)
    masked = Masker(config, MODALITIES)(batch_of([FULL] * 4000), seed=0, step=0, samples=np.arange(4000))
    counts = np.bincount(masked.encoder.valid.sum(1), minlength=13)
    assert counts[:5].sum() == 0
    np.testing.assert_allclose(counts[5:] / 500, 1.0, atol=0.2)
    assert masked.decoder.valid.all()


def test_keep_decides_how_much_of_a_sequence_is_visible():
    sample = [0, 9, 24, 0, 0, 0]
    visible = {}
    for keep in ("random", "all", "binary"):
        config = MaskingConfig(
            input_tokens=30,
            target_tokens=10,
            components=(Component(roles={"words": Role(input_alpha=1e6, keep=keep)}),),
        )
        masked = Masker(config, MODALITIES)(batch_of([sample] * 2000), seed=0, step=0, samples=np.arange(2000))
        tokens = (masked.encoder.modality == 2) & masked.encoder.valid & (masked.encoder.ids[..., 0] >= 44)
        tokens |= (masked.encoder.modality == 2) & masked.encoder.valid & (masked.encoder.ids[..., 0] == 3)
        visible[keep] = tokens.sum(1)
    assert (visible["all"] == 24).all()
    assert set(visible["binary"]) == {0, 24}
    assert abs(np.mean(visible["binary"] == 24) - 0.5) < 0.05
    assert abs(visible["random"].mean() - 12) < 0.7
    assert len(set(visible["random"])) == 25


def test_whole_components_show_and_ask_whole_modalities():
    config = MaskingConfig(input_tokens=60, target_tokens=60, components=(Component(whole=True),))
    tokens = batch_of([FULL] * 500)
    masked = Masker(config, MODALITIES)(tokens, seed=0, step=0, samples=np.arange(500))
    check(masked, tokens, config)
    sizes = [modality.size for modality in MODALITIES]
    shown, asked = (
        np.stack([(slots.valid & (slots.modality == m)).sum(1) for m in range(6)], axis=1)
        for slots in (masked.encoder, masked.decoder)
    )
    full = [size + (modality.kind == "sequence") for size, modality in zip(sizes, MODALITIES)]
    assert ((shown == 0) | (shown == sizes)).all()
    assert ((asked == 0) | (asked == full)).all()
    assert ((shown == 0) | (asked == 0)).all()
    assert (shown.any(1) & asked.any(1)).all()
    assert len({tuple(row > 0) for row in shown}) > 30  # many different subsets


def test_whole_components_respect_budgets():
    config = MaskingConfig(input_tokens=7, target_tokens=5, components=(Component(whole=True),))
    tokens = batch_of([[0, 9, 24, 0, 0, 0]] * 50)
    masked = Masker(config, MODALITIES)(tokens, seed=0, step=0, samples=np.arange(50))
    check(masked, tokens, config)
    for row in range(50):
        shown = set(masked.encoder.modality[row][masked.encoder.valid[row]])
        asked = set(masked.decoder.modality[row][masked.decoder.valid[row]])
        assert len(shown) == len(asked) == 1
        assert shown != asked


def test_a_sequence_alone_always_leaves_something_to_ask():
    config = MaskingConfig(input_tokens=64, target_tokens=64, components=(Component(default=Role(keep="all")),))
    tokens = batch_of([[0, 0, length, 0, 0, 0] for length in range(1, 25)])
    masked = Masker(config, MODALITIES)(tokens, seed=0, step=0, samples=np.arange(24))
    check(masked, tokens, config)
    assert (masked.encoder.valid.sum(1) == np.arange(1, 25)).all()  # all but one token, and a sentinel
    assert (masked.decoder.valid.sum(1) == 2).all()  # that token and the closing sentinel


def test_an_empty_batch_and_an_empty_sample():
    config = MaskingConfig(input_tokens=8, target_tokens=8)
    for redistribute in (True, False):
        masker = Masker(dataclasses.replace(config, redistribute=redistribute), MODALITIES)
        assert not masker({}, seed=0, step=0, samples=np.arange(2)).encoder.valid.any()
        assert masker(batch_of([]), seed=0, step=0, samples=np.arange(0)).targets.shape == (0, 8, 2)


def test_a_config_survives_json():
    config = MaskingConfig(
        input_tokens=8, target_tokens=8, components=(Component(roles={"image": Role(keep="all")}, whole=True),)
    )
    assert from_json(MaskingConfig, to_json(config), where="here") == config


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Role(input_alpha=-1.0), "input_alpha is -1.0"),
        (lambda: Role(target_alpha=float("nan")), "target_alpha is nan"),
        (lambda: Component(weight=-1.0), "component weight is -1.0"),
        (lambda: MaskingConfig(input_tokens=0, target_tokens=1), "input_tokens is 0"),
        (lambda: MaskingConfig(input_tokens=4, target_tokens=4, min_target_tokens=5), "min_target_tokens is 5"),
        (lambda: MaskingConfig(input_tokens=4, target_tokens=4, components=()), "at least one component"),
        (
            lambda: MaskingConfig(
                input_tokens=4, target_tokens=4, components=(Component(whole=True),), redistribute=False
            ),
            "redistribute",
        ),
        (
            lambda: Masker(
                MaskingConfig(input_tokens=4, target_tokens=4, components=(Component(roles={"imagge": Role()}),)),
                MODALITIES,
            ),
            "did you mean 'image'",
        ),
    ],
)
def test_errors_name_the_field(make, words):
    with pytest.raises(MmtokError, match=words.replace("(", r"\(")):
        make()


def test_a_column_of_the_wrong_shape_is_named():
    tokens = {"image": TokenColumn(np.zeros((1, 19, 1), np.uint16), np.array([19], np.int32))}
    with pytest.raises(MmtokError, match="modality 'image'"):
        Masker(MaskingConfig(input_tokens=4, target_tokens=4), MODALITIES)(tokens, seed=0, step=0, samples=np.arange(1))

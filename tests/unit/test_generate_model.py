"""The engine on the real model, against direct calls of the model with slots written out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import logsumexp

from mmtok.batch import DecoderSlots, EncoderSlots
from mmtok.generate import Known, Sampler, Target, context, steps
from mmtok.generate.order import random_ranks
from mmtok.modality import Modality, Vocabulary, by_name
from mmtok.model import AnyToAny, ModelConfig
from reference import sampling as plain

TEXT = Vocabulary(size=30, sentinel_first=4, sentinel_count=8)
MODALITIES = (
    Modality(name="rgb", kind="grid", shape=(3, 3), vocabulary=Vocabulary(size=11)),
    Modality(name="clip", kind="grid", shape=(2, 2, 2), vocabulary=Vocabulary(size=7), codes=2),
    Modality(name="text", kind="sequence", shape=(5,), vocabulary=TEXT),
    Modality(name="pixels", kind="continuous", shape=(2, 2), channels=3),
)
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 11, (2, 9, 1))
PIXELS = RNG.normal(size=(2, 4, 3)).astype(np.float32)
GIVEN = {"rgb": Known(RGB, np.ones((2, 9), bool)), "pixels": Known(PIXELS, np.ones((2, 4), bool))}


def build(seed: int) -> AnyToAny:
    config = ModelConfig(dim=16, encoder_depth=1, decoder_depth=1, heads=2, head_dim=8, mlp_hidden=32, registers=1)
    model = AnyToAny(config, MODALITIES, rngs=nnx.Rngs(seed))
    graph, state = nnx.split(model)
    return nnx.merge(graph, jax.tree.map(lambda value: 3 * value, state))  # far from uniform


@pytest.fixture(scope="module")
def model() -> AnyToAny:
    return build(0)


def encoder_slots(*, rgb: bool, pixels: bool, pending_text: bool = False) -> EncoderSlots:
    """rgb, then the pending text's sentinel, then pixels; no padding."""
    ids: list[np.ndarray] = [np.zeros((2, 0, 2), np.int32)]
    modality: list[int] = []
    position: list[int] = []
    if rgb:
        ids.append(np.concatenate([RGB, np.full_like(RGB, -1)], axis=-1))
        modality += [0] * 9
        position += range(9)
    if pending_text:
        ids.append(np.tile(np.array([[5, -1]]), (2, 1, 1)))
        modality += [2]
        position += [0]
    if pixels:
        rows = np.arange(4)
        ids.append(np.tile(np.stack([rows, np.full(4, -1)], axis=-1), (2, 1, 1)))
        modality += [3] * 4
        position += range(4)
    count = len(modality)
    return EncoderSlots(
        ids=np.concatenate(ids, axis=1).astype(np.int32),
        modality=np.tile(np.array(modality, np.int32).reshape(1, -1), (2, 1)),
        position=np.tile(np.array(position, np.int32).reshape(1, -1), (2, 1)),
        valid=np.ones((2, count), bool),
        vectors={"pixels": PIXELS},
    )


@functools.partial(jax.jit, static_argnames="graph")
def hidden_states(graph, state, encoder, decoder):
    model = nnx.merge(graph, state)
    return model.decode(decoder, model.encode(encoder))


def run(model: AnyToAny, encoder: EncoderSlots, decoder: DecoderSlots, modality: int) -> np.ndarray:
    return np.asarray(model.logits(hidden_states(*nnx.split(model), encoder, decoder), modality=modality))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_one_greedy_step_on_a_grid_of_two_codes(model, guidance):
    queries = DecoderSlots(
        ids=np.zeros((2, 8, 2), np.int32),
        modality=np.ones((2, 8), np.int32),
        position=np.tile(np.arange(8, dtype=np.int32), (2, 1)),
        valid=np.ones((2, 8), bool),
        limit=np.full((2, 8), 8, np.int32),
    )
    logits = run(model, encoder_slots(rgb=True, pixels=True), queries, 1)
    if guidance != 1:
        free = encoder_slots(rgb=False, pixels=False)
        padded = jax.tree.map(lambda part: np.pad(part, ((0, 0), (0, 1)) + ((0, 0),) * (part.ndim - 2)), free)
        base = run(model, padded, queries, 1)
        logits = base + guidance * (logits - base)
    plan = (Target(modality="clip", steps=1, temperature=0.0, guidance=guidance),)
    made = Sampler(model).generate(GIVEN, plan)["clip"]
    assert (made.column.values == logits.argmax(-1)).all()
    expected = logits.max(-1) - logsumexp(logits, axis=-1)
    np.testing.assert_allclose(made.log_probs, expected, atol=1e-4)


def test_several_weighted_conditions(model):
    """Each condition alone, against none at all."""
    queries = DecoderSlots(
        ids=np.zeros((2, 8, 2), np.int32),
        modality=np.ones((2, 8), np.int32),
        position=np.tile(np.arange(8, dtype=np.int32), (2, 1)),
        valid=np.ones((2, 8), bool),
        limit=np.full((2, 8), 8, np.int32),
    )
    nothing = encoder_slots(rgb=False, pixels=False)
    nothing = jax.tree.map(lambda part: np.pad(part, ((0, 0), (0, 1)) + ((0, 0),) * (part.ndim - 2)), nothing)
    base = run(model, nothing, queries, 1)
    rgb = run(model, encoder_slots(rgb=True, pixels=False), queries, 1)
    pixels = run(model, encoder_slots(rgb=False, pixels=True), queries, 1)
    logits = base + 2.0 * (rgb - base) - 0.7 * (pixels - base)
    plan = (Target(modality="clip", steps=1, temperature=0.0, weights={"rgb": 2.0, "pixels": -0.7}),)
    made = Sampler(model).generate(GIVEN, plan)["clip"]
    assert (made.column.values == logits.argmax(-1)).all()
    np.testing.assert_allclose(made.log_probs, logits.max(-1) - logsumexp(logits, axis=-1), atol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_greedy_sequences_equal_plain_decoding_of_the_prefix(model, guidance):
    made = Sampler(model).sample(GIVEN, (Target(modality="text", temperature=0.0, guidance=guidance, length=4),))[
        "text"
    ]
    legal = np.array([3, 6, 1, *range(12, 30)])  # end, the closing sentinel, words
    for row in range(2):
        tokens = [5]
        while len(tokens) < 5 and tokens[-1] not in (3, 6):
            count = len(tokens)
            prefix = np.stack([np.array(tokens), np.full(count, -1)], axis=-1)
            decoder = DecoderSlots(
                ids=np.tile(prefix.astype(np.int32), (2, 1, 1)),
                modality=np.full((2, count), 2, np.int32),
                position=np.tile(np.arange(count, dtype=np.int32), (2, 1)),
                valid=np.ones((2, count), bool),
                limit=np.tile(np.arange(1, count + 1, dtype=np.int32), (2, 1)),
            )
            logits = run(model, encoder_slots(rgb=True, pixels=True, pending_text=True), decoder, 2)[row, -1, 0]
            if guidance != 1:
                base = run(model, encoder_slots(rgb=False, pixels=False, pending_text=True), decoder, 2)[row, -1, 0]
                logits = base + guidance * (logits - base)
            options = legal if count < 4 else legal[:2]  # the last place is the end's
            tokens.append(int(options[logits[options].argmax()]))
        expected = [*tokens[1:-1], 3]
        assert made.values[row, : made.length[row], 0].tolist() == expected


def test_padding_of_buckets_changes_nothing(model, monkeypatch):
    plan = (
        Target(modality="clip", scheme="maskgit", steps=3, guidance=2.0),
        Target(modality="text", guidance=1.5),
    )
    before = Sampler(model).generate(GIVEN, plan, seed=3)
    monkeypatch.setattr(context, "ENCODER_STEP", 80)
    monkeypatch.setattr(context, "DECODER_STEP", 12)
    after = Sampler(model).generate(GIVEN, plan, seed=3)
    for name in before:
        assert (before[name].column.values == after[name].column.values).all()
        np.testing.assert_allclose(before[name].log_probs, after[name].log_probs, atol=1e-4)


def test_unconditional_sampling_of_everything(model):
    plan = (Target(modality="rgb", steps=3), Target(modality="clip", steps=2), Target(modality="text"))
    made = Sampler(model).sample({}, plan, seed=1, samples=range(2))
    assert made["rgb"].values.shape == (2, 9, 1)
    assert made["clip"].values.shape == (2, 8, 2)
    assert ((made["text"].length >= 1) & (made["text"].length <= 5)).all()


def test_other_parameters_compile_nothing(monkeypatch):
    plan = (Target(modality="clip", steps=2, guidance=2.0), Target(modality="text"))
    first = Sampler(build(1)).sample(GIVEN, plan, seed=0)

    def traced(*arguments):
        raise AssertionError("the model was compiled again")

    monkeypatch.setattr(AnyToAny, "encode", traced)
    second = Sampler(build(2)).sample(GIVEN, plan, seed=0)
    assert (first["clip"].values != second["clip"].values).any()


def test_conditions_matter(model):
    plan = (Target(modality="clip", steps=1, temperature=0.0),)
    other = GIVEN | {"rgb": Known((RGB + 3) % 11, np.ones((2, 9), bool))}
    hidden = GIVEN | {"rgb": GIVEN["rgb"].hidden()}
    results = [Sampler(model).generate(known, plan)["clip"].log_probs for known in (GIVEN, other, hidden)]
    assert all(np.abs(results[i] - results[j]).max() > 1e-3 for i, j in ((0, 1), (0, 2), (1, 2)))
    assert jnp.isfinite(jnp.asarray(results)).all()


def at_full_length(known: dict[str, Known]) -> EncoderSlots:
    items = by_name(MODALITIES)
    shown = {name: context.show(item, items[name], asked=np.ones(2, bool)) for name, item in known.items()}
    return context.encoder_slots(shown, MODALITIES, rows=2, size=sum(items[name].size for name in known))


def test_guided_grids_equal_plain_full_length_decoding(model):
    """Two views of different lengths side by side, in buckets, against one pass after the other at full length."""
    pixels, run = GIVEN["pixels"], plain.compiled(model)

    def encoder(ids, visible, conditional):
        condition = pixels if conditional else pixels.hidden()
        return at_full_length({"rgb": Known(ids[..., None], visible), "pixels": condition})

    keys = steps.sample_keys(jax.random.key(3), jnp.arange(2), jnp.zeros(2, int), jnp.int32(0))
    order = np.argsort(np.asarray(random_ranks(keys, size=9)), axis=1)
    counts = [3, 2, 2, 2]
    expected = plain.greedy_grid(run, encoder, MODALITIES[0], 0, order=order, counts=counts, guidance=2.5, codes=2)
    plan = (Target(modality="rgb", scheme="roar", steps=4, temperature=0.0, guidance=2.5),)
    made = Sampler(model).sample({"pixels": pixels}, plan, seed=3)["rgb"]
    assert (made.values[..., 0] == expected).all()


def test_remembered_keys_equal_plain_full_length_decoding(model):
    known, run = GIVEN | {"text": Known.nothing(MODALITIES[2], samples=2)}, plain.compiled(model)
    expected = plain.greedy_sequence(run, at_full_length(known), MODALITIES[2], 2, length=5, codes=2)
    made = Sampler(model).sample(GIVEN, (Target(modality="text", temperature=0.0),))["text"]
    assert (made.values[..., 0] == expected).all()

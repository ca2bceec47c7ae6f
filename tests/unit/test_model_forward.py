"""The model against a plain numpy program of the specification, and the invariants that follow from it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmtok.batch import DecoderSlots, EncoderSlots
from mmtok.errors import MmtokError
from mmtok.modality import Modality
from mmtok.model import AnyToAny, named_parameters, set_parameters, sized
from reference import model as reference
from reference.model import MODALITIES, config, random_batch

SHALLOW = {"encoder_depth": 1, "decoder_depth": 1}  # compiles in half the time
VARIANTS = {
    "plain": {},
    "qk_norm, registers, tied head": {"qk_norm": True, "registers": 2, "tie": "head"},
    "modality embeddings of its own": {"decoder_modality": True, **SHALLOW},
    "gelu, all biases, one table": {
        "gated": False,
        "activation": "gelu",
        "norm_bias": True,
        "qkv_bias": True,
        "proj_bias": True,
        "mlp_bias": True,
        "qk_norm": True,
        "tie": "all",
    },
    "deeper than the unrolled ones": {"encoder_depth": 5, "decoder_depth": 5},
    "scaled embeddings, short wavelengths": {"scaled_embeddings": True, "position_temperature": 10.0, "tie": "all"},
}


@functools.cache
def build(**overrides) -> AnyToAny:
    """Returns a model with noise in all parameters, so that no zero bias or unit scale hides a fault."""
    model = nnx.eval_shape(lambda: AnyToAny(config(**overrides), MODALITIES, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    values = {}
    for name, shape in named_parameters(model).items():
        noise = rng.normal(size=shape.shape)
        values[name] = 1 + 0.3 * noise if name.endswith("scale") else 0.3 * noise
    set_parameters(model, values, where="noise")
    return model


@functools.partial(jax.jit, static_argnums=(0, 1))
def call(method: str, graph, state, *inputs):
    return getattr(nnx.merge(graph, state), method)(*inputs)


def run(model: AnyToAny, method: str, *inputs):
    """Calls a method of the model, compiled: the strict numerics of a training step, and far faster than by parts."""
    return call(method, *nnx.split(model), *inputs)


@functools.partial(jax.jit, static_argnums=0)
def everything(graph, state, batch):
    model = nnx.merge(graph, state)
    context = model.encode(batch.encoder)
    queries = model.decode(batch.decoder, context)
    return model.encoder_hidden(batch.encoder), context, queries, model.losses(batch)


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_equals_the_specification(variant):
    model, batch = build(**VARIANTS[variant]), random_batch(1)
    plain = reference.Reference(model.config, MODALITIES, named_parameters(model))
    hidden, context, queries, losses = everything(*nnx.split(model), batch)
    for b in range(len(batch.targets)):
        used = np.flatnonzero(np.asarray(context.valid[b]))
        expected_hidden, expected_context = plain.encode(batch.encoder, b)
        np.testing.assert_allclose(hidden[b, used], expected_hidden, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(context.tokens[b, used], expected_context, rtol=1e-4, atol=1e-4)
        used = np.flatnonzero(batch.decoder.valid[b])
        np.testing.assert_allclose(
            queries[b, used], plain.decode(batch.decoder, expected_context, b), rtol=1e-4, atol=1e-4
        )
    expected = plain.losses(batch)
    assert losses.keys() == expected.keys()
    assert sum(count for _, count in expected.values()) > 20
    for name, (total, count) in expected.items():
        assert float(losses[name].count) == count
        assert float(losses[name].total) == pytest.approx(total, rel=1e-5, abs=1e-5)


def test_logits_are_those_the_losses_use():
    model, batch = build(), random_batch(2)
    _, _, hidden, losses = everything(*nnx.split(model), batch)
    for index, item in enumerate(MODALITIES):
        if item.is_target:
            logits = model.logits(hidden, modality=index)
            assert logits.shape == (*hidden.shape[:2], item.codes, item.vocab_size)
            chosen = np.asarray(batch.decoder.valid) & (np.asarray(batch.decoder.modality) == index)
            picked = jnp.take_along_axis(
                jax.nn.log_softmax(logits), jnp.asarray(np.maximum(batch.targets, 0))[:, :, : item.codes, None], axis=-1
            )
            total = -jnp.where(chosen[..., None, None], picked, 0).sum()
            assert float(losses[item.name].total) == pytest.approx(float(total), rel=1e-5, abs=1e-5)
    with pytest.raises(MmtokError, match="'pixels' is continuous"):
        model.logits(hidden, modality=3)


def test_pixels_are_the_same_as_bytes():
    model, slots = build(), random_batch(4).encoder
    pixels = np.random.default_rng(0).integers(0, 256, slots.vectors["pixels"].shape, np.uint8)
    plain, small = (
        run(model, "encode", dataclasses.replace(slots, vectors={"pixels": pixels.astype(dtype)}))
        for dtype in (np.float32, np.uint8)
    )
    np.testing.assert_array_equal(small.tokens, plain.tokens)


def test_padding_changes_nothing():
    model, batch = build(registers=1), random_batch(3)
    more = 5

    def widen(slots):
        rng = np.random.default_rng(0)

        def grow(value):
            noise = rng.integers(0, 5, (len(value), more, *value.shape[2:]))
            fill = np.zeros_like(noise, bool) if value.dtype == bool else noise.astype(value.dtype)
            return np.concatenate([value, fill], axis=1)

        fields = {f.name: getattr(slots, f.name) for f in dataclasses.fields(slots)}
        return type(slots)(**{k: v if k == "vectors" else grow(v) for k, v in fields.items()})

    wide_encoder, wide_decoder = widen(batch.encoder), widen(batch.decoder)
    context, wide_context = run(model, "encode", batch.encoder), run(model, "encode", wide_encoder)
    used = np.asarray(context.valid)
    wide_used = np.asarray(wide_context.valid)
    np.testing.assert_allclose(context.tokens[used], wide_context.tokens[wide_used], rtol=1e-4, atol=1e-5)
    queries = run(model, "decode", batch.decoder, context)[np.asarray(batch.decoder.valid)]
    wide_queries = run(model, "decode", wide_decoder, wide_context)[np.asarray(wide_decoder.valid)]
    np.testing.assert_allclose(queries, wide_queries, rtol=1e-4, atol=1e-4)


def test_nothing_visible_is_finite_and_independent_of_the_slots():
    model, batch = build(), random_batch(4)

    def blind(n: int):
        slots = EncoderSlots(
            **{
                f.name: getattr(batch.encoder, f.name)[:, :n]
                for f in dataclasses.fields(batch.encoder)
                if f.name not in ("valid", "vectors")
            },
            valid=np.zeros((len(batch.targets), n), bool),
            vectors=batch.encoder.vectors,
        )
        return run(model, "decode", batch.decoder, run(model, "encode", slots))

    assert np.isfinite(blind(4)).all()
    np.testing.assert_allclose(blind(4), blind(9), rtol=1e-4, atol=1e-4)


def queries_after(model: AnyToAny, batch, *, change: tuple[int, int]) -> np.ndarray:
    """Returns which queries of a sample change when the input id of one slot does: (slots,) bool."""
    sample, slot = change
    ids = batch.decoder.ids.copy()
    ids[sample, slot, 0] = (ids[sample, slot, 0] + 1) % 20
    context = run(model, "encode", batch.encoder)
    before = run(model, "decode", batch.decoder, context)
    after = run(model, "decode", dataclasses.replace(batch.decoder, ids=ids), context)
    return np.asarray(jnp.abs(before - after).max(-1)[sample] > 1e-6) & batch.decoder.valid[sample]


def test_sequences_are_causal_and_modalities_apart():
    model, batch = build(), random_batch(5)
    checked = 0
    for sample, slot in np.argwhere(np.asarray(batch.decoder.valid)):
        modality = batch.decoder.modality[sample]
        kind = MODALITIES[modality[slot]].kind
        changed = queries_after(model, batch, change=(int(sample), int(slot)))
        later = (np.arange(len(modality)) >= slot) & (modality == modality[slot]) & batch.decoder.valid[sample]
        expected = later if kind == "sequence" else np.zeros_like(later)  # a grid's query has no input id
        np.testing.assert_array_equal(changed, expected)
        checked += kind == "sequence"
    assert checked > 4


def test_queries_of_a_grid_see_each_other():
    model = build()
    batch = random_batch(6)
    position = batch.decoder.position.copy()
    sample, slot = next(
        (b, t)
        for b, t in np.argwhere(np.asarray(batch.decoder.valid))
        if MODALITIES[batch.decoder.modality[b, t]].name == "image" and batch.decoder.limit[b, t] > t + 1
    )
    position[sample, slot] = (position[sample, slot] + 1) % 15
    context = run(model, "encode", batch.encoder)
    before = run(model, "decode", batch.decoder, context)
    after = run(model, "decode", dataclasses.replace(batch.decoder, position=position), context)
    changed = np.asarray(jnp.abs(before - after).max(-1)[sample] > 1e-6) & batch.decoder.valid[sample]
    same = (batch.decoder.modality[sample] == batch.decoder.modality[sample, slot]) & batch.decoder.valid[sample]
    np.testing.assert_array_equal(changed, same)


def test_samples_of_a_batch_do_not_mix():
    model, batch = build(), random_batch(7)
    context = run(model, "encode", batch.encoder)
    alone = run(model, "encode", jax.tree.map(lambda x: x[1:2], batch.encoder))
    np.testing.assert_allclose(context.tokens[1], alone.tokens[0], rtol=1e-4, atol=1e-5)


def loss_of(model: AnyToAny, batch):
    graph, state = nnx.split(model)

    def total(state):
        losses = nnx.merge(graph, state).losses(batch).values()
        return sum((loss.total for loss in losses), jnp.zeros(())) / sum((loss.count for loss in losses), jnp.zeros(()))

    return total, state


def test_rematerialisation_changes_no_number():
    batch = random_batch(8)
    results = []
    for policy in ("none", "full", "dots"):
        total, state = loss_of(build(remat=policy), batch)
        results.append(jax.tree.leaves(jax.jit(jax.value_and_grad(total))(state)))
    for none, full, dots in zip(*results):
        np.testing.assert_allclose(full, none, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(dots, none, rtol=1e-4, atol=1e-5)


def test_every_parameter_learns():
    total, state = loss_of(build(registers=1, qk_norm=True, **SHALLOW), random_batch(9, samples=8))
    for path, leaf in nnx.to_flat_state(jax.jit(jax.grad(total))(state)):
        assert float(jnp.abs(leaf[...]).max()) > 0, path


def test_bfloat16_stays_near_float32():
    batch = random_batch(10)
    pairs = (loss_of(build(dtype=dtype, **SHALLOW), batch) for dtype in ("float32", "bfloat16"))
    results = [jax.jit(jax.value_and_grad(total))(state) for total, state in pairs]
    (value, gradient), (rough_value, rough_gradient) = results
    assert float(rough_value) == pytest.approx(float(value), rel=5e-3)
    assert float(rough_value) != float(value)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(rough_gradient)):
        assert b.dtype == jnp.float32
        assert float(jnp.linalg.norm(a - b)) < 0.15 * float(jnp.linalg.norm(a)) + 1e-4


def test_compiles_once_for_equal_shapes():
    graph, state = nnx.split(build())
    traces = []

    @jax.jit
    def step(state, batch):
        traces.append(batch)
        return nnx.merge(graph, state).losses(batch)

    for seed in range(3):
        step(state, random_batch(seed))
    assert len(traces) == 1


def test_similar_codes_start_similar():
    vectors = np.linspace(-1, 1, 11, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    tables: Any = AnyToAny(
        config(dim=64), MODALITIES, rngs=nnx.Rngs(0), code_vectors={"image": vectors}
    ).embeddings.tokens
    for table in (tables.encoder[...][:11], tables.outputs[:11]):
        near, far = jnp.linalg.norm(table[5] - table[6]), jnp.linalg.norm(table[0] - table[10])
        assert float(near) < 0.25 * float(far)
    assert float(tables.encoder[...][:11].std()) == pytest.approx(0.02, rel=0.4)
    with pytest.raises(MmtokError, match=r"shape \(5, 3\), expected \(11, d\)"):
        AnyToAny(config(), MODALITIES, rngs=nnx.Rngs(0), code_vectors={"image": vectors[:5]})
    with pytest.raises(MmtokError, match="no modality of this model"):
        AnyToAny(config(), MODALITIES, rngs=nnx.Rngs(0), code_vectors={"imago": vectors})


def test_scaled_embeddings_start_with_unit_variance_and_small_heads():
    model = AnyToAny(config(dim=64, scaled_embeddings=True, tie="all"), MODALITIES, rngs=nnx.Rngs(0))
    tables, ids = model.embeddings.tokens, jnp.arange(11)[None, :, None]
    assert float(tables.encode(ids, jnp.zeros((1, 11), int)).std()) == pytest.approx(1, rel=0.2)
    assert float(tables.outputs.std()) == pytest.approx(64**-0.5, rel=0.2)


def test_attention_starts_by_looking_at_its_like():
    """Fresh queries and keys agree, layer by layer, so a query's own position weighs most."""
    blocks: Any = AnyToAny(config(), MODALITIES, rngs=nnx.Rngs(0)).decoder.blocks
    for attention in (blocks.attention, blocks.cross_attention):
        np.testing.assert_array_equal(attention.query.kernel[...], attention.key.kernel[...])
        assert len(np.unique(attention.query.kernel[...][:, 0, 0])) == config().decoder_depth


def test_a_model_without_targets_is_refused():
    with pytest.raises(MmtokError, match="at least one modality"):
        AnyToAny(config(), MODALITIES[3:4], rngs=nnx.Rngs(0))
    with pytest.raises(MmtokError, match="'image' is declared twice"):
        AnyToAny(config(), (MODALITIES[0], MODALITIES[0]), rngs=nnx.Rngs(0))


def test_grids_alone_need_no_decoder_table():
    model = AnyToAny(config(), MODALITIES[:2], rngs=nnx.Rngs(0))
    assert model.embeddings.tokens.decoder is None
    losses = run(model, "losses", random_batch(0, modalities=MODALITIES[:2]))
    assert all(np.isfinite(float(loss.value)) for loss in losses.values())


def test_flops_count_every_dense_parameter_and_the_attention():
    modalities: tuple[Modality, ...] = MODALITIES[:1]
    model = AnyToAny(config(), modalities, rngs=nnx.Rngs(0))
    sizes = {name: value.size for name, value in named_parameters(model).items() if name.endswith("kernel")}
    encoder = sum(size for name, size in sizes.items() if name.startswith("encoder."))
    kv = sum(size for name, size in sizes.items() if "cross_attention.key" in name or "cross_attention.value" in name)
    decoder = sum(size for name, size in sizes.items() if name.startswith("decoder.")) - kv
    n, m, width = 10, 7, 18
    dense = n * (encoder + kv + sizes["context.kernel"]) + m * (decoder + 24 * 11)
    attention = 2 * n * n * width + 2 * m * m * width + 2 * m * n * width
    counted = model.flops(4, n, m)
    assert counted["attention"] == pytest.approx(4 * 12 * attention)
    assert sum(counted.values()) == pytest.approx(4 * (6 * dense + 12 * attention))


def test_published_sizes():
    text = tuple(dataclasses.replace(item, name=str(k)) for k, item in enumerate(MODALITIES[:2]))
    published = {"Ti": 24.9e6, "S": 59.0e6, "B": 198_829_056, "L": 705_744_896, "XL": 2_822_971_392}
    for name, count in published.items():
        model = nnx.eval_shape(lambda name=name: AnyToAny(sized(name), text, rngs=nnx.Rngs(0)))
        names = named_parameters(model).items()
        core = sum(value.size for path, value in names if not path.startswith("embeddings.") or path.endswith("mask"))
        assert core == (count if isinstance(count, int) else pytest.approx(count, rel=2e-3)), name


def test_unknown_size_and_field_suggest_the_nearest():
    with pytest.raises(MmtokError, match="did you mean 'nano'"):
        sized("nan0")
    with pytest.raises(MmtokError, match="did you mean 'registers'"):
        sized("B", register=1)
    with pytest.raises(MmtokError, match="dim must be even"):
        sized("B", dim=7)
    with pytest.raises(MmtokError, match="heads must be at least 1"):
        sized("B", heads=0)


def test_decoder_slots_of_numpy_and_jax_agree():
    model, batch = build(), random_batch(11)
    moved: DecoderSlots = jax.tree.map(jnp.asarray, batch.decoder)
    context = run(model, "encode", batch.encoder)
    np.testing.assert_array_equal(run(model, "decode", batch.decoder, context), run(model, "decode", moved, context))

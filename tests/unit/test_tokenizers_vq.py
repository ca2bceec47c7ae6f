import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.tokenizers.artifact import create, load
from mmtok.tokenizers.diffusion import NoiseConfig, SamplerConfig
from mmtok.tokenizers.divae import DiVAEConfig
from mmtok.tokenizers.networks.mlp import MLPConfig
from mmtok.tokenizers.networks.resizable import ViTConfig
from mmtok.tokenizers.networks.unet import UNetConfig
from mmtok.tokenizers.networks.uvit import UViTConfig
from mmtok.tokenizers.quantizers import VQ, Memcodes, MemcodesConfig, VQConfig
from mmtok.tokenizers.units import Units
from mmtok.tokenizers.vectors import VectorConfig
from mmtok.tokenizers.vq import EncoderConfig, VQTokenizerConfig
from mmtok.train.layout import Layout

RNG = np.random.default_rng(0)
NET = ViTConfig(width=16, depth=1, heads=2, grid=2)
BOOK = VQConfig(size=16, latent=4, dead=0.0)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def quantizer(config: VQConfig, seed: int = 0) -> VQ:
    """A quantizer whose codes have drifted below unit length."""
    module = VQ(config, rngs=nnx.Rngs(seed))
    module.table[...] = module.table[...] * jnp.linspace(0.5, 1, config.size)[:, None]
    return module


@pytest.mark.parametrize(("cosine", "unit_latents"), [(True, False), (False, False), (False, True)])
@pytest.mark.parametrize("codes", [1, 3])
def test_latents_get_the_nearest_code(cosine: bool, unit_latents: bool, codes: int):
    module = quantizer(dataclasses.replace(BOOK, cosine=cosine, unit_latents=unit_latents, codes=codes, raw=True))
    latents = RNG.normal(size=(2, 3, 4)).astype(np.float32)
    table, parts = np.asarray(module.table[...]), latents[:, :, None]
    if module.split is not None:
        parts = latents @ np.asarray(module.split.kernel[...]) + np.asarray(module.split.bias[...])
        parts = parts.reshape(2, 3, 3, 4)
    parts = unit(parts) if unit_latents else parts
    distance = ((parts[..., None, :] - table) ** 2).sum(-1)
    want = (unit(parts) @ unit(table).T).argmax(-1) if cosine else distance.argmin(-1)
    ids = module.ids(jnp.asarray(latents))
    np.testing.assert_array_equal(ids, want)
    flat = table[want].reshape(2, 3, -1)
    if module.join is not None:
        flat = flat @ np.asarray(module.join.kernel[...]) + np.asarray(module.join.bias[...])
    np.testing.assert_allclose(module.vectors(ids), flat, rtol=1e-5, atol=1e-6)


def test_codes_have_unit_length_unless_raw():
    ids = jnp.arange(16)[:, None]
    np.testing.assert_allclose(np.linalg.norm(quantizer(BOOK).vectors(ids), axis=-1), 1, rtol=1e-5)
    raw = quantizer(dataclasses.replace(BOOK, raw=True))
    np.testing.assert_array_equal(raw.vectors(ids), raw.table[...])
    np.testing.assert_array_equal(raw.code_vectors(), raw.table[...])


def test_a_cosine_codebook_follows_the_means_of_its_latents():
    module = quantizer(BOOK)
    latents = RNG.normal(size=(40, 4)).astype(np.float32)
    table, counts = np.asarray(module.table[...]), np.full(16, 0.5, np.float32)
    module.counts[...] = jnp.asarray(counts)
    ids = np.asarray(module.ids(jnp.asarray(latents)))[:, 0]
    quantized, loss = module.straight_through(jnp.asarray(latents), jax.random.key(0))
    np.testing.assert_allclose(quantized, unit(table)[ids], atol=1e-6)
    assert float(loss) == pytest.approx(np.mean((unit(table)[ids] - latents) ** 2), rel=1e-5)
    for code in range(16):
        mine = unit(latents)[ids == code]
        mean = unit(mine.mean(0)) if len(mine) else unit(table[code])
        np.testing.assert_allclose(module.table[...][code], 0.99 * table[code] + 0.01 * mean, atol=1e-6)
        assert float(module.counts[...][code]) == pytest.approx(0.99 * 0.5 + 0.01 * len(mine))


def test_a_euclidean_codebook_divides_moving_sums_by_moving_counts():
    module = quantizer(dataclasses.replace(BOOK, cosine=False))
    assert module.sums is not None
    module.counts[...] = jnp.ones(16)
    sums, latents = np.asarray(module.sums[...]), RNG.normal(size=(40, 4)).astype(np.float32)
    ids = np.asarray(module.ids(jnp.asarray(latents)))[:, 0]
    module.straight_through(jnp.asarray(latents), jax.random.key(0))
    onehot = np.eye(16)[ids]
    counts, sums = 0.99 + 0.01 * onehot.sum(0), 0.99 * sums + 0.01 * onehot.T @ latents
    smooth = (counts + 1e-5) / (counts.sum() + 16e-5) * counts.sum()
    np.testing.assert_allclose(module.table[...], sums / smooth[:, None], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("replacement", "count"), [("batch", 40), ("batch", 5), ("split", 40)])
def test_dead_codes_are_replaced(replacement: Any, count: int):
    module = quantizer(dataclasses.replace(BOOK, dead=0.3, replacement=replacement))
    latents = RNG.normal(size=(count, 4)).astype(np.float32)
    module.counts[...] = jnp.where(jnp.arange(16) < 3, 100.0 + jnp.arange(16), 0.0)  # three codes are in use
    module.straight_through(jnp.asarray(latents), jax.random.key(1))
    table, dead = np.asarray(module.table[...]), np.asarray(module.counts[...]) < 0.3
    assert dead.sum() >= 10
    if replacement == "batch":
        np.testing.assert_allclose((table[dead] @ unit(latents).T).max(-1), 1, atol=1e-5)
    else:  # the first dead code gets the most used one, and so on
        used = np.argsort(-np.asarray(module.counts[...]))[:3]
        np.testing.assert_allclose(np.sum(table[dead][:3] * unit(table[used]), axis=-1), 1, atol=1e-5)


def test_gradients_pass_straight_through():
    def total(latents):
        module = quantizer(dataclasses.replace(BOOK, commitment=0.0))
        return jnp.sum(3 * module.straight_through(latents, jax.random.key(0))[0])

    np.testing.assert_allclose(jax.grad(total)(jnp.ones((5, 4))), 3)


def test_memcodes_answer_with_the_value_of_the_best_key():
    config = MemcodesConfig(size=8, latent=6, codes=2)
    module = Memcodes(config, rngs=nnx.Rngs(0))
    latents = RNG.normal(size=(5, 6)).astype(np.float32)
    codes, keys, values = (np.asarray(x[...]) for x in (module.codes, module.keys, module.values))
    ids = np.asarray(module.ids(jnp.asarray(latents)))
    vectors = np.asarray(module.vectors(jnp.asarray(ids)))
    for head in range(2):
        logits = latents[:, 3 * head : 3 * head + 3] / np.sqrt(3) @ (codes[head] @ keys[head]).T
        np.testing.assert_array_equal(ids[:, head], logits.argmax(-1))
        want = (codes[head] @ values[head])[ids[:, head]]
        np.testing.assert_allclose(vectors[:, 3 * head : 3 * head + 3], want, rtol=1e-4, atol=1e-6)


def test_memcodes_in_training_choose_one_code_and_pass_gradients():
    module = Memcodes(MemcodesConfig(size=8, latent=6, codes=2), rngs=nnx.Rngs(0))
    latents = jnp.asarray(RNG.normal(size=(5, 6)), jnp.float32)
    table = np.einsum("hnd,hdc->hnc", module.codes[...], module.values[...])
    quantized, loss = module.straight_through(latents, jax.random.key(0))
    gaps = np.abs(np.asarray(quantized).reshape(5, 2, 1, 3) - table).sum(-1).min(-1)
    np.testing.assert_allclose(gaps, 0, atol=1e-5)
    assert float(loss) == 0
    gradient = jax.grad(lambda x: jnp.sum(module.straight_through(x, jax.random.key(0))[0]))(latents)
    assert np.abs(gradient).max() > 0


def encoder(values: Any = "uint8", **changes: Any) -> EncoderConfig:
    channels = {"depth": 1, "mask": 1, "classes": 1, "features": 6}.get(values, 3)
    units = Units(values=values, channels=channels, classes=5 if values == "classes" else 0)
    config = EncoderConfig(size=8, patch=4, units=units, embedding=6, network=NET, quantizer=BOOK)
    return dataclasses.replace(config, **changes)


def grid(values: Any = "uint8", loss: Any = "mse", **changes: Any) -> VQTokenizerConfig:
    config = encoder(values, **changes)
    return VQTokenizerConfig(encoder=config, patch=config.patch, network=NET, loss=loss)


DIFFUSION = DiVAEConfig(
    encoder=encoder("depth"),
    unet=UNetConfig(patch=2, width=32, multipliers=(1,), depth=1, attention=()),
    noise=NoiseConfig(prediction="sample", clip=True),
    sampler=SamplerConfig(method="ddpm", steps=2),
    drop=0.5,
)
FAMILIES = {
    "uint8": grid(),
    "unit": grid("unit", "cosine"),
    "depth": grid("depth", "smooth_l1", quantizer=dataclasses.replace(BOOK, codes=2)),
    "mask": grid("mask", "binary_cross_entropy"),
    "classes": grid("classes", "cross_entropy"),
    "features": grid("features", "l1", size=2, patch=1),
    "memcodes": VectorConfig(
        length=7,
        encoder=MLPConfig(width=16, depth=1),
        decoder=MLPConfig(width=16, depth=1),
        quantizer=MemcodesConfig(size=8, latent=6, codes=3),
    ),
    "divae": DIFFUSION,
}


def raw(config: Any, count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    if isinstance(config, VectorConfig):
        return list(rng.normal(size=(count, 7)).astype(np.float32))
    match config.encoder.units.values:
        case "uint8":
            return list(rng.integers(0, 256, (count, 8, 8, 3), np.uint8))
        case "unit":
            return list(unit(rng.normal(size=(count, 8, 8, 3))).astype(np.float32))
        case "depth":
            return list(rng.uniform(1, 9, (count, 8, 8)).astype(np.float32))
        case "features":
            return list(rng.normal(size=(count, 2, 2, 6)).astype(np.float32))
        case values:
            return list(rng.integers(0, 2 if values == "mask" else 5, (count, 8, 8), np.uint8))


def trained(config: Any) -> Any:
    tokenizer: Any = create(name="x", source="x", config=config)
    return tokenizer.with_module(tokenizer.init(jax.random.key(0)))


@pytest.mark.parametrize("family", ["uint8", "depth", "classes", "features", "memcodes", "divae"])
def test_values_become_tokens_and_values_again(family: str, tmp_path: Any):
    tokenizer, values = trained(FAMILIES[family]), raw(FAMILIES[family], 2)
    modality = tokenizer.modality
    column = tokenizer.encode([values[0], None, values[1]])
    assert column.values.shape == (3, modality.size, modality.codes)
    assert column.length.tolist() == [modality.size, 0, modality.size]
    assert 0 <= column.values.min() <= column.values.max() < modality.vocab_size
    decoded = tokenizer.decode(column)
    assert decoded[1] is None
    for value, back in zip(values, (decoded[0], decoded[2])):
        assert (back.shape, back.dtype) == (value.shape, value.dtype)
        assert np.isfinite(back).all()
    tokenizer.save(tmp_path / "x")
    assert load(tmp_path / "x").fingerprint == modality.fingerprint


@pytest.mark.parametrize("family", ["classes", "memcodes", "divae"])
def test_training_lowers_the_loss_and_moves_the_codebook(family: str):
    tokenizer: Any = create(name="x", source="x", config=FAMILIES[family])
    module = tokenizer.init(jax.random.key(0))
    layout = Layout(module)
    params, rest = layout.split(module)
    batch = jnp.asarray(tokenizer.prepare(raw(FAMILIES[family], 4)))
    optimizer = optax.adam(1e-2)

    def loss(params, rest, key):
        module = layout.merge(params, rest)
        total, _ = tokenizer.loss(module, batch, key)
        return total, layout.split(module)[1]

    def train(params, rest, state):
        def step(carry, key):
            params, rest, state = carry
            (total, rest), grads = jax.value_and_grad(loss, has_aux=True)(params, rest, key)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), rest, state), total

        return jax.lax.scan(step, (params, rest, state), jax.random.split(jax.random.key(1), 20))

    (_, after, _), losses = jax.jit(train)(params, rest, optimizer.init(params))
    assert np.mean(losses[-6:]) < np.mean(losses[:4])
    moved = {name for name, value in rest.items() if not np.array_equal(value, after[name])}
    assert moved == (set() if family == "memcodes" else {"quantizer.table", "quantizer.counts"})
    assert tokenizer.flops(2) == 2 * tokenizer.flops(1) > 0


def test_another_size_needs_no_other_weights():
    tokenizer = trained(FAMILIES["uint8"])
    larger = dataclasses.replace(tokenizer, config=dataclasses.replace(tokenizer.config, encoder=encoder(size=12)))
    image = RNG.integers(0, 256, (12, 12, 3), np.uint8)
    column = larger.encode([image])
    assert column.values.shape == (1, 9, 1)
    assert larger.decode(column)[0].shape == (12, 12, 3)


def test_decoding_by_diffusion_is_a_function_of_the_tokens():
    tokenizer = stirred(DIFFUSION)
    column = random_tokens(tokenizer, 11)
    alone = [tokenizer.decode(column[row : row + 1])[0] for row in range(5)]
    for count in (5, 8, 11):
        np.testing.assert_allclose(tokenizer.decode(column[:count])[:5], alone, atol=1e-4)
    assert np.abs(alone[0] - alone[1]).max() > 1e-2
    assert tokenizer._decoder[0]._cache_size() == 2, "compiled for one row and for eight"
    reseeded = dataclasses.replace(DIFFUSION, sampler=dataclasses.replace(DIFFUSION.sampler, seed=1))
    other = dataclasses.replace(tokenizer, config=reseeded)
    assert np.abs(other.decode(column[:1])[0] - alone[0]).max() > 1e-2


def stirred(config: Any) -> Any:
    """A fresh network gives zeros whatever it sees."""
    tokenizer, rng = trained(config), np.random.default_rng(2)
    arrays = {
        name: array + rng.normal(0, 0.1, array.shape).astype(array.dtype) for name, array in tokenizer.arrays.items()
    }
    return dataclasses.replace(tokenizer, arrays=arrays)


def random_tokens(tokenizer: Any, count: int) -> TokenColumn:
    modality = tokenizer.modality
    ids = np.random.default_rng(3).integers(0, modality.vocab_size, (count, modality.size, modality.codes), np.int32)
    return TokenColumn(ids, np.full(count, modality.size, np.int32))


def test_the_number_of_decoding_steps_is_chosen_when_decoding(tmp_path: Any):
    config = dataclasses.replace(DIFFUSION, sampler=SamplerConfig(method="ddim", steps=2))
    tokenizer = stirred(config)
    column = random_tokens(tokenizer, 1)
    changed = tokenizer.with_decoding_steps(5)
    assert (tokenizer.decoding_steps, changed.decoding_steps) == (2, 5)
    in_config = dataclasses.replace(config, sampler=SamplerConfig(method="ddim", steps=5))
    expected = dataclasses.replace(tokenizer, config=in_config).decode(column)
    np.testing.assert_array_equal(changed.decode(column), expected)
    assert np.abs(tokenizer.decode(column)[0] - expected[0]).max() > 1e-3
    assert changed.fingerprint == tokenizer.fingerprint == changed.modality.fingerprint
    changed.save(tmp_path / "x")
    assert load(tmp_path / "x").decoding_steps == 2
    for steps in (0, 1001):
        with pytest.raises(MmtokError, match=f"tokenizer 'x': it decodes in 1 to 1000 steps, not in {steps}"):
            tokenizer.with_decoding_steps(steps)
    plain = trained(FAMILIES["uint8"])
    assert plain.decoding_steps is None
    with pytest.raises(MmtokError, match="tokenizer 'x' decodes in one pass"):
        plain.with_decoding_steps(5)


@pytest.mark.parametrize("values", ["unit", "mask"])
def test_what_the_network_gives_has_the_form_of_the_raw_values(values: Any):
    config = FAMILIES[values]
    [image] = raw(config, 1)
    [back] = config.encoder.units.outputs(np.asarray(config.encoder.units.inputs(image[None])))
    assert (back.shape, back.dtype) == (image.shape, image.dtype)
    np.testing.assert_allclose(back, image, atol=1e-6)


def test_networks_see_intensities_in_minus_one_to_one():
    units = Units()
    image = np.array([0, 255, 51], np.uint8).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(units.inputs(image)[0, 0, 0], [-1, 1, -0.6], atol=1e-6)
    np.testing.assert_array_equal(units.outputs(np.asarray(units.inputs(image)))[0], image[0])


def test_depth_is_standardised_by_the_middle_of_its_values():
    depth = RNG.uniform(1, 9, (10, 10)).astype(np.float32)
    middle = np.sort(depth.ravel())[10:90]
    units = Units(values="depth", channels=1)
    got = units.prepare([depth], size=10, name="depth")[0]
    np.testing.assert_allclose(got, (depth - middle.mean()) / middle.std(ddof=1), rtol=1e-4, atol=1e-5)
    depth[0, 0], far = np.inf, depth[1:].max()
    depth[1, 1] = far + 1
    got = units.prepare([depth], size=10, name="depth")[0]
    assert got[0, 0] == got[1, 1] == got.max()
    np.testing.assert_array_equal(units.prepare([np.full((10, 10), np.nan, np.float32)], size=10, name="x"), 0)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ViTConfig(width=10, heads=4), "width must be a multiple of the heads"),
        (lambda: VQConfig(size=0), "counts must be at least 1"),
        (lambda: MemcodesConfig(latent=10, codes=3), "3 codebooks of 8192 codes must share a latent of length 10"),
        (lambda: Units(values="classes"), "'classes' need 2 or more"),
        (lambda: Units(values="mask", channels=3), "depth, mask and classes have one"),
        (lambda: grid("classes", "mse"), "values 'classes' need loss cross_entropy, not mse"),
        (lambda: grid("uint8", "cross_entropy"), "values 'uint8' need loss mse, l1, smooth_l1 or cosine"),
        (lambda: UViTConfig(depth=4, long_skips=True), "the depth must be odd, found 4"),
        (lambda: DiVAEConfig(encoder=encoder()), "give either `unet` or `uvit`"),
        (lambda: DiVAEConfig(encoder=encoder("mask"), unet=UNetConfig()), "values 'mask' cannot be noised"),
        (lambda: DiVAEConfig(encoder=encoder(), unet=UNetConfig()), "size 8 must be a multiple of 32"),
        (lambda: VectorConfig(length=0), "length must be at least 1, found 0"),
        (lambda: trained(grid()).encode([np.zeros((8, 8), np.uint8)]), "expected uint8 of shape"),
        (
            lambda: trained(grid("mask", "binary_cross_entropy")).encode([np.full((8, 8), 2)]),
            "expected integers 0 .. 1",
        ),
        (lambda: trained(FAMILIES["memcodes"]).encode([np.zeros(6)]), "expected 7 finite numbers"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(make: Any, sentence: str):
    with pytest.raises(MmtokError, match=sentence):
        make()

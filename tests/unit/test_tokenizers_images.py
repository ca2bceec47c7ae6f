import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mmtok.errors import MmtokError
from mmtok.eval.tokenizers import codebook_use
from mmtok.tokenizers.artifact import create
from mmtok.tokenizers.autoencoder import NetworkConfig
from mmtok.tokenizers.features import FeatureConfig
from mmtok.tokenizers.images import ImageConfig, ImageTokenizer
from mmtok.tokenizers.preprocess import ImagePreprocess

NET = NetworkConfig(width=32, levels=(5, 5, 3))
COLOURS = ImageConfig(size=16, net=NET, loss="mse")
DEPTH = ImageConfig(size=16, values="depth", channels=1, near=1.0, far=20.0, net=NET, show="depth")
NORMALS = ImageConfig(size=16, values="unit", loss="cosine", net=NET, show="normal")
CLASSES = ImageConfig(size=16, values="classes", channels=1, classes=4, loss="cross_entropy", net=NET, show="label")
FEATURES = FeatureConfig(size=4, channels=6, net=NET)
ALL = [COLOURS, DEPTH, NORMALS, CLASSES, FEATURES]


def pictures(config: Any, count: int, seed: int = 0) -> list[np.ndarray]:
    """Half planes in random places: two values, a straight border, and undefined pixels where the kind has them."""
    rng = np.random.default_rng(seed)
    if isinstance(config, FeatureConfig):
        return [
            (rng.normal(size=3) @ np.arange(18).reshape(3, 6) + rng.normal(0, 0.1, (4, 4, 6))).astype(np.float32)
            for _ in range(count)
        ]
    rows, columns = np.mgrid[:16, :16]
    values = []
    for _ in range(count):
        first = np.cos(angle := rng.uniform(0, 7)) * (rows - 8) + np.sin(angle) * (columns - 8) > rng.uniform(-4, 4)
        sky = rows < 3
        match config.values:
            case "uint8":
                values.append(np.where(first[..., None], *rng.integers(0, 256, (2, 3))).astype(np.uint8))
            case "depth":
                values.append(np.where(sky, np.inf, np.where(first, *rng.uniform(1, 20, 2))).astype(np.float32))
            case "unit":
                two = rng.normal(size=(2, 3))
                two /= np.linalg.norm(two, axis=1, keepdims=True)
                values.append(np.where(sky[..., None], 0, np.where(first[..., None], *two)).astype(np.float32))
            case "classes":
                values.append(np.where(first, *rng.integers(0, 4, 2)).astype(np.uint8))
    return values


def made(config: Any, *, fit: bool = True) -> Any:
    tokenizer: Any = create(name="x", source="x", config=config)
    return tokenizer.fit(pictures(config, 64)) if fit else tokenizer


@functools.cache
def begun(config: Any, *, fit: bool = True) -> tuple[Any, Any]:
    """A tokenizer and its module before training; made once for all tests."""
    tokenizer = made(config, fit=fit)
    graph = nnx.split(nnx.eval_shape(lambda: tokenizer.init(jax.random.key(0))))[0]
    return tokenizer, nnx.merge(graph, jax.jit(lambda key: nnx.split(tokenizer.init(key))[1])(jax.random.key(0)))


def loss_of(tokenizer: Any, module: Any) -> Any:
    """The compiled loss of (parameters, batch), and the parameters."""
    graph, state = nnx.split(module)
    return jax.jit(lambda state, batch: tokenizer.loss(nnx.merge(graph, state), batch, jax.random.key(0))), state


def train(config: Any, values: list[np.ndarray], *, steps: int, rate: float = 3e-3) -> tuple[Any, list[float]]:
    tokenizer, module = begun(config)
    graph, state = nnx.split(module)
    optimizer = optax.adam(rate)
    memory, batch, losses = optimizer.init(state), jnp.asarray(tokenizer.prepare(values)), []

    @jax.jit
    def step(state: Any, memory: Any) -> Any:
        def loss(state: Any) -> Any:
            return tokenizer.loss(nnx.merge(graph, state), batch, jax.random.key(0))

        (value, means), gradient = jax.value_and_grad(loss, has_aux=True)(state)
        updates, memory = optimizer.update(gradient, memory)
        return optax.apply_updates(state, updates), memory, value, means

    for _ in range(steps):
        state, memory, value, means = step(state, memory)
        assert all(np.isfinite(mean.total) and mean.count > 0 for mean in means.values())
        losses.append(float(value))
    return tokenizer.with_module(nnx.merge(graph, state)), losses


@pytest.mark.parametrize("config", ALL, ids=["colours", "depth", "normals", "classes", "features"])
def test_training_lowers_the_loss_and_reconstructs(config: Any):
    values = pictures(config, 32)
    tokenizer, losses = train(config, values, steps=40)
    assert losses[-1] < 0.7 * losses[0]
    tokens = tokenizer.encode(values)
    assert tokens.values.shape == (32, tokenizer.modality.size, 1)
    assert tokens.values.dtype == np.int32
    assert 0 <= tokens.values.min() <= tokens.values.max() < tokenizer.modality.vocab_size == 75
    decoded = tokenizer.decode(tokens)
    for got, wanted in zip(decoded, values):
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
    got, wanted = np.stack(decoded), np.stack(values)
    if config is DEPTH:
        assert np.mean(np.isfinite(got) == np.isfinite(wanted)) > 0.95
    elif config is NORMALS:
        length = np.linalg.norm(got, axis=-1)
        assert np.all((length == 0) | (np.abs(length - 1) < 1e-4))
        assert np.mean((length > 0) == (wanted != 0).any(-1)) > 0.95
    elif config is CLASSES:
        assert np.mean(got == wanted) > 0.6
    else:
        assert np.mean((got - wanted.astype(float)) ** 2) < 0.6 * np.var(wanted)


@pytest.mark.parametrize("network", ["vit", "conv"])
def test_networks_and_two_codes_per_position(network: Any):
    config = dataclasses.replace(COLOURS, net=NetworkConfig(network=network, width=32, levels=(4, 4), codes=2))
    values = pictures(config, 16)
    tokenizer, losses = train(config, values, steps=10)
    assert losses[-1] < losses[0]
    assert tokenizer.modality.codes == 2
    tokens = tokenizer.encode(values)
    assert tokens.values.shape == (16, 4, 2)
    use = codebook_use([tokens], size=16)
    assert 0 < use["codes used"] <= 1
    assert 1 < use["perplexity"] <= 16
    for code in (0, 1):  # each matters
        changed = dataclasses.replace(tokens, values=tokens.values.copy())
        changed.values[..., code] = (changed.values[..., code] + 7) % 16
        assert not np.array_equal(tokenizer.decode(changed), tokenizer.decode(tokens))


def test_the_start_is_the_linear_auto_encoder():
    """Before training, a fitted network reconstructs at least as well as principal components, rounded, allow."""
    values = pictures(COLOURS, 64)
    fitted, random = begun(COLOURS), begun(COLOURS, fit=False)
    batch = fitted[0].prepare(values)
    losses = []
    for tokenizer, module in (fitted, random):
        loss, state = loss_of(tokenizer, module)
        losses.append(float(loss(state, batch)[0]))
    pixels = batch.reshape(64, 2, 8, 2, 8, 3).swapaxes(2, 3).reshape(64, 4, 192) / 127.5 - 1
    centred = (pixels - pixels.mean(axis=0)).reshape(-1, 192)
    strengths = np.linalg.svd(centred, compute_uv=False) ** 2
    left, all_of_it = strengths[3:].sum() / centred.size, strengths.sum() / centred.size
    assert left < losses[0] < 0.5 * all_of_it + left
    assert losses[0] < 0.5 * losses[1]


@pytest.mark.parametrize("config", [DEPTH, NORMALS], ids=["depth", "normals"])
def test_undefined_pixels_do_not_matter(config: Any):
    tokenizer, module = begun(config)
    loss, state = loss_of(tokenizer, module)
    batch, name = tokenizer.prepare(pictures(config, 8)), config.loss

    def value(x: Any) -> float:
        return float(loss(state, x)[1][name].value)

    defined = np.isfinite(batch) if config is DEPTH else (batch != 0).any(axis=-1)
    output = np.asarray(jax.jit(lambda x: module(tokenizer.inputs(x)))(batch))
    if config is DEPTH:
        scaled = np.log(np.where(defined, batch, 1)) / np.log(20) * 2 - 1
        wanted = np.abs(output[..., 0] - scaled)[defined].mean()
        assert np.isnan(batch).sum() == 0
        assert value(np.where(defined, batch, np.nan)) == pytest.approx(value(batch), rel=1e-6)
    else:
        cosine = np.sum(output[..., :3] * batch, axis=-1) / np.linalg.norm(output[..., :3], axis=-1).clip(1e-3)
        wanted = (1 - cosine)[defined].mean()
    assert value(batch) == pytest.approx(wanted, rel=2e-3)
    assert loss(state, batch)[1][name].count == defined.sum()


def test_a_wholly_undefined_batch_gives_finite_gradients():
    loss, state = loss_of(*begun(DEPTH))
    batch = np.full((2, 16, 16), np.inf, np.float32)
    gradient = jax.jit(jax.grad(lambda state: loss(state, batch)[0]))(state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("mapping", ["log", "inverse"])
def test_depth_scale_is_inverted_exactly(mapping: Any):
    config = dataclasses.replace(DEPTH, mapping=mapping)
    tokenizer = made(config)
    metres = np.linspace(1, 20, 256, dtype=np.float32).reshape(1, 16, 16)
    scaled = np.asarray(tokenizer.inputs(jnp.asarray(metres)))
    assert scaled[..., 0].min() == pytest.approx(-1, abs=1e-5)
    assert scaled[..., 0].max() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(tokenizer.values(scaled)[0], metres[0], rtol=1e-4)
    beyond = np.asarray(tokenizer.inputs(jnp.full((1, 16, 16), 99.0)))
    np.testing.assert_allclose(tokenizer.values(beyond)[0], 20, rtol=1e-5)


def test_encode_is_compiled_once_for_each_internal_batch_size(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ImageTokenizer, "batches", (4, 16))
    tokenizer, module = begun(COLOURS)
    tokenizer = tokenizer.with_module(module)
    values = pictures(COLOURS, 40)
    whole = tokenizer.encode(values)
    for count in (1, 2, 3, 4, 5, 9, 16, 17, 33, 40):
        tokens = tokenizer.encode(values[:count])
        np.testing.assert_array_equal(tokens.values, whole.values[:count])
        assert len(tokenizer.decode(tokens)) == count
    assert tokenizer._encoder[0]._cache_size() == 2
    assert tokenizer._decoder[0]._cache_size() == 2
    assert tokenizer.encode([]).values.shape == (0, 4, 1)
    assert tokenizer.decode(tokenizer.encode([])) == []


def test_missing_values_have_length_zero():
    tokenizer, module = begun(COLOURS)
    tokenizer = tokenizer.with_module(module)
    photo = pictures(COLOURS, 1)[0]
    tokens = tokenizer.encode([None, photo])
    assert tokens.length.tolist() == [0, 4]
    assert not tokens.values[0].any()
    decoded = tokenizer.decode(tokens)
    assert decoded[0] is None
    assert decoded[1].shape == photo.shape
    with pytest.raises(MmtokError, match=r"expected tokens of shape \(samples, 4, 1\), found \(2, 3, 1\)"):
        tokenizer.decode(dataclasses.replace(tokens, values=tokens.values[:, :3]))


def test_code_vectors_are_standardised_and_near_for_near_codes():
    vectors = made(COLOURS).code_vectors()
    assert vectors.shape == (75, 3)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(vectors.std(axis=0), 1, atol=1e-5)
    assert np.linalg.norm(vectors[0] - vectors[1]) < np.linalg.norm(vectors[0] - vectors[4])


def test_flops_count_the_matrices():
    tokenizer, module = begun(COLOURS)
    blocks = [leaf.size for leaf in jax.tree.leaves(nnx.state(module)) if leaf.ndim >= 2]
    matrices = sum(blocks) - module.mean.size
    assert tokenizer.flops(10) == pytest.approx(10 * 6 * 4 * matrices, rel=0.1)


@pytest.mark.parametrize(
    ("config", "value", "message"),
    [
        (
            COLOURS,
            np.zeros((16, 16), np.uint8),
            r"expected uint8 of shape \(height, width, 3\), found uint8 of .* \(16, 16\)",
        ),
        (COLOURS, np.zeros((16, 16, 4), np.uint8), r"found uint8 of shape \(16, 16, 4\)"),
        (COLOURS, np.zeros((16, 16, 3), np.float32), "found float32 of shape"),
        (COLOURS, np.zeros((0, 16, 3), np.uint8), r"found uint8 of shape \(0, 16, 3\)"),
        (COLOURS, "photo.png", "expected an array of uint8 .* found str"),
        (DEPTH, np.zeros((16, 16), np.uint16), r"expected floats of shape \(height, width\), found uint16"),
        (NORMALS, np.full((16, 16, 3), 0.5, np.float32), "expected unit vectors .* found lengths 0.866"),
        (NORMALS, np.full((16, 16, 3), np.nan, np.float32), "expected finite numbers, found 768 that are not"),
        (CLASSES, np.full((16, 16), 4, np.uint8), r"expected integers 0 .. 3, found 4 .. 4"),
        (CLASSES, np.full((16, 16), -1), r"expected integers 0 .. 3, found -1"),
        (FEATURES, np.full((4, 4, 6), np.inf, np.float32), "expected finite numbers"),
        (FEATURES, np.zeros((4, 4, 5), np.float32), r"expected floats of shape \(height, width, 6\)"),
    ],
)
def test_bad_values(config: Any, value: Any, message: str):
    with pytest.raises(MmtokError, match=message) as error:
        made(config).prepare([*pictures(config, 1), value])
    assert str(error.value).startswith("modality 'x', sample 1 of the batch: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": "classes"}, "values 'classes' need loss cross_entropy, not mse"),
        ({"values": "classes", "loss": "cross_entropy"}, "classes is 0; values 'classes' need 2 or more"),
        ({"classes": 3}, "classes is 3"),
        ({"values": "depth", "loss": "l1"}, "values 'depth' have 1 channel, not 3"),
        ({"values": "depth", "loss": "l1", "channels": 1, "near": 9.0, "far": 3.0}, "0 < near < far"),
    ],
)
def test_bad_configs(changes: dict[str, Any], message: str):
    with pytest.raises(MmtokError, match=message):
        dataclasses.replace(COLOURS, **changes)


def test_patch_must_divide_size():
    with pytest.raises(MmtokError, match="'x': patch 8 must divide size 20"):
        _ = create(name="x", source="x", config=dataclasses.replace(COLOURS, size=20)).modality
    net = dataclasses.replace(NET, network="conv")
    conv = made(dataclasses.replace(COLOURS, size=12, patch=6, net=net), fit=False)
    with pytest.raises(MmtokError, match="patch 6: the conv network needs a power of two"):
        conv.init(jax.random.key(0))


def test_other_sizes_are_cropped_to_the_centre_and_resized():
    colours = ImagePreprocess(size=4, channels=3, dtype="uint8")
    photo = np.zeros((8, 20, 3), np.uint8)
    photo[:, 6:14] = 200
    np.testing.assert_array_equal(colours(photo, what="x"), np.full((4, 4, 3), 200))
    classes = ImagePreprocess(size=2, channels=1, dtype="integer", resize="nearest", maximum=9)
    labels = np.kron(np.array([[1, 5], [7, 9]]), np.ones((4, 4), int))
    np.testing.assert_array_equal(classes(labels, what="x"), [[1, 5], [7, 9]])
    np.testing.assert_array_equal(
        ImagePreprocess(size=8, channels=1, dtype="integer", resize="nearest")(np.array([[1, 5], [7, 9]]), what="x"),
        labels,
    )


def test_resizing_leaves_undefined_pixels_out():
    depth = ImagePreprocess(size=4, channels=1, dtype="float32", undefined="nonfinite")
    value = np.full((8, 8), 5, np.float32)
    value[:4], value[3, 0] = np.inf, 5
    resized = depth(value, what="x")
    assert np.isinf(resized[0]).all()
    np.testing.assert_allclose(resized[2:], 5, rtol=1e-5)
    assert np.all(np.isinf(resized) | (np.abs(resized - 5) < 1e-4))
    normals = ImagePreprocess(size=4, channels=3, dtype="float32", undefined="zero", unit=True)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(8, 8, 3)) + (0, 0, 3)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    vectors[:4] = 0
    resized = normals(vectors.astype(np.float32), what="x")
    assert not resized[0].any()
    np.testing.assert_allclose(np.linalg.norm(resized[2:], axis=-1), 1, atol=1e-5)

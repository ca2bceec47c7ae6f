"""The artifact on disk: round trip, strictness, damage; and the golden listing of parameters."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from mmtok.errors import MismatchError, MmtokError
from mmtok.modality import Modality, Vocabulary
from mmtok.model import AnyToAny, ModelConfig, load_model, named_parameters, save_model, set_parameters, sized

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
REGENERATE = "MMTOK_REGENERATE_GOLDEN"

SMALL = ModelConfig(dim=8, encoder_depth=1, decoder_depth=2, heads=2, head_dim=4, mlp_hidden=12, registers=1)
MODALITIES = (
    Modality(name="image", kind="grid", shape=(2, 3), vocabulary=Vocabulary(size=9), fingerprint="abc"),
    Modality(name="text", kind="sequence", shape=(4,), vocabulary=Vocabulary(size=20, sentinel_count=6)),
    Modality(name="pixels", kind="continuous", shape=(2, 3), channels=6, mean=(0.1, 0.7, 3.0)),
)


def small(seed: int = 0) -> AnyToAny:
    model = nnx.eval_shape(lambda: AnyToAny(SMALL, MODALITIES, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(seed)
    set_parameters(model, {k: rng.normal(size=v.shape) for k, v in named_parameters(model).items()}, where="noise")
    return model


def test_round_trip_keeps_every_bit_and_the_description(tmp_path):
    model = small()
    (tmp_path / "checkpoints").mkdir()
    save_model(tmp_path, model, extra={"run": {"steps": 7}, "given": ("a", "b")})
    loaded, description = load_model(tmp_path)
    assert loaded.config == model.config
    assert loaded.modalities == MODALITIES
    for name, value in named_parameters(model).items():
        np.testing.assert_array_equal(named_parameters(loaded)[name], value)
    assert description["run"] == {"steps": 7}
    assert description["given"] == ["a", "b"]
    assert description["weights"]["parameters"] == sum(x.size for x in jax.tree.leaves(nnx.state(model)))
    assert "| image | grid | 2 x 3 | 1 | 9 | abc |" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "checkpoints").is_dir()


def test_bfloat16_halves_the_file_and_loads_as_float32(tmp_path):
    model = small()
    save_model(tmp_path / "full", model, extra={})
    save_model(tmp_path / "half", model, extra={}, dtype="bfloat16")
    full, half = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half"))
    assert half < 0.75 * full
    loaded, _ = load_model(tmp_path / "half")
    for name, value in named_parameters(model).items():
        assert named_parameters(loaded)[name].dtype == np.float32
        np.testing.assert_allclose(named_parameters(loaded)[name], value, rtol=1e-2)


def test_the_fingerprint_depends_on_the_weights_only(tmp_path):
    prints = []
    for name, seed, extra in (("a", 0, {}), ("b", 0, {"x": 1}), ("c", 1, {})):
        save_model(tmp_path / name, small(seed), extra=extra)
        prints.append(load_model(tmp_path / name)[1]["weights"]["fingerprint"])
    assert prints[0] == prints[1] != prints[2]


def rewrite(folder: Path, change) -> None:
    values = load_file(folder / "model.safetensors")
    change(values)
    save_file(values, folder / "model.safetensors")


def edit(folder: Path, **changes) -> None:
    description = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**description, **changes}))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: rewrite(f, lambda v: v.pop("context.bias")), MmtokError, r"1 missing \(context.bias\)"),
        (lambda f: rewrite(f, lambda v: v.update(extra=np.ones(2))), MmtokError, r"1 unexpected \(extra\)"),
        (
            lambda f: rewrite(f, lambda v: v.update({"context.bias": np.ones(3, np.float32)})),
            MmtokError,
            r"1 of another shape \(context.bias \(3,\) instead of \(8,\)\)",
        ),
        (lambda f: rewrite(f, lambda v: v.update({"context.bias": np.ones(8, np.float32)})), MismatchError, "same run"),
        (lambda f: (f / "model.safetensors").unlink(), MmtokError, "no such file"),
        (lambda f: (f / "config.json").unlink(), MmtokError, "no such file"),
        (lambda f: os.truncate(f / "model.safetensors", 200), MmtokError, "not a readable safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), MmtokError, "not a readable safetensors file"),
        (lambda f: (f / "config.json").write_text("{"), MmtokError, "not a JSON file"),
        (lambda f: (f / "config.json").write_text("{}"), MmtokError, "not the description of a model"),
        (lambda f: edit(f, modalities=3), MmtokError, "'modalities' must be a list"),
        (lambda f: edit(f, weights="x"), MmtokError, "'weights' must be a dict"),
        (lambda f: edit(f, config={"dims": 3}), MmtokError, "unknown key 'dims'.*'dim'"),
        (lambda f: edit(f, modalities=[{"name": "x", "kind": "gird", "shape": [1]}]), MmtokError, "gird"),
    ],
)
def test_damage_is_one_sentence(tmp_path, damage, error, message):
    save_model(tmp_path, small(), extra={})
    damage(tmp_path)
    with pytest.raises(error, match=message) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_own_keys_are_not_overwritten(tmp_path):
    with pytest.raises(MmtokError, match="'config' of a model's description is taken"):
        save_model(tmp_path, small(), extra={"config": 1})
    assert not list(tmp_path.iterdir())


def published() -> tuple[Modality, ...]:
    """Modalities with the vocabularies and shapes of 4M-7."""
    grids = {"clip": 8192, "depth": 8192, "normal": 8192, "rgb": 16384, "semseg": 4096}
    return (
        *(
            Modality(name=n, kind="sequence", shape=(256,), vocabulary=Vocabulary(size=30000, sentinel_count=200))
            for n in ("caption", "det")
        ),
        Modality(name="pixels", kind="continuous", shape=(14, 14), channels=768),
        *(Modality(name=n, kind="grid", shape=(14, 14), vocabulary=Vocabulary(size=size)) for n, size in grids.items()),
    )


@pytest.mark.parametrize("size", ["nano", "B"])
def test_parameters_are_those_of_the_golden_listing(size):
    model = nnx.eval_shape(lambda: AnyToAny(sized(size), published(), rngs=nnx.Rngs(0)))
    lines = [
        f"{'.'.join(map(str, path))} {leaf.shape} {leaf.get_metadata()['out_sharding']}"
        for path, leaf in nnx.to_flat_state(nnx.state(model))
    ]
    text = "\n".join([f"{sum(x.size for x in named_parameters(model).values()):,} parameters", *lines, ""])
    path = GOLDEN / f"model_{size}.txt"
    if os.environ.get(REGENERATE):
        path.write_text(text)
    assert text == path.read_text(), f"parameters changed; set {REGENERATE}=1 to accept and review the difference"

import dataclasses
import functools
import json
import re
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from mmtok.codec import Codec
from mmtok.errors import MismatchError, MmtokError
from mmtok.tokenizers import artifact
from mmtok.tokenizers.artifact import Learned, Tokenizer, create, families, family, load
from mmtok.tokenizers.autoencoder import NetworkConfig
from mmtok.tokenizers.coordinates import BoxConfig
from mmtok.tokenizers.images import ImageConfig
from mmtok.tokenizers.pixels import PixelConfig
from mmtok.tokenizers.scalars import ScalarConfig, ScalarTokenizer
from mmtok.tokenizers.text import TextConfig

CONFIG = ImageConfig(size=16, net=NetworkConfig(width=32, levels=(4, 3)))


@functools.cache
def image_tokenizer(seed: int = 0) -> Learned:
    tokenizer = create(name="photo", source="rgb", config=CONFIG)
    assert isinstance(tokenizer, Learned)
    graph = nnx.split(nnx.eval_shape(lambda: tokenizer.init(jax.random.key(0))))[0]
    state = jax.jit(lambda key: nnx.split(tokenizer.init(key))[1])(jax.random.key(seed))
    return tokenizer.with_module(nnx.merge(graph, state))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    dataclasses.replace(image_tokenizer(), summary={"psnr": 21.5}).save(tmp_path / "photo")
    return tmp_path / "photo"


def photos(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8))


def edit(folder: Path, **changes: object) -> None:
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | changes))


def test_round_trip_keeps_everything(folder: Path):
    saved, loaded = image_tokenizer(), load(folder)
    assert isinstance(loaded, Codec)
    assert (loaded.name, loaded.source, loaded.config) == ("photo", "rgb", CONFIG)
    assert loaded.summary == {"psnr": 21.5}
    assert loaded.modality == saved.modality
    tokens = loaded.encode(photos(3))
    np.testing.assert_array_equal(tokens.values, saved.encode(photos(3)).values)
    np.testing.assert_array_equal(loaded.decode(tokens), saved.decode(tokens))
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert [path.name for path in folder.parent.iterdir()] == ["photo"]


def test_saving_again_gives_the_same_folder(folder: Path):
    load(folder).save(folder.parent / "copy")
    for name in ("config.json", "model.safetensors", "README.md"):
        assert (folder / name).read_bytes() == (folder.parent / "copy" / name).read_bytes()


def test_card_says_what_it_is(folder: Path):
    card = (folder / "README.md").read_text()
    for part in ("`photo`", "`rgb`", "2 x 2", "12", load(folder).fingerprint, "psnr | 21.5"):
        assert part in card


def test_fingerprint_depends_on_config_and_weights_only():
    one = image_tokenizer()
    assert re.fullmatch("[0-9a-f]{16}", one.fingerprint)
    assert one.modality.fingerprint == one.fingerprint
    assert dataclasses.replace(one, name="other", summary={"x": 1}).fingerprint == one.fingerprint
    assert image_tokenizer(seed=1).fingerprint != one.fingerprint
    other = dataclasses.replace(one, config=dataclasses.replace(CONFIG, loss="mse"))
    assert other.fingerprint != one.fingerprint
    arrays = {name: value.copy() for name, value in one.arrays.items()}
    arrays["encoder.head.bias"][0] += 1e-6
    assert dataclasses.replace(one, arrays=arrays).fingerprint != one.fingerprint


def test_edited_config_is_refused(folder: Path):
    record = json.loads((folder / "config.json").read_text())
    edit(folder, config=record["config"] | {"loss": "mse"})
    with pytest.raises(MismatchError, match=r"fingerprint .* records .* edited or mixed up"):
        load(folder)


def test_exchanged_weights_are_refused(folder: Path):
    save_file(dict(image_tokenizer(seed=1).arrays), folder / "model.safetensors")
    with pytest.raises(MismatchError, match="fingerprint"):
        load(folder)


def test_wrong_weights_are_all_listed(folder: Path):
    arrays = load_file(folder / "model.safetensors")
    del arrays["encoder.head.bias"]
    arrays["surplus"] = np.zeros(2, np.float32)
    arrays["decoder.stem.bias"] = np.zeros(5, np.float32)
    save_file(arrays, folder / "model.safetensors")
    with pytest.raises(MmtokError) as error:
        load(folder)
    for part in ("missing encoder.head.bias", "unexpected surplus", "decoder.stem.bias is float32(5,) instead of"):
        assert part in str(error.value)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights(folder: Path, keep: int):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(MmtokError, match=r"model\.safetensors: damaged"):
        load(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no tokenizer there"),
        (lambda folder: (folder / "config.json").write_text('{"format": 1'), "not a JSON file"),
        (lambda folder: (folder / "config.json").write_text("{}"), "it lacks config, family"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "not the config of a tokenizer"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors: no such file"),
        (lambda folder: edit(folder, format=9), "format 9 is not known"),
        (lambda folder: edit(folder, family="imagge"), r"unknown tokenizer family 'imagge' \(did you mean 'image'\?\)"),
        (lambda folder: edit(folder, files=["../secret"]), "points outside the folder"),
        (lambda folder: edit(folder, files=["table.json"]), r"table\.json: no such file"),
        (
            lambda folder: edit(folder, config={"size": 16, "patsh": 8}),
            r"unknown key 'patsh' \(did you mean 'patch'\?\)",
        ),
        (lambda folder: edit(folder, config={"size": "x"}), r"config\.json: "),
    ],
)
def test_damaged_folder_is_said_in_one_sentence(folder: Path, damage, message: str):
    damage(folder)
    with pytest.raises(MmtokError, match=message) as error:
        load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("config", [CONFIG, TextConfig(), BoxConfig(boxes=2), ScalarConfig(length=2)])
def test_untrained_cannot_be_saved_or_used(tmp_path: Path, config: object):
    tokenizer = create(name="x", source="x", config=config)
    assert not tokenizer.complete
    value = np.zeros((16, 16, 3), np.uint8) if config is CONFIG else None
    with pytest.raises(MmtokError, match="'x' has not been trained yet; run `mmtok tokenizer train`"):
        tokenizer.save(tmp_path / "x")
    with pytest.raises(MmtokError, match="has not been trained yet"):
        tokenizer.encode([value])
    assert not list(tmp_path.iterdir())


def test_every_family_is_found_and_named_by_its_config():
    for name in families():
        found = family(name)
        assert issubclass(found, Tokenizer)
        assert found.Config.family == name  # pyright: ignore[reportAttributeAccessIssue]


def test_config_of_no_family():
    with pytest.raises(MmtokError, match="unknown tokenizer family 'int'"):
        create(name="x", source="x", config=3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThermalConfig(ScalarConfig):
    family: ClassVar[str] = "thermal"


class ThermalTokenizer(ScalarTokenizer):
    Config = ThermalConfig


def test_plugin_family_through_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    point = EntryPoint(name="thermal", value=f"{__name__}:ThermalTokenizer", group="mmtok.tokenizers")
    monkeypatch.setattr(artifact, "entry_points", lambda group: [point] if group == "mmtok.tokenizers" else [])
    monkeypatch.setattr(artifact.importlib, "import_module", lambda name: __import__("sys").modules[name])
    monkeypatch.setitem(__import__("sys").modules, __name__, __import__("types").SimpleNamespace(**globals()))
    tokenizer = create(name="heat", source="thermal", config=ThermalConfig(length=1, bins=4))
    assert isinstance(tokenizer, ThermalTokenizer)
    fitted = tokenizer.fit([np.array([number], np.float32) for number in range(8)])
    fitted.save(tmp_path / "heat")
    assert isinstance(load(tmp_path / "heat"), ThermalTokenizer)


def test_broken_plugin(monkeypatch: pytest.MonkeyPatch):
    point = EntryPoint(name="thermal", value="no_such_package:Thermal", group="mmtok.tokenizers")
    monkeypatch.setattr(artifact, "entry_points", lambda group: [point])
    with pytest.raises(MmtokError, match="'thermal': cannot import no_such_package:Thermal"):
        family("thermal")


def test_a_family_without_weights_needs_no_file_for_them(tmp_path: Path):
    tokenizer = create(name="pixels", source="rgb", config=PixelConfig(size=16))
    tokenizer.save(tmp_path / "pixels")
    assert {path.name for path in (tmp_path / "pixels").iterdir()} == {"config.json", "README.md"}
    assert load(tmp_path / "pixels").fingerprint == tokenizer.fingerprint

"""All of 4M-21 at once: a model and its tokenizers as one downloads them, imported, sampled and drawn."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from mmtok.inference import load_anytoany
from mmtok.interop.fourm import tokenizer_config
from mmtok.interop.fourm.checkpoint import write_text
from mmtok.interop.fourm.modalities import MODALITIES
from mmtok.interop.fourm.tokenizers import export_tokenizer
from mmtok.show import picture, read_value
from mmtok.tokenizers.artifact import create, load
from mmtok.tokenizers.networks.mlp import MLPConfig
from mmtok.tokenizers.networks.resizable import ViTConfig
from mmtok.tokenizers.quantizers import MemcodesConfig, VQConfig
from mmtok.tokenizers.units import Units
from mmtok.tokenizers.vectors import VectorConfig
from mmtok.tokenizers.vq import EncoderConfig, VQTokenizerConfig
from reference import fourm

TARGETS = [name for name, item in MODALITIES.items() if item.kind != "continuous" and "@448" not in name]
CONFIG = {**fourm.TINY, "domains_in": ["rgb@224", *TARGETS, "t5_caption"], "domains_out": TARGETS}
LARGER = {
    **fourm.TINY,
    "domains_in": ["tok_rgb@224", "tok_clip@224", "caption", "tok_rgb@448", "tok_clip@448"],
    "domains_out": ["tok_rgb@448", "tok_clip@448"],
}
FEW = dict(
    fourm.TINY, domains_in=["tok_depth@224", "human_poses", "sam_instance", "caption", "det"], domains_out=["det"]
)
CHEAP = ("--top-p", "1", "--guidance", "1")  # neither sort tokens nor run the model twice
SHAPE = (32, 1, 2)  # width, depth and heads of a ViT


def pictures(units: Units, *, size: int, patch: int, codes: int, latent: int = 8, refine: int = 0) -> VQTokenizerConfig:
    width, depth, heads = SHAPE
    network = ViTConfig(width=width, depth=depth, heads=heads, grid=size // patch)
    losses: dict[str, Any] = {"classes": "cross_entropy", "mask": "binary_cross_entropy"}
    return VQTokenizerConfig(
        encoder=EncoderConfig(
            size=size, patch=patch, units=units, embedding=8, network=network,
            quantizer=VQConfig(size=codes, latent=latent, raw=True),
        ),
        patch=patch,
        network=ViTConfig(width=width, depth=depth, heads=heads, grid=size // patch, refine=refine),
        loss=losses.get(units.values, "mse"),
    )  # fmt: skip


def vectors(length: int, *, codes: int, size: int) -> VectorConfig:
    network = MLPConfig(width=16, depth=1)
    quantizer = MemcodesConfig(size=size, latent=2 * codes, codes=codes)
    return VectorConfig(length=length, encoder=network, decoder=network, quantizer=quantizer)


TOKENIZERS = {
    "rgb_16k_224-448": ("rgb", pictures(Units(), size=448, patch=16, codes=16_384)),
    "depth_8k_224-448": ("depth", pictures(Units(values="depth", channels=1), size=448, patch=16, codes=8192)),
    "normal_8k_224-448": ("normal", pictures(Units(values="unit"), size=448, patch=16, codes=8192)),
    "semseg_4k_224-448": (
        "semseg_coco",
        pictures(Units(values="classes", channels=1, classes=134), size=448, patch=16, codes=4096),
    ),
    "edge_8k_224-512": ("canny_edge", pictures(Units(), size=448, patch=16, codes=8192)),
    "CLIP-B16_8k_224-448": ("CLIP-B16", pictures(Units(values="features", channels=6), size=28, patch=1, codes=8192)),
    "DINOv2-B14_8k_224-448": (
        "DINOv2-B14",
        pictures(Units(values="features", channels=5), size=32, patch=1, codes=8192),
    ),
    "DINOv2-B14-global_8k_16_224": ("DINOv2-B14-global", vectors(24, codes=16, size=8192)),
    "human-poses_1k_8": ("human_poses", vectors(207, codes=8, size=1024)),
    "sam-instance_1k_64": (
        "sam_mask",
        pictures(Units(values="mask", channels=1), size=64, patch=16, codes=1024, refine=2),
    ),
}
"""Part of the name of a released file -> its domain and a tiny tokenizer of that kind."""


def write_tokenizer(folder: Path, name: str) -> Path:
    domain, config = TOKENIZERS[name]
    made: Any = create(name=domain, source=domain, config=config)
    made = made.with_module(made.init(jax.random.key(len(name))))
    tensors, description = export_tokenizer(made)
    file = folder / f"4M_tokenizers_{name}" / "model.safetensors"
    file.parent.mkdir()
    save_file(tensors, file, metadata=write_text({**description, "domain": domain}))
    return file


@pytest.fixture(scope="module")
def tiny_vits() -> Any:
    """One of 4M's three sizes of ViTs made tiny."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tokenizer_config.VITS, "s", SHAPE)
        yield


@pytest.fixture(scope="module")
def downloads(tmp_path_factory, tiny_vits) -> Path:
    folder = tmp_path_factory.mktemp("downloads")
    for name, config in (("4M-21_B", CONFIG), ("4M-7-SR_L", LARGER), ("few", FEW)):
        fourm.write_checkpoint(folder / name / "model.safetensors", fourm.tiny_state(config), config)
    for name in TOKENIZERS:
        write_tokenizer(folder, name)
    return folder


@pytest.fixture(scope="module")
def words(shared) -> Path:
    return shared / "text" / "text_tokenizer_4m_wordpiece_30k.json"


@pytest.fixture(scope="module")
def model(downloads, words, mmtok, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("imported") / "model"
    ran = mmtok("import", "4m", downloads / "4M-21_B", *downloads.glob("4M_tokenizers_*"), words, "--out", folder)
    assert ran.code == 0, ran.err
    assert "as token ids: tok_imagebind@224, tok_imagebind_global" in ran.out + ran.err
    config = json.loads((folder / "config.json").read_text())
    for target in (target for recipe in config["recipes"].values() for target in recipe["plan"]):
        if target["length"] is not None or "tok_" not in target["modality"]:
            target["length"] = 6  # recipes are data: here, texts of a few words
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def loaded(model) -> Any:
    return load_anytoany(model)


SHAPES = {
    "tok_clip@224": (14, 14, 6),
    "tok_dinov2@224": (16, 16, 5),
    "tok_imagebind@224": (16, 16),
    "tok_dinov2_global": (24,),
    "tok_imagebind_global": (16,),
    "tok_depth@224": (224, 224),
    "tok_normal@224": (224, 224, 3),
    "tok_semseg@224": (224, 224),
    "tok_canny_edge@224": (224, 224, 3),
    "tok_sam_edge@224": (224, 224, 3),
}


@pytest.mark.slow
def test_all_others_of_a_picture_are_written_and_drawn(model, loaded, mmtok, photo, tmp_path):
    asked = ("--given", f"rgb={photo}", "--to", "all", *CHEAP)
    ran = mmtok("sample", "--model", model, *asked, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert set(manifest["files"][0]) == {*TARGETS} - {"tok_rgb@224"}
    assert {target["steps"] for target in manifest["plan"]} == {1, None}
    for name, file in manifest["files"][0].items():
        modality = loaded.modalities[name]
        value = read_value(str(tmp_path / "out" / file), modality.show)
        assert np.shape(value) == SHAPES[name] if name in SHAPES else isinstance(value, str | list | dict | np.ndarray)
        if name in SHAPES:
            assert np.isfinite(value).all()
            tile = picture(value, modality.show, size=96, names=modality.names)
            assert tile.std() > 10, f"{name} is blank"
            if modality.show != "array":  # what was written can be given
                assert loaded.tokenizers[name].encode([value]).length == [modality.size]
    with Image.open(tmp_path / "out" / "gallery.png") as gallery:
        assert gallery.width > 17 * 160


def test_one_tokenizer_serves_both_kinds_of_edges_and_all_sizes(model, loaded):
    canny, sam = (load(model / "tokenizers" / f"tok_{name}_edge@224") for name in ("canny", "sam"))
    assert canny.fingerprint == sam.fingerprint
    assert (canny.source, sam.source) == ("canny_edge", "sam_edge")
    assert loaded.modalities["tok_semseg@224"].names[1] == "person"


def test_poses_and_masks_pass_through_the_tokenizers_in_their_texts(model, loaded):
    rng = np.random.default_rng(0)
    poses, instances = (load(model / "tokenizers" / name) for name in ("human_poses", "sam_instance"))
    person = {
        "box": [0.0, 0.25, 0.5, 1.0],
        "pose": rng.normal(size=(23, 3, 3)).astype(np.float32),
        "global": np.eye(3),
        "camera": [0.5, 0.0, 1.0],
        "shape": np.zeros(10),
    }
    column = poses.encode([[person, person], None])
    first, second = poses.decode(column)[0]
    assert first["pose"].shape == (23, 3, 3)
    np.testing.assert_array_equal(first["pose"], second["pose"])
    assert isinstance(person["pose"], np.ndarray), "what was given must stay as it was"
    again = poses.encode([[{**first, "pose": person["pose"]}]])
    np.testing.assert_array_equal(again.values[0, :40], poses.encode([[person]]).values[0, :40])
    mask = rng.integers(0, 2, (64, 64), dtype=np.uint8)
    value = [{"point": [0.5, 0.25], "instances": [{"box": [0.0, 0.5, 0.25, 1.0], "mask": mask}]}]
    found, absent = instances.decode(instances.encode([value, None]))
    assert absent is None
    shown = found[0]["instances"][0]["mask"]
    assert shown.shape == (64, 64)
    assert set(np.unique(shown)) <= {0, 1}
    assert poses.fingerprint != load(model / "tokenizers" / "caption").fingerprint
    assert poses.fingerprint == loaded.modalities["human_poses"].fingerprint
    assert any(name.startswith("inner.") for name in poses.arrays)


@pytest.mark.slow
def test_caption_to_picture_to_larger_picture(model, downloads, words, mmtok, tmp_path):
    tokenizers = [*downloads.glob("4M_tokenizers_rgb*"), *downloads.glob("4M_tokenizers_CLIP*")]
    ran = mmtok("import", "4m", downloads / "4M-7-SR_L", *tokenizers, words, "--out", tmp_path / "larger")
    assert ran.code == 0, ran.err
    asked = ("--given", "caption=a red dog", "--recipe", "text-to-picture", "--to", "all", "--steps", "1", *CHEAP)
    ran = mmtok("sample", "--model", model, *asked, "--then", tmp_path / "larger", "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    names = ["tok_clip@224", "tok_rgb@224", "tok_clip@448", "tok_rgb@448"]
    assert [target["modality"] for target in manifest["plan"]] == names
    assert [target["scheme"] for target in manifest["plan"]] == ["roar", "roar", "maskgit", "maskgit"]
    assert [target["temperature"] for target in manifest["plan"]] == [6.0, 0.5, 1.0, 1.0]
    for name, size in (("tok_rgb@224", 224), ("tok_rgb@448", 448)):
        assert read_value(str(tmp_path / "out" / f"{name}.png"), "rgb").shape == (size, size, 3)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (
            ("tok_depth@224=semseg_4k_224-448",),
            "semseg.*modality 'tok_depth@224' of the model has 196 tokens out of 8192, this tokenizer makes 196 out of"
            " 4096",
        ),
        (
            ("words", "human_poses=DINOv2-B14-global_8k_16_224"),
            "DINOv2.*tokenizer 'human_poses': its text holds 8 tokens out of 1024 for each pose, the tokenizer given"
            " makes 16 out of 8192",
        ),
        (("words", "caption=sam-instance_1k_64"), "sam-instance.*'caption' is plain text"),
        (("words", "det=sam-instance_1k_64"), "sam-instance.*texts of the form 'boxes' hold no tokens of another"),
        (("sam-instance_1k_64",), "sam-instance.*stand in the text 'sam_instance'; give the JSON file"),
    ],
)
def test_tokenizers_that_do_not_fit(files, sentence, downloads, words, mmtok, tmp_path):
    def path(file: str) -> str:
        modality, equals, name = file.rpartition("=")
        return str(words) if name == "words" else f"{modality}{equals}{downloads / f'4M_tokenizers_{name}'}"

    ran = mmtok("import", "4m", downloads / "few", *map(path, files), "--out", tmp_path / "x")
    assert re.search(sentence, ran.error)
    assert not (tmp_path / "x").exists()

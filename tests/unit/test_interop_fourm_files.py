"""4M checkpoints of every kind, read and written back; and files that are not what they should be."""

import dataclasses
import json
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from mmtok.errors import MmtokError
from mmtok.interop.fourm.checkpoint import open_checkpoint, read_text
from mmtok.interop.fourm.config import fourm_config, modalities, model_config
from mmtok.interop.fourm.modalities import MODALITIES, identifier
from mmtok.interop.fourm.model import export_model, read_model
from mmtok.interop.fourm.parameters import table
from mmtok.model import SIZES, load_model, named_parameters
from mmtok.tensors import Spec, TensorFile, write_tensors
from reference import fourm

TINY = fourm.TINY

GELU = {
    "act_layer": "GELU",
    "gated_mlp": False,
    **dict.fromkeys(("qkv_bias", "proj_bias", "mlp_bias", "norm_bias", "qk_norm"), True),
    "num_register_tokens": 3,
}
VARIANTS = {
    "plain": {},
    "biases, registers and norms of queries": GELU,
    "vectors, learned positions": {"domains_in": ["t5_caption", "tok_imagebind_global"], "domains_out": ["metadata"]},
    "larger pictures from smaller ones": {
        "domains_in": ["rgb@448", "tok_semseg@224", "tok_semseg@448"],
        "domains_out": ["tok_semseg@448"],
    },
    "own modality embeddings": {"share_modality_embeddings": False},
}


def import_and_export(file: Path, folder: Path) -> Path:
    found = read_model(open_checkpoint(file))
    found.write(folder / "model", found.modalities, extra={})
    export_model(folder / "model", folder / "again.safetensors")
    return folder / "again.safetensors"


def assert_same_file(one: Path, other: Path) -> None:
    before, after = TensorFile(one), TensorFile(other)
    assert before.metadata == after.metadata
    assert before.specs == after.specs
    for name in before:
        assert before[name].tobytes() == after[name].tobytes(), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_files_come_back_bit_for_bit(variant, tmp_path):
    config = {**TINY, **VARIANTS[variant]}
    file = fourm.write_checkpoint(tmp_path / "a.safetensors", fourm.tiny_state(config), config)
    assert_same_file(file, import_and_export(file, tmp_path))
    model, _ = load_model(tmp_path / "model")
    assert [item.name for item in model.modalities if item.is_input] == config["domains_in"]
    assert [item.name for item in model.modalities if item.is_target] == config["domains_out"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_comes_back_bit_for_bit(dtype, tmp_path):
    state = {name: value.astype(jnp.dtype(dtype)) for name, value in fourm.tiny_state(TINY).items()}
    file = fourm.write_checkpoint(tmp_path / "a.safetensors", state, TINY)
    assert_same_file(file, import_and_export(file, tmp_path))


@pytest.mark.parametrize("dropped", [None, "to_logits", "token_emb"])
def test_tied_heads_are_one_table(dropped, tmp_path):
    state = fourm.tiny_state(TINY)
    for name in TINY["domains_out"]:
        own, heads = (f"decoder_embeddings.{name}.{leaf}.weight" for leaf in ("token_emb", "to_logits"))
        state[own] = state[heads]
        state.pop({"to_logits": heads, "token_emb": own}.get(dropped, ""), None)
    file = fourm.write_checkpoint(tmp_path / "a.safetensors", state, TINY)
    assert_same_file(file, import_and_export(file, tmp_path))
    model, _ = load_model(tmp_path / "model")
    assert model.config.tie == "head"
    assert "embeddings.tokens.head" not in named_parameters(model)


def test_configuration_beside_the_file(tmp_path):
    write = fourm.write_checkpoint
    write(tmp_path / "a" / "model.safetensors", fourm.tiny_state(TINY), {"format": "pt"})
    (tmp_path / "a" / "config.json").write_text(json.dumps(TINY))
    again = import_and_export(tmp_path / "a", tmp_path / "b")
    assert {key: read_text(text) for key, text in TensorFile(again).metadata.items()} == TINY


@pytest.mark.parametrize(
    ("case", "size", "extra"),
    [
        ("FM_B_mod7", "B", {}),
        ("FM_B_mod21", "B", {}),
        ("FM_L_SR", "L", {}),
        ("FM_XL_mod21", "XL", {}),
        ("FM_B_mod7_qknorm_gelu_bias", "B", {**GELU, "num_register_tokens": 4}),
    ],
)
def test_names_and_shapes_are_those_of_the_original(shared, case, size, extra):
    listed = json.loads((shared / "spec" / "statedicts.json").read_text())[case]
    sides = {
        side: [
            name.split(".mod_emb")[0].split(".", 1)[1]
            for name in listed
            if name.startswith(f"{side}_emb") and "mod_emb" in name
        ]
        for side in ("encoder", "decoder")
    }
    config = {**fourm_config(SIZES[size], ()), "domains_in": sides["encoder"], "domains_out": sides["decoder"], **extra}
    links = table(model_config(config, where=case), modalities(config, where=case))
    assert links.theirs == {name: tuple(shape) for name, (shape, _) in listed.items()}


def test_a_configuration_survives_both_directions():
    for size in ("Ti", "S", "B", "L", "XL"):
        config = fourm_config(SIZES[size], (MODALITIES["caption"],))
        assert config["mlp_ratio"] == 4.0
        assert model_config(config, where="here") == SIZES[size]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scaled_embeddings": True}, "scaled_embeddings=True; it cannot be exported"),
        ({"position_temperature": 10.0}, "this one has 10 and"),
        ({"head_dim": 32}, "this one has 6 x 32, 384"),
        ({"norm_eps": 1e-5}, "and 1e-05; it cannot be exported"),
    ],
)
def test_models_that_the_format_cannot_say_are_refused(changed, message):
    with pytest.raises(MmtokError, match=message):
        fourm_config(dataclasses.replace(SIZES["Ti"], **changed), ())


def test_modalities_are_those_of_the_original(shared):
    for case in ("fm7_swiglu", "fm21_qknorm"):
        described = json.loads((shared / "oracle" / f"{case}.json").read_text())
        for name, info in described["modalities"].items():
            item = MODALITIES[name]
            assert identifier(name) == info["id"]
            assert item.size == info["max_tokens"]
            assert item.vocab_size == info.get("vocab_size", 0)
            assert (item.kind == "sequence") == (info["type"] == "seq")


def spoil(change):
    state, config = fourm.tiny_state(TINY), dict(TINY)
    change(state, config)
    return state, config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, c: s.pop("encoder.0.attn.qkv.weight"), r"1 missing \(encoder.0.attn.qkv.weight\)"),
        (lambda s, c: s.pop("encoder_norm.bias"), r"1 missing \(encoder_norm.bias\)"),
        (lambda s, c: s.update(more=np.ones(2)), r"1 unexpected \(more\)"),
        (lambda s, c: s.update(mask_token=np.ones((1, 1, 8))), r"mask_token \(1, 1, 8\) instead of \(1, 1, 32\)"),
        (lambda s, c: s["encoder_norm.bias"].fill(1), "encoder_norm.bias is not the constant it must be"),
        (
            lambda s, c: s.update({"decoder_embeddings.metadata.mod_emb": np.ones((1, 1, 32), np.float32)}),
            "mod_emb differs from .*mod_emb, which the configuration says is the same",
        ),
        (lambda s, c: c.pop("domains_in"), "lacks the key 'domains_in'"),
        (lambda s, c: c.pop("act_layer"), "lacks the key 'act_layer'"),
        (lambda s, c: c.pop("num_heads"), "'dim' 32 cannot be divided among 'num_heads' 12"),
        (lambda s, c: c.pop("encoder_depth"), "missing .*encoder.1"),
        (lambda s, c: c.update(dim="wide"), "'dim' must be a int, it is 'wide'"),
        (lambda s, c: c.update(act_layer="ReLU"), "act_layer is 'ReLU', expected SiLU or GELU"),
        (lambda s, c: c.update(decoder_causal_mask=True), "only the block-wise"),
        (lambda s, c: c.update(domains_in=["tok_semseg@225"]), "unknown modality 'tok_semseg@225' .*tok_semseg@224"),
        (lambda s, c: c.update(domains_out=["rgb@224"]), "domains_out lists 'rgb@224', which is continuous"),
    ],
)
def test_what_does_not_fit_is_one_sentence(change, message, tmp_path):
    state, config = spoil(change)
    file = fourm.write_checkpoint(tmp_path / "a.safetensors", state, config)
    with pytest.raises(MmtokError, match=message) as caught:
        read_model(open_checkpoint(file))
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_files_of_another_kind(tmp_path):
    file = fourm.write_checkpoint(tmp_path / "a.safetensors", fourm.tiny_state(TINY), {"format": "pt"})
    with pytest.raises(MmtokError, match=r"no configuration in its metadata, and no config.json beside it"):
        open_checkpoint(file)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(MmtokError, match=r"must be a JSON object, it is a list"):
        open_checkpoint(file)
    os.truncate(file, 5000)
    with pytest.raises(MmtokError, match=r"a.safetensors: truncated, or not a safetensors file"):
        open_checkpoint(file)
    file.write_bytes(b"PK\x03\x04 a zip file of pickles")
    with pytest.raises(MmtokError, match=r"a.safetensors: truncated, or not a safetensors file"):
        open_checkpoint(file)
    with pytest.raises(MmtokError, match=r"no such file"):
        open_checkpoint(tmp_path / "b.safetensors")
    with pytest.raises(MmtokError, match=r"a folder with one safetensors file was expected, it holds none"):
        open_checkpoint(Path(__file__).parent)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("768", 768),
        ("4.0", 4.0),
        ("True", True),
        ("false", False),
        ("None", None),
        ("null", None),
        ("SiLU", "SiLU"),
        ("['caption', 'det']", ["caption", "det"]),
        ('["caption"]', ["caption"]),
        ("a: b", "a: b"),
        ("1" * 20_000, "1" * 20_000),
    ],
)
def test_texts_of_metadata(text, value):
    assert read_text(text) == value


def test_tensors_are_read_one_at_a_time(tmp_path):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.ones((), np.float32),
        "half": np.arange(3).astype(jnp.bfloat16),
        "none": np.zeros((0, 4), np.int64),
        "flag": np.array([True, False]),
    }
    specs = {name: Spec(array.shape, array.dtype) for name, array in arrays.items()}
    write_tensors(tmp_path / "x.safetensors", specs, arrays.__getitem__, metadata={"k": "ü"})
    found = TensorFile(tmp_path / "x.safetensors")
    assert found.metadata == {"k": "ü"}
    assert found.specs == specs
    for name, array in arrays.items():
        assert found[name].tobytes() == array.tobytes()

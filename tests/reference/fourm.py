"""Masked samples of 4M as batches of this project, and its reference cases as checkpoint files."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mmtok.batch import DecoderSlots, EncoderSlots, MaskedBatch
from mmtok.interop.fourm.config import modalities, model_config
from mmtok.interop.fourm.parameters import table
from mmtok.modality import Modality


def load_case(shared: Path, case: str, folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], Path]:
    """Returns the description and the arrays of a reference case, and its checkpoint, written into `folder`."""
    spec = importlib.util.spec_from_file_location("checkpoint", shared / "oracle" / "checkpoint.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    description, state, arrays = module.load(case)
    file = folder / f"{case}.safetensors"
    metadata = {key: str(value) for key, value in description["config"].items()}
    save_file({name: np.ascontiguousarray(value) for name, value in state.items()}, file, metadata=metadata)
    return description, arrays, file


def batch_of(
    arrays: Mapping[str, np.ndarray],
    description: Mapping[str, Any],
    modalities: tuple[Modality, ...],
) -> MaskedBatch:
    """Returns 4M's masked modalities (True masks mean excluded) as a batch; decoder blocks in `domains_out` order."""
    index = {item.name: number for number, item in enumerate(modalities)}
    vectors, encoder, decoder = {}, [], []
    for name in description["modalities"]:  # the order of the data, which need not be that of `domains_in`
        item, hidden = modalities[index[name]], arrays[f"in/{name}/input_mask"]
        tensor, slots = arrays[f"in/{name}/tensor"], np.arange(hidden.shape[1])
        position = np.where(hidden, 0, np.cumsum(~hidden, 1) - 1) if item.in_spans else np.tile(slots, (len(hidden), 1))
        if item.kind == "continuous":
            vectors[name] = tensor if tensor.ndim == 3 else patches(tensor, item)
            tensor = np.tile(slots, (len(hidden), 1))
        encoder.append((~hidden, tensor, np.full(hidden.shape, index[name]), position))
    for name in description["config"]["domains_out"]:
        item, hidden = modalities[index[name]], arrays[f"in/{name}/target_mask"]
        tensor, codes = arrays[f"in/{name}/tensor"], arrays[f"in/{name}/decoder_attention_mask"]
        number = np.full(hidden.shape, index[name])
        if item.kind == "sequence":
            position = np.where(hidden, 0, np.cumsum(~hidden, 1) - 1)
            valid = ~(hidden[:, :-1] | hidden[:, 1:])
            row = (valid, tensor[:, :-1], number[:, 1:], position[:, :-1], codes[:, :-1], tensor[:, 1:])
        else:
            position = np.tile(np.arange(hidden.shape[1]), (len(hidden), 1))
            row = (~hidden, np.zeros_like(tensor), number, position, codes, tensor)
        decoder.append(row)
    valid, ids, number, position = _keep(encoder, description["num_encoder_tokens"])
    slots = EncoderSlots(ids[..., None], number, position, valid.astype(bool), vectors)
    valid, ids, number, position, codes, targets = _keep(decoder, description["num_decoder_tokens"])
    queries = DecoderSlots(ids[..., None], number, position, valid.astype(bool), np.cumsum(codes, 1, dtype=np.int32))
    return MaskedBatch(slots, queries, np.where(valid, targets, -1)[..., None])


def _keep(parts: list[tuple[np.ndarray, ...]], count: int) -> list[np.ndarray]:
    """Concatenates the modalities, moves valid slots first (stably) and keeps `count`, padding zeroed."""
    valid, *others = (np.concatenate(column, axis=1) for column in zip(*parts))
    order = np.argsort(~valid, axis=1, kind="stable")[:, :count]
    kept = np.take_along_axis(valid, order, 1)
    return [kept.astype(np.int32)] + [
        np.where(kept, np.take_along_axis(x, order, 1), 0).astype(np.int32) for x in others
    ]


def patches(images: np.ndarray, item: Modality) -> np.ndarray:
    """(B, C, S, S) standardised -> (B, patches, P * P * C) as the model takes them, from 0 to 255."""
    batch, channels, size, _ = images.shape
    side, patch = item.shape[0], size // item.shape[0]
    split = images.reshape(batch, channels, side, patch, side, patch)
    vectors = split.transpose(0, 2, 4, 3, 5, 1).reshape(batch, side * side, -1)
    mean, std = (np.resize(np.array(value, np.float32), vectors.shape[-1]) for value in (item.mean, item.std))
    return vectors * std + mean


TINY = {
    "dim": 32,
    "num_heads": 2,
    "encoder_depth": 1,
    "decoder_depth": 1,
    "mlp_ratio": 4.0,
    "qkv_bias": False,
    "proj_bias": False,
    "mlp_bias": False,
    "norm_bias": False,
    "gated_mlp": True,
    "act_layer": "SiLU",
    "image_size": 224,
    "patch_size": 16,
    "domains_in": ["rgb@224", "tok_semseg@224", "metadata"],
    "domains_out": ["tok_semseg@224", "metadata"],
}


def tiny_state(config: Mapping[str, Any], *, seed: int = 0) -> dict[str, np.ndarray]:
    """Noise for each tensor that a checkpoint of `config` has; constants as they must be, spare tables of their own."""
    where = "tiny"
    links = table(model_config(config, where=where), modalities(config, where=where))
    rng = np.random.default_rng(seed)
    state = {name: rng.normal(size=shape).astype(np.float32) for name, shape in links.shapes.items()}
    for name, spare in links.spares.items():
        if np.isfinite(spare.tolerance):
            state[name] = spare.usual(state.__getitem__)
            state[name][..., -1] += spare.tolerance / 2  # sines that another library would compute
        else:
            state[name] = rng.normal(size=spare.shape).astype(np.float32)
    for name in state if config.get("share_modality_embeddings", True) else ():
        if name.startswith("decoder_embeddings.") and name.endswith(".mod_emb"):
            state[name] = state.get(name.replace("decoder", "encoder", 1), state[name])
    return state


def write_checkpoint(file: Path, state: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(state), file, metadata={key: str(value) for key, value in config.items()})
    return file

"""Masked samples of 4M as batches of this project, and its reference cases as checkpoint files."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mmtok.batch import DecoderSlots, EncoderSlots, MaskedBatch
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

"""A trained model on disk: config.json, model.safetensors and a card."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mmtok.config import from_json, to_json
from mmtok.errors import MismatchError, MmtokError
from mmtok.files import new_file, read_json, write_json
from mmtok.modality import Modality
from mmtok.model.anytoany import AnyToAny
from mmtok.model.config import ModelConfig

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
OWN_KEYS = ("config", "modalities", "weights")
LISTED = 8  # names per kind of disagreement that an error spells out


def save_model(
    folder: str | os.PathLike,
    model: AnyToAny,
    *,
    extra: Mapping[str, Any],
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Writes the model into `folder`; other files there stay as they are.

    Args:
      folder: Created if need be.
      model: The model.
      extra: Further keys of config.json; dataclasses, tuples and paths become JSON.
      dtype: Of the stored weights; bfloat16 halves the file, for shipping.

    Raises:
      MmtokError: `extra` uses one of the keys config, modalities, weights, or the folder cannot be written.
    """
    for key in OWN_KEYS:
        if key in extra:
            raise MmtokError(f"the extra key '{key}' of a model's description is taken; choose another name")
    values = {name: np.asarray(value.astype(dtype)) for name, value in named_parameters(model).items()}
    folder = Path(folder)
    with new_file(folder / WEIGHTS) as temporary:
        save_file(values, temporary)
    weights = {
        "fingerprint": fingerprint(values),
        "dtype": dtype,
        "parameters": sum(value.size for value in values.values()),
    }
    with new_file(folder / CARD) as temporary:
        temporary.write_text(_card(model, weights))
    description = {"config": model.config, "modalities": model.modalities, "weights": weights, **extra}
    write_json(folder / CONFIG, to_json(description))


def load_model(folder: str | os.PathLike) -> tuple[AnyToAny, dict[str, Any]]:
    """Reads a model that `save_model` wrote, strictly.

    Returns:
      The model (float32 parameters) and the whole of config.json.

    Raises:
      MmtokError: a file is missing or damaged, or parameters are missing, unexpected or of the wrong shape.
      MismatchError: the weights are not those that config.json describes.
    """
    folder = Path(folder)
    config, modalities, description = _read_description(folder / CONFIG)
    values = _read_weights(folder / WEIGHTS)
    model = nnx.eval_shape(lambda: AnyToAny(config, modalities, rngs=nnx.Rngs(0)))
    set_parameters(model, values, where=str(folder / WEIGHTS))
    recorded, found = description["weights"].get("fingerprint"), fingerprint(values)
    if found != recorded:
        raise MismatchError(
            f"{folder / WEIGHTS}: these weights have the fingerprint {found}, config.json describes {recorded};"
            " take both files from the same run"
        )
    return model, description


def named_parameters(model: AnyToAny) -> dict[str, Any]:
    """Returns the parameters (arrays, or shapes of an abstract model) by their path joined with dots."""
    return {_name(path): leaf.get_value() for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))}


def set_parameters(model: AnyToAny, values: Mapping[str, np.ndarray], *, where: str) -> None:
    """Replaces all parameters of `model`, which may be abstract, by `values` in float32.

    Args:
      model: Changed in place.
      values: By the names of `named_parameters`.
      where: Named in the error, usually the file.

    Raises:
      MmtokError: names are missing, unexpected or have another shape; the error lists them.
    """
    expected = {name: tuple(value.shape) for name, value in named_parameters(model).items()}
    faults = {
        "missing": [name for name in expected if name not in values],
        "unexpected": [name for name in values if name not in expected],
        "of another shape": [
            f"{name} {values[name].shape} instead of {shape}"
            for name, shape in expected.items()
            if name in values and values[name].shape != shape
        ],
    }
    if any(faults.values()):
        listed = "; ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in faults.items() if names)
        raise MmtokError(f"{where}: does not hold the parameters of this model: {listed}")
    state = nnx.state(model, nnx.Param)
    flat = [
        (path, leaf.replace(jnp.asarray(values[_name(path)], jnp.float32))) for path, leaf in nnx.to_flat_state(state)
    ]
    nnx.update(model, nnx.from_flat_state(flat))


def fingerprint(values: Mapping[str, np.ndarray]) -> str:
    """Returns 16 hexadecimal digits that identify names, types, shapes and bytes of the weights."""
    digest = hashlib.sha256()
    for name in sorted(values):
        value = np.ascontiguousarray(values[name])
        digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()[:16]


def _read_description(path: Path) -> tuple[ModelConfig, tuple[Modality, ...], dict[str, Any]]:
    description = read_json(path)
    if not isinstance(description, dict) or any(key not in description for key in OWN_KEYS):
        raise MmtokError(f"{path}: not the description of a model (it must hold {', '.join(OWN_KEYS)})")
    for key, kind in (("modalities", list), ("weights", dict)):
        if not isinstance(description[key], kind):
            raise MmtokError(f"{path}: '{key}' must be a {kind.__name__}, it is {description[key]!r}")
    config = from_json(ModelConfig, description["config"], where=str(path))
    modalities = tuple(from_json(Modality, item, where=str(path)) for item in description["modalities"])
    return config, modalities, description


def _read_weights(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise MmtokError(f"{path}: no such file; the model's weights belong beside {CONFIG}") from None
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise MmtokError(f"{path}: not a readable safetensors file ({error}); copy or train it again") from None


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def _some(names: list[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def _card(model: AnyToAny, weights: Mapping[str, Any]) -> str:
    c = model.config
    rows = [
        f"| {item.name} | {item.kind} | {' x '.join(map(str, item.shape))} | {'-' if item.kind == 'continuous' else item.codes}"
        f" | {item.vocab_size or '-'} | {item.fingerprint or '-'} |"
        for item in model.modalities
    ]
    return "\n".join(
        [
            "# Any-to-any model",
            "",
            f"{weights['parameters']:,} parameters stored in {weights['dtype']}, fingerprint {weights['fingerprint']}."
            f" Encoder-decoder Transformer of width {c.dim}, {c.encoder_depth} + {c.decoder_depth} layers,"
            f" {c.heads} heads of {c.head_dim}. `config.json` holds the full description;"
            " `mmtok.model.load_model(folder)` reads it.",
            "",
            "| modality | kind | positions | codes | ids | tokenizer |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )

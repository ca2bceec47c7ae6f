"""A trained model on disk: config.json, model.safetensors and a card."""

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file

from mmtok.config import from_json, to_json
from mmtok.errors import MismatchError, MmtokError
from mmtok.files import new_file, read_json, write_json
from mmtok.modality import Modality
from mmtok.model.anytoany import AnyToAny
from mmtok.model.config import ModelConfig
from mmtok.tensors import Spec, check_shapes, write_tensors

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
OWN_KEYS = ("config", "modalities", "weights")


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
    values = {name: np.asarray(value.astype(dtype)) for name, value in named_parameters(model).items()}
    specs = {name: Spec(value.shape, value.dtype) for name, value in values.items()}
    write_model(folder, model.config, model.modalities, specs, values.__getitem__, extra=extra)


def write_model(
    folder: str | os.PathLike,
    config: ModelConfig,
    modalities: tuple[Modality, ...],
    specs: Mapping[str, Spec],
    read: Callable[[str], np.ndarray],
    *,
    extra: Mapping[str, Any],
) -> None:
    """Writes a model whose parameters are made one at a time; otherwise like `save_model`.

    Args:
      folder: Created if need be.
      config: Of the model.
      modalities: Of the model.
      specs: Shape and dtype of each parameter, by the names of `named_parameters`.
      read: Gives a parameter by its name; asked twice for each.
      extra: Further keys of config.json.

    Raises:
      MmtokError: `extra` uses one of the keys config, modalities, weights, or the folder cannot be written.
    """
    for key in OWN_KEYS:
        if key in extra:
            raise MmtokError(f"the extra key '{key}' of a model's description is taken; choose another name")
    folder = Path(folder)
    write_tensors(folder / WEIGHTS, specs, read)
    weights = {
        "fingerprint": fingerprint(specs, read),
        "dtype": ", ".join(sorted({spec.dtype.name for spec in specs.values()})),
        "parameters": sum(math.prod(spec.shape) for spec in specs.values()),
    }
    with new_file(folder / CARD) as temporary:
        temporary.write_text(_card(config, modalities, weights))
    write_json(folder / CONFIG, to_json({"config": config, "modalities": modalities, "weights": weights, **extra}))


def load_model(folder: str | os.PathLike) -> tuple[AnyToAny, dict[str, Any]]:
    """Reads a model that `save_model` wrote, strictly.

    Returns:
      The model (float32 parameters) and the whole of config.json.

    Raises:
      MmtokError: a file is missing or damaged, or parameters are missing, unexpected or of the wrong shape.
      MismatchError: the weights are not those that config.json describes.
    """
    folder = Path(folder)
    config, modalities, description = load_description(folder)
    values = _read_weights(folder / WEIGHTS)
    model = nnx.eval_shape(lambda: AnyToAny(config, modalities, rngs=nnx.Rngs(0)))
    set_parameters(model, values, where=str(folder / WEIGHTS))
    recorded, found = description["weights"].get("fingerprint"), fingerprint(values, values.__getitem__)
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
    found = {name: value.shape for name, value in values.items()}
    check_shapes(expected, found, where=f"{where}: does not hold the parameters of this model")
    state = nnx.state(model, nnx.Param)
    flat = [
        (path, leaf.replace(jnp.asarray(values[_name(path)], jnp.float32))) for path, leaf in nnx.to_flat_state(state)
    ]
    nnx.update(model, nnx.from_flat_state(flat))


def fingerprint(names: Iterable[str], read: Callable[[str], np.ndarray]) -> str:
    """Returns 16 hexadecimal digits that identify names, types, shapes and bytes of the weights."""
    digest = hashlib.sha256()
    for name in sorted(names):
        value = np.ascontiguousarray(read(name))
        digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
        digest.update(value.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:16]


def load_description(folder: str | os.PathLike) -> tuple[ModelConfig, tuple[Modality, ...], dict[str, Any]]:
    """Reads what a model is, without its weights.

    Returns:
      Its shape, its modalities and the whole of config.json.

    Raises:
      MmtokError: config.json is missing, damaged or not that of a model.
    """
    path = Path(folder) / CONFIG
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


def _card(c: ModelConfig, modalities: tuple[Modality, ...], weights: Mapping[str, Any]) -> str:
    rows = [
        f"| {item.name} | {item.kind} | {' x '.join(map(str, item.shape))}"
        f" | {'-' if item.kind == 'continuous' else item.codes} | {item.vocab_size or '-'}"
        f" | {item.fingerprint or '-'} |"
        for item in modalities
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

"""4M checkpoints: safetensors with the configuration in their metadata, or in a config.json beside them."""

import ast
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmtok.errors import MmtokError
from mmtok.files import read_json
from mmtok.tensors import TensorFile

LONGEST = 10_000  # characters of a metadata value that is read as a Python value; a longer one stays a text


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose tensors are read when asked for.

    Attributes:
      path: The safetensors file.
      tensors: Tensors by name.
      config: Model configuration.
      metadata: The texts in the file that the configuration was read from; empty where it came from config.json.
    """

    path: Path
    tensors: TensorFile
    config: Mapping[str, Any]
    metadata: Mapping[str, str]


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a checkpoint.

    Args:
      path: A safetensors file, or a folder that holds one.

    Raises:
      MmtokError: there is none, it is truncated or of another kind, or it comes without a configuration.
    """
    file = _file(path)
    tensors = TensorFile(file)
    texts = {key: text for key, text in tensors.metadata.items() if key != "format"}
    if texts:
        return Checkpoint(file, tensors, {key: read_text(text) for key, text in texts.items()}, tensors.metadata)
    beside = file.with_name("config.json")
    if not beside.is_file():
        raise MmtokError(
            f"{file}: no configuration in its metadata, and no {beside.name} beside it; copy that file too"
        )
    config = read_json(beside)
    if not isinstance(config, dict):
        raise MmtokError(f"{beside}: the configuration must be a JSON object, it is a {type(config).__name__}")
    return Checkpoint(file, tensors, config, {})


def read_text(text: str) -> Any:
    """Returns the value whose `str` a metadata text is, or which it spells in JSON; any other text stays a text."""
    if len(text) > LONGEST:
        return text
    for parse in (ast.literal_eval, json.loads):
        try:
            return parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text


def write_text(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns a configuration as metadata."""
    return {key: str(value) for key, value in config.items()}


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    files = sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        found = f"{len(files)} of them" if files else "none"
        raise MmtokError(f"{path}: a folder with one safetensors file was expected, it holds {found}")
    return files[0]

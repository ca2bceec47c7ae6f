"""4M's tokenizers, in and out."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmtok.errors import MmtokError
from mmtok.interop.fourm import tokenizer_names as table
from mmtok.interop.fourm.tokenizer_config import fourm_config, tokenizer_config
from mmtok.interop.fourm.tokenizer_names import ALIASES, INITIALISED, Link
from mmtok.tokenizers.artifact import Tokenizer, create
from mmtok.tokenizers.divae import DiVAEConfig
from mmtok.tokenizers.networks.uvit import UViTConfig
from mmtok.tokenizers.units import Values
from mmtok.tokenizers.vectors import VectorConfig
from mmtok.tokenizers.vq import VQTokenizerConfig


def import_tokenizer(
    tensors: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    *,
    name: str,
    source: str,
    values: Values | None = None,
    size: int | None = None,
) -> Tokenizer:
    """Returns an ordinary tokenizer with the weights of a VQVAE, DiVAE or Memcodes tokenizer of 4M.

    Args:
      tensors: The state dict.
      config: The 4M configuration; unknown keys are ignored, as there.
      name: Name of the modality.
      source: Raw field it is made from.
      values: What the numbers of a picture mean; guessed from the configuration unless given.
      size: Height and width of the pictures (cells, for feature maps); those of the configuration unless given.

    Raises:
      MmtokError: the configuration asks for what is not supported, or the tensors are not those that it asks for (all
        that are missing, unexpected or mis-shaped are listed).
    """
    where = f"4M tokenizer '{name}'"
    settings = tokenizer_config(config, tensors, where=where, values=values, size=size)
    empty = create(name=name, source=source, config=settings)
    arrays, read, faults = {}, set(), []
    for link in _links(empty):
        parts = [_Part(tensors, theirs, link.shape) for theirs in link.theirs]
        read |= {each for part in parts for each in part.names}
        faults += [fault for part in parts for fault in part.faults]
        if not faults:
            turned = [link.layout[0](part.value) for part in parts]
            arrays[link.ours] = np.stack(turned) if link.stacked else np.ascontiguousarray(turned[0])
    if _has_codebook(empty):
        flag = _Part(tensors, INITIALISED, (1,))
        read |= set(flag.names)
        faults += flag.faults or ([] if flag.value[0] == 1 else [f"{INITIALISED} is {flag.value[0]} instead of 1"])
    faults += [f"unexpected {each}" for each in sorted(set(tensors) - read)]
    if faults:
        raise MmtokError(f"{where}: not the tensors that its configuration asks for: {'; '.join(faults)}")
    return dataclasses.replace(empty, arrays=arrays)


def export_tokenizer(tokenizer: Tokenizer) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the state dict and the configuration of a tokenizer in the format of 4M.

    Raises:
      MmtokError: 4M has no such tokenizers, or it has not been trained.
    """
    config = fourm_config(tokenizer)
    tokenizer.require_complete()
    tensors = {INITIALISED: np.ones(1, np.float32)} if _has_codebook(tokenizer) else {}
    for link in _links(tokenizer):
        array = tokenizer.arrays[link.ours]
        for theirs, part in zip(link.theirs, array if link.stacked else [array], strict=True):
            tensors[theirs] = np.ascontiguousarray(link.layout[1](part))
            other = _alias(theirs)
            if other is not None:
                tensors[other] = tensors[theirs]
    return tensors, config


def _links(tokenizer: Tokenizer) -> list[Link]:
    """All parameters of a tokenizer and their tensors."""
    shapes = {name: shape for name, (shape, _) in tokenizer.expected().items()}
    match tokenizer.config:
        case VQTokenizerConfig():
            found = list(table.links(shapes, table.VQVAE))
        case VectorConfig():
            found = list(table.links(shapes, table.VECTORS))
        case DiVAEConfig(uvit=None):
            found = list(table.links(shapes, table.UNET))
        case DiVAEConfig(uvit=UViTConfig() as uvit):
            found = list(table.links(shapes, table.UVIT))
            attends = uvit.condition == "xattn"
            early = uvit.depth - uvit.depth // 2 if uvit.long_skips else uvit.depth
            found += table.links(shapes, table.blocks(attends=attends, late=False))
            found += table.links(shapes, table.blocks(attends=attends, late=True), first=early)
        case _:
            raise AssertionError(f"family '{tokenizer.config.family}' has a configuration but no names")
    assert sorted(link.ours for link in found) == sorted(shapes), "each parameter must stand in the table once"
    return found


def _has_codebook(tokenizer: Tokenizer) -> bool:
    return not isinstance(tokenizer.config, VectorConfig)


def _alias(name: str) -> str | None:
    return next((name.replace(one, other) for one, other in ALIASES.items() if name.startswith(one)), None)


class _Part:
    """A tensor under its name, or names.

    Attributes:
      names: Those that are there; a saver may have dropped one of two.
      value: The tensor.
      faults: What is wrong with it.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]):
        names = (name, _alias(name))
        found = {each: tensors[each] for each in names if each is not None and each in tensors}
        self.names, self.faults = tuple(found), [] if found else [f"missing {name}"]
        for each, tensor in found.items():
            self.value = tensor
            if tensor.shape != shape or tensor.dtype != np.float32:
                self.faults.append(f"{each} is {tensor.dtype}{tensor.shape} instead of float32{shape}")
        if not self.faults and not all(np.array_equal(self.value, tensor) for tensor in found.values()):
            self.faults.append(f"{' and '.join(found)} are two names of one tensor, but differ")

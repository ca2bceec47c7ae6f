"""A trained model with its tokenizers: raw values in, raw values out."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmtok.batch import TokenColumn
from mmtok.config import from_json
from mmtok.errors import MismatchError, MmtokError, unknown
from mmtok.generate import Features, Known, Sampler, Target
from mmtok.modality import Modality, by_name
from mmtok.model import load_model
from mmtok.source import Sample
from mmtok.tokenizers.artifact import Tokenizer, load

PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"

Box = tuple[float, float, float, float]
"""Left, top, right, bottom as fractions of the picture's centre square, which is all that tokenizers take."""


@dataclasses.dataclass(frozen=True)
class Loaded:
    """An any-to-any model ready to use.

    Attributes:
      sampler: The decoding engine around the model.
      tokenizers: By modality name.
      sampling: Default settings per target modality.
    """

    sampler: Sampler
    tokenizers: Mapping[str, Tokenizer]
    sampling: Mapping[str, Target]

    @property
    def modalities(self) -> dict[str, Modality]:
        """The model's modalities by name."""
        return by_name(self.sampler.modalities)

    @property
    def fields(self) -> dict[str, str]:
        """Raw field -> how it is shown and read (`mmtok.show`)."""
        return {modality.source: modality.show for modality in reversed(self.sampler.modalities)}

    def plan(self, targets: Sequence[str], **overrides: Any) -> tuple[Target, ...]:
        """Returns the chain of targets with the model's default settings, changed by `overrides`.

        Raises:
          MmtokError: a target the model does not have or cannot produce.
        """
        plan = []
        for name in targets:
            if name not in self.modalities:
                raise unknown("target modality", name, [n for n, m in self.modalities.items() if m.is_target])
            target = self.sampling.get(name, Target(modality=name))
            plan.append(dataclasses.replace(target, **overrides))
        return tuple(plan)

    def targets(self, given: Collection[str]) -> list[str]:
        """Returns all modalities that can be made and are not made from a given raw field, in the model's own order."""
        names = [*self.sampling, *(name for name in self.modalities if name not in self.sampling)]
        modalities = [self.modalities[name] for name in names]
        return [item.name for item in modalities if item.is_target and item.source not in given]

    def encode(self, samples: Sequence[Sample]) -> dict[str, TokenColumn]:
        """Encodes raw samples: every modality whose raw field occurs in at least one of them.

        Raises:
          MmtokError: a field that no modality of the model is made from, or a value its tokenizer does not take.
        """
        given = dict.fromkeys(field for sample in samples for field in sample)
        for field in given:
            if field not in self.fields:
                raise unknown("input field", field, self.fields)
        return {
            name: self.tokenizers[name].encode([sample.get(modality.source) for sample in samples])
            for name, modality in self.modalities.items()
            if modality.source in given
        }

    def sample(
        self,
        samples: Sequence[Sample],
        targets: Sequence[str] | Sequence[Target],
        *,
        seed: int = 0,
        keep: Mapping[str, Box] | None = None,
    ) -> list[dict[str, Any]]:
        """Generates the targets, in order, for each raw sample; later targets are conditioned on earlier ones.

        Args:
          samples: What is given; any subset of the model's raw fields, another one for each sample if need be.
          targets: Modality names, or settings as `plan` returns them.
          seed: Of all random choices; the result of a sample depends on the seed and its place in `samples`.
          keep: Raw field -> the part of the picture that is known; the rest is unknown, and generated when the field
            is also a target.

        Returns:
          Per sample: target modality -> decoded raw value.
        """
        plan = tuple(item if isinstance(item, Target) else self.plan([item])[0] for item in targets)
        known = self.known(self.encode(samples), keep or {})
        columns = self.sampler.sample(known, plan, seed=seed)
        decoded = {
            target.modality: self.tokenizers[target.modality].decode(columns[target.modality]) for target in plan
        }
        return [{name: values[row] for name, values in decoded.items()} for row in range(len(samples))]

    def embed(self, samples: Sequence[Sample], *, only: Sequence[str] = (), batch_size: int = 64) -> Features:
        """Returns what the model's encoder makes of raw samples; the decoder is not used.

        Args:
          samples: Any subset of the model's raw fields each.
          only: The modalities to read; empty means all that are made from the fields given.
          batch_size: Samples per compiled step.

        Returns:
          Pooled features (B, D), those of the tokens (B, N, D), and what the tokens are (B, N each).

        Raises:
          MmtokError: a field or modality that the model does not have or cannot read, or a value that does not fit.
        """
        readable = [name for name, modality in self.modalities.items() if modality.is_input]
        for name in only:
            if name not in readable:
                raise unknown("input modality", name, readable)
        columns = self.encode(samples)
        chosen = {name: column for name, column in columns.items() if name in (only or readable)}
        return self.sampler.features(self.known(chosen, {}), batch_size=batch_size)

    def known(self, columns: Mapping[str, TokenColumn], keep: Mapping[str, Box]) -> dict[str, Known]:
        """Returns the columns as known tokens, of which only those inside the kept part are visible."""
        for field in keep:
            if field not in {self.modalities[name].source for name in columns}:
                raise MmtokError(f"keep: the field '{field}' is not among the given ones")
        return {
            name: _crop(Known.whole(column), self.modalities[name], keep[self.modalities[name].source])
            if self.modalities[name].source in keep
            else Known.whole(column)
            for name, column in columns.items()
        }


def load_anytoany(path: str | Path) -> Loaded:
    """Opens a finished model with its tokenizers.

    Args:
      path: Folder that `mmtok train` wrote, or the name of a model that ships with mmtok (`scenes`).

    Raises:
      MmtokError: no model there, or a damaged one.
      MismatchError: its tokenizers are not those it was trained with.
    """
    folder = Path(path)
    if not folder.exists() and (PRETRAINED / str(path)).exists():
        folder = PRETRAINED / str(path)
    if not (folder / "config.json").exists():
        shipped = sorted(item.parent.name for item in PRETRAINED.glob("*/config.json"))
        raise MmtokError(
            f"{path}: no finished model there; name the folder of one that `mmtok train` has finished"
            f" (shipped: {', '.join(shipped) or 'none'})"
        )
    model, description = load_model(folder)
    tokenizers = {}
    for modality in model.modalities:
        tokenizer = load(folder / "tokenizers" / modality.name)
        if tokenizer.modality.fingerprint != modality.fingerprint:
            raise MismatchError(
                f"modality '{modality.name}': the model in {folder} was trained with tokenizer {modality.fingerprint},"
                f" but {folder / 'tokenizers' / modality.name} is {tokenizer.modality.fingerprint}"
            )
        tokenizers[modality.name] = tokenizer
    sampling = {
        name: from_json(Target, target, where=f"{folder / 'config.json'}: sampling")
        for name, target in description.get("sampling", {}).items()
    }
    return Loaded(Sampler(model), tokenizers, sampling)


def _crop(known: Known, modality: Modality, box: Box) -> Known:
    """Hides the positions of a 2-D grid whose centre lies outside `box`."""
    if len(modality.shape) != 2 or modality.kind == "sequence":
        raise MmtokError(f"keep: '{modality.name}' is not a picture; only a picture can be known in part")
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise MmtokError(
            f"keep: {box} must be left,top,right,bottom with 0 <= left < right <= 1, 0 <= top < bottom <= 1"
        )
    rows, columns = (np.arange(size) + 0.5 for size in modality.shape)
    rows, columns = rows / modality.shape[0], columns / modality.shape[1]
    inside = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))
    return dataclasses.replace(known, visible=known.visible & inside.reshape(-1))

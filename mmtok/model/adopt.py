"""A model that starts from another one: the parameters they share, and new rows for what is new."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from mmtok.errors import MmtokError
from mmtok.modality import Modality, by_name
from mmtok.model.config import ModelConfig
from mmtok.model.tables import Members, row_offsets

FREE = ("dtype", "remat", "attention")  # settings that change no parameter
SAME = ("kind", "shape", "codes", "channels", "learned_positions")  # of a modality that both models have
SPLIT = {
    "embeddings.modality",
    "embeddings.decoder_modality",
    "embeddings.encoder_position",
    "embeddings.decoder_position",
    "embeddings.tokens.encoder",
    "embeddings.tokens.decoder",
    "embeddings.tokens.head",
}
"""Parameters whose rows belong to modalities."""


@dataclasses.dataclass(frozen=True)
class Adopted:
    """The parameters of a model that starts from another one.

    Attributes:
      values: By the names of `named_parameters`.
      kept: Parameters, or the modalities' parts of them, that come from the other model.
      new: Those that do not.
    """

    values: Mapping[str, np.ndarray]
    kept: tuple[str, ...]
    new: tuple[str, ...]


def adopt(
    fresh: Mapping[str, np.ndarray],
    model: tuple[ModelConfig, tuple[Modality, ...]],
    values: Mapping[str, np.ndarray],
    initial: tuple[ModelConfig, tuple[Modality, ...]],
) -> Adopted:
    """Returns the parameters of a model that starts from another one.

    Args:
      fresh: Newly initialised parameters of the model; what is new stays as it is here.
      model: Its shape and modalities.
      values: Parameters of the other model.
      initial: The other's shape and modalities.

    Raises:
      MmtokError: the models differ in more than their modalities, or a modality of the same name in its form.
    """
    _check(model, initial)
    ours, theirs = _parts(fresh, *model), _parts(values, *initial)
    result = {name: np.array(value) for name, value in fresh.items()}
    for (name, owner), rows in ours.items():
        if (name, owner) in theirs:
            result[name][rows] = np.asarray(values[name])[theirs[name, owner]]
    said = {part: f"{part[0]} of {part[1]}" if part[1] else part[0] for part in ours}
    return Adopted(
        result,
        kept=tuple(said[part] for part in ours if part in theirs),
        new=tuple(said[part] for part in ours if part not in theirs),
    )


def _check(model: tuple[ModelConfig, tuple[Modality, ...]], initial: tuple[ModelConfig, tuple[Modality, ...]]) -> None:
    (config, modalities), (other, others) = model, initial
    for field in dataclasses.fields(ModelConfig):
        ours, theirs = getattr(config, field.name), getattr(other, field.name)
        if field.name not in FREE and ours != theirs:
            raise MmtokError(
                f"the initial model has {field.name} = {theirs}, the project's model {ours}; take the same"
            )
    table = by_name(others)
    for item in modalities:
        for key in SAME if item.name in table else ():
            ours, theirs = getattr(item, key), getattr(table[item.name], key)
            if ours != theirs:
                raise MmtokError(f"modality '{item.name}': {key} is {ours}, in the initial model {theirs}; rename it")
        if item.name in table and item.vocab_size != table[item.name].vocab_size:
            sizes = f"{item.vocab_size} ids, in the initial model {table[item.name].vocab_size}"
            raise MmtokError(f"modality '{item.name}': its vocabulary has {sizes}; rename it")


def _parts(
    parameters: Mapping[str, np.ndarray], config: ModelConfig, modalities: tuple[Modality, ...]
) -> dict[tuple[str, str], slice]:
    """(Parameter, modality it belongs to or "") -> rows."""
    parts = {(name, ""): slice(None) for name in parameters if name not in SPLIT}
    members, learned = Members.of(modalities, config.tie), 0
    for index, item in enumerate(modalities):
        found = {"embeddings.modality": slice(index, index + 1), "embeddings.decoder_modality": slice(index, index + 1)}
        if item.learned_positions:
            for side in ("encoder", "decoder"):
                found[f"embeddings.{side}_position"] = slice(learned, learned + item.positions)
            learned += item.positions
        for name in ("encoder", "decoder", "head"):
            rows = getattr(members, name)
            if item in rows:
                start = int(row_offsets(modalities, rows)[0][index, 0])
                found[f"embeddings.tokens.{name}"] = slice(start, start + item.codes * item.vocab_size)
        parts |= {(name, item.name): rows for name, rows in found.items() if name in parameters}
    return parts

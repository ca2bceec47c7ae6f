"""Any-to-any models of 4M: from their checkpoint to a model folder, and back."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from mmtok.errors import MmtokError
from mmtok.files import new_file
from mmtok.interop.fourm.checkpoint import Checkpoint, read_text, write_text
from mmtok.interop.fourm.config import DEFAULTS, fourm_config, modalities, model_config
from mmtok.interop.fourm.parameters import Table, table
from mmtok.modality import Modality
from mmtok.model import ModelConfig, load_description, write_model
from mmtok.tensors import Spec, TensorFile, check_shapes, write_tensors

RECORD = "fourm"
"""Key of a model's config.json: what an export needs beside the parameters."""

SPARES = "fourm.safetensors"
"""File of a model folder: the tensors that no parameter of ours holds, where they are not as usual."""


@dataclasses.dataclass(frozen=True)
class Record:
    """What was found in the imported file.

    Attributes:
      metadata: Its texts.
      dtypes: Dtype of each tensor that is not float32.
      absent: Tied tensors of which the file holds another one only.
    """

    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    dtypes: dict[str, str] = dataclasses.field(default_factory=dict)
    absent: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Import:
    """A checkpoint that has been checked and can be written as a model.

    Attributes:
      checkpoint: Where the tensors are.
      config: Shape of the model.
      modalities: In the order of the checkpoint; without tokenizers' fingerprints.
      table: Where each tensor goes.
    """

    checkpoint: Checkpoint
    config: ModelConfig
    modalities: tuple[Modality, ...]
    table: Table

    def parameter(self, name: str) -> np.ndarray:
        """Returns one of the model's parameters, float32."""
        return self.table.import_parameter(name, self.checkpoint.tensors)

    def write(self, folder: Path, modalities: tuple[Modality, ...], *, extra: Mapping[str, Any]) -> None:
        """Writes a model folder, one parameter at a time.

        Args:
          folder: Created if need be.
          modalities: Those of this import, with what their tokenizers add (fingerprint, source, show).
          extra: Further keys of config.json.
        """
        _write_spares(folder / SPARES, self.checkpoint.tensors, self.table)
        specs = {name: Spec(shape, np.dtype(np.float32)) for name, shape in self.table.ours.items()}
        write_model(folder, self.config, modalities, specs, self.parameter, extra={RECORD: self.record, **extra})

    @property
    def record(self) -> Record:
        """What an export needs beside the parameters."""
        tensors, checkpoint = self.checkpoint.tensors, self.checkpoint
        return Record(
            metadata=dict(checkpoint.metadata) or write_text(checkpoint.config),
            dtypes={name: spec.dtype.name for name, spec in tensors.specs.items() if spec.dtype != np.float32},
            absent=tuple(name for name in self.table.shapes if name not in tensors),
        )


def read_model(checkpoint: Checkpoint) -> Import:
    """Checks a checkpoint of an any-to-any model against its configuration.

    Raises:
      MmtokError: the configuration is incomplete or asks for what is not supported; tensors are missing, unexpected or
        of another shape (all are listed), or have values that the format does not allow.
    """
    where, tensors = str(checkpoint.path), checkpoint.tensors
    items = modalities(checkpoint.config, where=where)
    config = model_config(checkpoint.config, where=where)
    if _heads_are_tied(tensors, items):
        config = dataclasses.replace(config, tie="head")
    links = table(config, items)
    tied = {
        link.theirs for part in links.parts.values() if any(link.theirs in tensors for link in part) for link in part
    }
    check_shapes(
        {name: shape for name, shape in links.theirs.items() if name in tensors or name not in tied},
        {name: spec.shape for name, spec in tensors.specs.items()},
        where=f"{where}: does not hold the tensors that its configuration asks for",
    )
    _check_values(tensors, links, where)
    return Import(checkpoint, config, items, links)


def export_model(folder: Path, file: Path) -> None:
    """Writes a model folder as a 4M checkpoint, one tensor at a time.

    A model that came from one and was not trained further gives the same tensors, bit for bit, and the same metadata.

    Raises:
      MmtokError: there is no model, it is damaged, or 4M has no such models.
    """
    config, items, description = load_description(folder)
    found = description.get(RECORD, {})
    record = Record(**{**found, "absent": tuple(found.get("absent", ()))})
    links = table(config, items)
    parameters = TensorFile(folder / "model.safetensors")
    check_shapes(
        links.ours,
        {name: spec.shape for name, spec in parameters.specs.items()},
        where=f"{parameters.path}: does not hold the parameters of this model",
    )
    spares = TensorFile(folder / SPARES) if (folder / SPARES).exists() else {}

    def read(name: str) -> np.ndarray:
        if name in spares:
            return spares[name]
        spare = links.spares.get(name)
        value = links.export_tensor(name, parameters) if spare is None else spare.usual(read)
        return value.astype(specs[name].dtype)

    specs = {
        name: Spec(shape, np.dtype(jnp.dtype(record.dtypes.get(name, "float32"))))
        for name, shape in links.theirs.items()
        if name not in record.absent
    }
    write_tensors(file, specs, read, metadata=_metadata(fourm_config(config, items), record.metadata))


def carry_over(source: Path, folder: Path) -> dict[str, Any]:
    """Copies what an export needs from a model folder to that of a model that was trained from it.

    Returns:
      Keys for its config.json; none where the source did not come from 4M.
    """
    if (source / SPARES).exists():
        with new_file(folder / SPARES) as temporary:
            shutil.copyfile(source / SPARES, temporary)
    description = load_description(source)[2]
    return {RECORD: description[RECORD]} if RECORD in description else {}


def _metadata(config: Mapping[str, Any], found: Mapping[str, str]) -> dict[str, str]:
    """The metadata of the imported file, in which only what has changed since is written anew."""
    changed = {}
    for key, value in config.items():
        said = read_text(found[key]) if key in found else DEFAULTS.get(key, value) if found else None
        same = sorted(said) == sorted(value) if isinstance(said, list) and isinstance(value, list) else said == value
        if not same:
            changed[key] = value
    return {**found, **write_text(changed)}


def _heads_are_tied(tensors: TensorFile, items: tuple[Modality, ...]) -> bool:
    """Whether 4M's decoder embeddings are its output heads, as in training: the same tensors, or stored only once."""
    for item in items:
        names = [f"decoder_embeddings.{item.name}.{leaf}.weight" for leaf in ("token_emb", "to_logits")]
        if item.is_target and all(name in tensors for name in names) and not _equal(*(tensors[name] for name in names)):
            return False
    return True


def _check_values(tensors: TensorFile, links: Table, where: str) -> None:
    faults = []
    for name, spare in links.spares.items():
        if np.isfinite(spare.tolerance):
            far = np.abs(tensors[name].astype(np.float64) - spare.usual(tensors.__getitem__))
            rounding = float(jnp.finfo(tensors.specs[name].dtype).eps) if spare.tolerance else 0.0
            if not far.max(initial=0) <= spare.tolerance + rounding:
                faults.append(f"{name} is not the constant it must be")
    for part in links.parts.values():
        first, *others = (link for link in part if link.theirs in tensors)
        faults += [
            f"{other.theirs} differs from {first.theirs}, which the configuration says is the same"
            for other in others
            if not _equal(tensors[first.theirs], tensors[other.theirs])
        ]
    if faults:
        raise MmtokError(f"{where}: {'; '.join(faults)}")


def _write_spares(file: Path, tensors: TensorFile, links: Table) -> None:
    specs = {
        name: tensors.specs[name]
        for name, spare in links.spares.items()
        if not _equal(tensors[name], spare.usual(tensors.__getitem__).astype(tensors.specs[name].dtype))
    }
    if specs:
        write_tensors(file, specs, tensors.__getitem__)


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays hold the same bits."""
    return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()

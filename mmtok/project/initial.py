"""The model that a project's training starts from."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmtok.errors import MismatchError
from mmtok.modality import Modality, by_name
from mmtok.model import ModelConfig, adopt, load_description
from mmtok.progress import say
from mmtok.project.config import Field
from mmtok.tensors import TensorFile
from mmtok.tokenizers.artifact import load

LISTED = 6  # new parameters that are spelled out


@dataclasses.dataclass(frozen=True)
class Initial:
    """A finished model, as the start of another project.

        base = Initial.open("models/4m-7-b")
        Project(initial=base.folder, model=base.model, modalities={**base.fields, "thermal": Field(...)}, ...)

    Attributes:
      folder: Of the model.
      model: Its shape.
      modalities: Its modalities.
      description: The whole of its config.json.
    """

    folder: Path
    model: ModelConfig
    modalities: tuple[Modality, ...]
    description: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path | str) -> "Initial":
        """Reads what the model is, without its weights.

        Raises:
          MmtokError: there is no model, or it is damaged.
        """
        return cls(Path(folder), *load_description(folder))

    def tokenizer_folder(self, name: str) -> Path:
        """The artifact of the tokenizer of modality `name`."""
        return self.folder / "tokenizers" / name

    def has(self, name: str) -> bool:
        """Whether the model has a modality."""
        return name in by_name(self.modalities)

    @property
    def fields(self) -> dict[str, Field]:
        """How each modality of the model is made, for the `modalities` of a project."""
        tokenizers = {item.name: load(self.tokenizer_folder(item.name)) for item in self.modalities}
        return {name: Field(tokenizer=made.config, source=made.source) for name, made in tokenizers.items()}

    def inherit(self, item: Modality) -> Modality:
        """Returns a modality of the project as the model has it; one that it does not have stays as it is.

        Raises:
          MismatchError: the project makes its tokens in another way.
        """
        own = by_name(self.modalities).get(item.name)
        if own is None:
            return item
        if own.fingerprint != item.fingerprint:
            raise MismatchError(
                f"modality '{item.name}': the initial model in {self.folder} was trained with tokenizer"
                f" {own.fingerprint}, the project's is {item.fingerprint}; copy the model's, or rename the modality"
            )
        return own

    def start(self, fresh: Mapping[str, jax.Array], model: ModelConfig, items: tuple[Modality, ...]) -> dict[str, Any]:
        """Returns the parameters to start from, and says which are kept and which are new."""
        values = TensorFile(self.folder / "model.safetensors")
        read = {name: values[name].astype(np.float32) for name in values}
        adopted = adopt(
            {name: np.asarray(value) for name, value in fresh.items()},
            (model, items),
            read,
            (self.model, self.modalities),
        )
        listed = ", ".join(adopted.new[:LISTED]) + (", ..." if len(adopted.new) > LISTED else "")
        say(f"model: {len(adopted.kept)} parameters from {self.folder}, {len(adopted.new)} new ({listed or 'none'})")
        return dict(adopted.values)

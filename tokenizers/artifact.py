"""A tokenizer on disk: weights, config, preprocessing and fingerprint in one folder.

    folder/config.json          family, name, source field, config, modality, fingerprint, summary
    folder/model.safetensors    weights or fitted tables, where there are any
    folder/FILE                 whatever else the family needs (listed in config.json)
    folder/README.md            a card for people

A tokenizer is a value: training or fitting it gives a new one.
"""

import dataclasses
import functools
import hashlib
import importlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mmtok import config as configs
from mmtok.batch import TokenColumn
from mmtok.codec import Codec
from mmtok.errors import MismatchError, MmtokError, unknown
from mmtok.files import new_folder, read_json
from mmtok.grammar import Grammar, free
from mmtok.metrics import Mean
from mmtok.modality import Modality

_BUILT_IN = {
    "image": "mmtok.tokenizers.images:ImageTokenizer",
    "feature": "mmtok.tokenizers.features:FeatureTokenizer",
    "text": "mmtok.tokenizers.text:TextTokenizer",
    "wordpiece": "mmtok.tokenizers.wordpiece:WordPieceTokenizer",
    "4m-text": "mmtok.interop.fourm.texts:FourMTextTokenizer",
    "boxes": "mmtok.tokenizers.coordinates:BoxTokenizer",
    "palette": "mmtok.tokenizers.coordinates:PaletteTokenizer",
    "metadata": "mmtok.tokenizers.coordinates:MetadataTokenizer",
    "scalars": "mmtok.tokenizers.scalars:ScalarTokenizer",
    "pixels": "mmtok.tokenizers.pixels:PixelTokenizer",
    "embeddings": "mmtok.tokenizers.embeddings:EmbeddingTokenizer",
    "ids": "mmtok.tokenizers.ids:IdTokenizer",
    "vq": "mmtok.tokenizers.vq:VQTokenizer",
    "divae": "mmtok.tokenizers.divae:DiVAETokenizer",
    "memcodes": "mmtok.tokenizers.vectors:VectorTokenizer",
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Tokenizer(Codec):
    """Base of all tokenizers; a `mmtok.codec.Codec`.

    A family is a subclass with a frozen dataclass as `Config`, whose class attribute `family` is the name under which
    the family is found (built-in table, or entry points of the group `mmtok.tokenizers`).

    Attributes:
      name: Name of the modality.
      source: Raw field it is made from.
      config: Of the class `Config`, with everything needed to repeat the preprocessing.
      arrays: Weights or fitted tables by name; empty before training and for families that need none.
      files: Contents of further files by name.
      summary: What was measured when it was made; for people, not part of the fingerprint.
    """

    Config: ClassVar[type]

    name: str
    source: str
    config: Any
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False)
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict, repr=False)
    summary: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @functools.cached_property
    def modality(self) -> Modality:  # pyright: ignore[reportIncompatibleMethodOverride]  (a property, computed once)
        """The modality its tokens belong to."""
        raise NotImplementedError

    @functools.cached_property
    def grammar(self) -> Grammar | None:
        """Which token sequences `decode` can read as a whole; None for what is no sequence."""
        modality = self.modality
        return free(modality.vocabulary) if modality.kind == "sequence" and modality.vocabulary else None

    @property
    def picture_size(self) -> int | None:
        """Height and width of the picture (or feature map) it takes; None for what is no picture."""
        return None

    def encode(self, values: Sequence[Any]) -> TokenColumn:
        """Encodes B raw values (see `mmtok.codec.Codec`)."""
        raise NotImplementedError

    def decode(self, column: TokenColumn) -> list[Any]:
        """Decodes B token samples (see `mmtok.codec.Codec`)."""
        raise NotImplementedError

    @property
    def decoding_steps(self) -> int | None:
        """Passes through the network that `decode` makes; None where there is no choice."""
        return None

    def with_decoding_steps(self, steps: int) -> "Tokenizer":
        """Returns this tokenizer with another number of passes; tokens, fingerprint and what is saved stay the same.

        Raises:
          MmtokError: there is no choice, or not this one.
        """
        raise MmtokError(f"tokenizer '{self.name}' decodes in one pass; leave out the number of steps")

    def expected(self) -> Mapping[str, tuple[tuple[int, ...], Any]]:
        """Returns shape and dtype by name of the arrays that a complete tokenizer of this config has."""
        return {}

    def expected_files(self) -> tuple[str, ...]:
        """Returns the names of the files that a complete tokenizer of this config has."""
        return ()

    @property
    def complete(self) -> bool:
        """Whether it has been trained or fitted, where its family needs that."""
        return set(self.arrays) == set(self.expected()) and set(self.files) == set(self.expected_files())

    def code_vectors(self) -> np.ndarray | None:
        """Returns (vocabulary size, d) float32 vectors in which near codes mean similar contents; None if unknown.

        They serve to initialise the embeddings of a model.
        """
        return None

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with the config, the weights or a file, and with nothing else."""
        digest = hashlib.sha256()
        config = json.dumps(configs.to_json(self.config), sort_keys=True)
        digest.update(f"{self.config.family}\n{config}\n".encode())
        for name in sorted(self.arrays):
            array = np.ascontiguousarray(self.arrays[name])
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.tobytes())
        for name in sorted(self.files):
            digest.update(f"{name} {len(self.files[name])}\n".encode())
            digest.update(self.files[name])
        return digest.hexdigest()[:16]

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the artifact folder, all or nothing; an older one is replaced.

        Raises:
          MmtokError: it has not been trained or fitted, or the folder cannot be written.
        """
        self.require_complete()
        record = {
            "format": 1,
            "family": self.config.family,
            "name": self.name,
            "source": self.source,
            "config": configs.to_json(self.config),
            "modality": configs.to_json(self.modality),
            "fingerprint": self.fingerprint,
            "files": sorted(self.files),
            "summary": configs.to_json(self.summary),
        }
        with new_folder(folder) as temporary:
            (temporary / "config.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
            if self.arrays:
                arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
                save_file(arrays, temporary / "model.safetensors")
            for name, content in self.files.items():
                (temporary / name).write_bytes(content)
            (temporary / "README.md").write_text(_card(record, self.modality))

    def require_complete(self) -> None:
        """Raises MmtokError unless the tokenizer has been trained or fitted."""
        if not self.complete:
            raise MmtokError(f"tokenizer '{self.name}' has not been trained yet; run `mmtok tokenizer train` first")


class Fitted(Tokenizer):
    """A tokenizer whose tables come from the data in one pass."""

    def fit(self, values: Iterable[Any]) -> "Fitted":
        """Returns this tokenizer fitted to raw values; a `Learned` one is fitted before it is trained.

        Raises:
          MmtokError: a value does not fit, or there are none.
        """
        raise NotImplementedError


class Learned(Tokenizer):
    """A tokenizer with a network; `mmtok.train` drives it through `init`, `prepare`, `loss` and `with_module`."""

    def init(self, key: jax.Array) -> nnx.Module:
        """Returns the network with fresh parameters."""
        raise NotImplementedError

    def prepare(self, values: Sequence[Any]) -> np.ndarray:
        """Validates and resizes B raw values into one compact host array with leading axis B.

        Raises:
          MmtokError: a value does not fit, saying which one and why.
        """
        raise NotImplementedError

    def loss(self, module: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
        """Returns the scalar to minimise and its parts, for rows of what `prepare` gave; may be jitted."""
        raise NotImplementedError

    def flops(self, batch: int) -> float:
        """Returns the floating-point operations of one training step (forward and backward) on `batch` samples."""
        raise NotImplementedError

    def with_module(self, module: nnx.Module) -> "Learned":
        """Returns this tokenizer with the parameters of `module`, ready to encode."""
        weights = {name: np.asarray(value) for name, value in _named(module).items()}
        return dataclasses.replace(self, arrays={**self.arrays, **weights})

    def module(self) -> Any:
        """Returns the network with the parameters of this tokenizer.

        Raises:
          MmtokError: it has not been trained.
        """
        self.require_complete()
        graph, state = nnx.split(self._abstract())
        leaves, tree = jax.tree.flatten(state)
        arrays = [jax.numpy.asarray(self.arrays[name]) for name in _names(state)]
        assert len(leaves) == len(arrays)
        return nnx.merge(graph, jax.tree.unflatten(tree, arrays))

    def expected(self) -> Mapping[str, tuple[tuple[int, ...], Any]]:
        """Returns shape and dtype of each parameter of the network."""
        return {name: (tuple(leaf.shape), np.dtype(leaf.dtype)) for name, leaf in _named(self._abstract()).items()}

    def _abstract(self) -> Any:
        return nnx.eval_shape(lambda: self.init(jax.random.key(0)))


def _names(state: nnx.State) -> list[str]:
    """Names of the leaves in the order of `jax.tree.leaves`."""
    paths, _ = zip(*jax.tree_util.tree_flatten_with_path(state)[0], strict=True)
    return [".".join(str(getattr(key, "key", key)) for key in path if hasattr(key, "key")) for path in paths]


def _named(module: nnx.Module) -> dict[str, Any]:
    state = nnx.state(module)
    return dict(zip(_names(state), jax.tree.leaves(state), strict=True))


def families() -> dict[str, str]:
    """Returns where to find the class of each family by name, those of installed plug-ins included."""
    found = {point.name: point.value for point in entry_points(group="mmtok.tokenizers")}
    return found | _BUILT_IN


def family(name: str) -> type[Tokenizer]:
    """Returns the class of a family.

    Raises:
      MmtokError: there is no such family, or its package cannot be imported.
    """
    table = families()
    if name not in table:
        raise unknown("tokenizer family", name, table)
    module, _, attribute = table[name].partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise MmtokError(f"tokenizer family '{name}': cannot import {table[name]} ({error})") from error


def create(*, name: str, source: str, config: Any) -> Tokenizer:
    """Returns the tokenizer that `config` describes, neither trained nor fitted.

    Raises:
      MmtokError: the config is of no known family.
    """
    found = family(getattr(config, "family", type(config).__name__))
    return found(name=name, source=source, config=config)


def load(folder: str | os.PathLike) -> Tokenizer:
    """Reads an artifact folder.

    Raises:
      MmtokError: a file is missing or damaged, or the arrays are not those that the config asks for (all are listed).
      MismatchError: config, weights and recorded fingerprint do not belong together.
    """
    folder = Path(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise MmtokError(f"{folder}: no tokenizer there (config.json is missing)")
    record = read_json(path)
    found = set(record) if isinstance(record, dict) else set()
    missing = {"format", "family", "name", "source", "config", "fingerprint", "files"} - found
    if missing:
        raise MmtokError(f"{path}: not the config of a tokenizer, it lacks {', '.join(sorted(missing))}")
    if record["format"] != 1:
        raise MmtokError(f"{path}: format {record['format']} is not known, expected 1; update mmtok to read it")
    kind = family(record["family"])
    empty = kind(
        name=record["name"],
        source=record["source"],
        config=configs.from_json(kind.Config, record["config"], where=str(path)),
    )
    tokenizer = dataclasses.replace(
        empty,
        arrays=_load_arrays(folder / "model.safetensors", empty.expected()),
        files={name: _load_file(folder, name) for name in record["files"]},
        summary=record.get("summary", {}),
    )
    if tokenizer.fingerprint != record["fingerprint"]:
        raise MismatchError(
            f"{folder}: the fingerprint of config and weights is {tokenizer.fingerprint}, config.json records"
            f" {record['fingerprint']}; the folder was edited or mixed up, restore or re-train it"
        )
    return tokenizer


def _load_arrays(path: Path, expected: Mapping[str, tuple[tuple[int, ...], Any]]) -> dict[str, np.ndarray]:
    if not expected and not path.exists():
        return {}
    try:
        arrays = load_file(path)
    except FileNotFoundError:
        raise MmtokError(f"{path}: no such file; copy the tokenizer again or train it anew") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise MmtokError(f"{path}: damaged or not a safetensors file ({error}); copy or train it again") from error
    faults = [f"missing {name}" for name in sorted(set(expected) - set(arrays))]
    faults += [f"unexpected {name}" for name in sorted(set(arrays) - set(expected))]
    for name in sorted(set(arrays) & set(expected)):
        shape, dtype = expected[name]
        if arrays[name].shape != shape or arrays[name].dtype != dtype:
            faults.append(f"{name} is {arrays[name].dtype}{arrays[name].shape} instead of {dtype}{shape}")
    if faults:
        raise MmtokError(f"{path}: not the weights that config.json asks for: {'; '.join(faults)}")
    return arrays


def _load_file(folder: Path, name: str) -> bytes:
    if Path(name).name != name:
        raise MmtokError(f"{folder / 'config.json'}: file name '{name}' points outside the folder")
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        raise MmtokError(f"{folder / name}: no such file; copy the tokenizer again or train it anew") from None


def _card(record: Mapping[str, Any], modality: Modality) -> str:
    lines = [
        f"# Tokenizer `{record['name']}`",
        "",
        f"Family `{record['family']}`, made from the field `{record['source']}` with mmtok.",
        "",
        "| property | value |",
        "|---|---|",
        f"| kind | {modality.kind} |",
        f"| token shape | {' x '.join(map(str, modality.shape))} |",
        f"| codes per position | {modality.codes} |",
        f"| vocabulary | {modality.vocab_size} |",
        f"| fingerprint | `{record['fingerprint']}` |",
        *(f"| {key} | {value} |" for key, value in record["summary"].items()),
        "",
        "```python",
        "from mmtok.tokenizers.artifact import load",
        'tokenizer = load("this/folder")',
        "tokens = tokenizer.encode(values)      # TokenColumn",
        "values = tokenizer.decode(tokens)",
        "```",
        "",
        "Config:",
        "",
        "```json",
        json.dumps(record["config"], indent=1),
        "```",
        "",
    ]
    return "\n".join(lines)

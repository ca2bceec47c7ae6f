"""4M models and tokenizers as folders of this project, and back."""

import dataclasses
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmtok.config import to_json
from mmtok.errors import MismatchError, MmtokError, suggest
from mmtok.files import new_folder, read_json
from mmtok.generate import Target
from mmtok.interop.fourm.checkpoint import Checkpoint, open_checkpoint, write_text
from mmtok.interop.fourm.config import is_model
from mmtok.interop.fourm.modalities import TOKENIZED
from mmtok.interop.fourm.model import export_model, read_model
from mmtok.interop.fourm.texts import FourMTextConfig, FourMTextTokenizer, Form
from mmtok.modality import Modality
from mmtok.tensors import Spec, write_tensors
from mmtok.tokenizers.artifact import Tokenizer, load
from mmtok.tokenizers.embeddings import EmbeddingConfig, EmbeddingTokenizer
from mmtok.tokenizers.ids import IdConfig, IdTokenizer
from mmtok.tokenizers.pixels import PixelConfig, PixelTokenizer
from mmtok.tokenizers.wordpiece import WordPieceConfig, WordPieceTokenizer

PATCH = 16  # pixels along one side of a patch
FORMS: Mapping[str, Form] = {
    "det": "boxes",
    "metadata": "metadata",
    "color_palette": "palette",
    "human_poses": "poses",
    "sam_instance": "instances",
}

# How 4M samples what it makes of a picture. Its top_p was chosen for the distribution before the temperature.
FROM_PICTURE = Target(
    modality="", scheme="roar", steps=1, temperature=0.01, guidance=2.0, top_p=0.8, tempered_top_p=False
)
PICTURE = dataclasses.replace(FROM_PICTURE, steps=25, temperature=3.0, temperature_schedule="onex:0.5:0.5")
LARGER = Target(modality="", scheme="maskgit", steps=8, guidance=3.0, top_p=0.9, tempered_top_p=False)
TEXT = Target(modality="", temperature=0.3, top_p=0.8, tempered_top_p=False)
TEMPERATURES = {"det": 0.7, "human_poses": 0.1, "color_palette": 0.1, "metadata": 0.1, "sam_instance": 0.01}


def import_fourm(paths: Sequence[Path], out: Path) -> str:
    """Imports 4M files: a model with its tokenizers, or tokenizers alone.

    Args:
      paths: Safetensors files or folders with one, of one model at most and any number of tokenizers; and the JSON file
        of the text vocabulary. Modalities of the model without a tokenizer are given and made as token ids.
      out: Becomes a model folder as `mmtok train` writes it; without a model the folder of the tokenizer, or of several.

    Returns:
      What was made, in words.

    Raises:
      MmtokError: a file is damaged, foreign or does not fit its configuration; or `out` exists.
      MismatchError: a tokenizer's vocabulary or token grid is not the model's.
    """
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise MmtokError(f"{out}: exists already; name a new folder")
    texts = [path for path in paths if path.suffix == ".json"]
    checkpoints = [open_checkpoint(path) for path in paths if path not in texts]
    models = [checkpoint for checkpoint in checkpoints if is_model(checkpoint.config)]
    if len(models) > 1 or len(texts) > 1:
        kind = "models" if len(models) > 1 else "text vocabularies"
        raise MmtokError(f"two {kind} are given, one was expected; import them into folders of their own")
    tokenizers = {checkpoint.path: _tokenizer(checkpoint) for checkpoint in checkpoints if checkpoint not in models}
    if models:
        words = texts[0].read_bytes() if texts else None
        return _import_model(models[0], tokenizers, words, out)
    if texts or not tokenizers:
        raise MmtokError("a text vocabulary belongs to a model: give the model's file too")
    with new_folder(out) as folder:
        for tokenizer in tokenizers.values():
            tokenizer.save(folder / tokenizer.name if len(tokenizers) > 1 else folder)
    return f"tokenizers {', '.join(tokenizer.name for tokenizer in tokenizers.values())}"


def export_fourm(folder: Path, file: Path) -> None:
    """Writes a model folder or a tokenizer's folder as a 4M safetensors file.

    Raises:
      MmtokError: neither is there, it is damaged, or 4M has no such thing.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise MmtokError(f"{folder}: neither a model nor a tokenizer there (config.json is missing)")
    description = read_json(path)
    if not isinstance(description, dict) or "family" not in description:
        return export_model(folder, file)
    tensors, config = _tokenizers().export_tokenizer(load(folder))
    specs = {name: Spec(value.shape, value.dtype) for name, value in tensors.items()}
    return write_tensors(file, specs, tensors.__getitem__, metadata=write_text(config))


def _import_model(checkpoint: Checkpoint, given: Mapping[Path, Tokenizer], words: bytes | None, out: Path) -> str:
    found = read_model(checkpoint)
    owners = {path: _owners(tokenizer, checkpoint_name(path), found.modalities) for path, tokenizer in given.items()}
    tokenizers: dict[str, Tokenizer] = {}
    for item in found.modalities:
        own = [given[path] for path, names in owners.items() if item.name in names]
        tokenizers[item.name] = _fitting(own[-1], item) if own else _plain(item, words)
    modalities = tuple(
        dataclasses.replace(
            item,
            source=tokenizers[item.name].source,
            show=tokenizers[item.name].modality.show,
            fingerprint=tokenizers[item.name].fingerprint,
        )
        for item in found.modalities
    )
    sampling = {item.name: _sampling(item) for item in modalities if item.is_target}
    with new_folder(out) as folder:
        for name, tokenizer in tokenizers.items():
            tokenizer.save(folder / "tokenizers" / name)
        found.write(folder, modalities, extra={"sampling": to_json(sampling)})
    bare = [name for name, tokenizer in tokenizers.items() if isinstance(tokenizer, IdTokenizer)]
    return f"model of {len(modalities)} modalities" + (f"; as token ids: {', '.join(bare)}" if bare else "")


def checkpoint_name(path: Path) -> str:
    """What a file is called: its own name, or the folder's for the usual `model.safetensors`."""
    return path.parent.name if path.stem == "model" else path.stem


def _tokenizers() -> Any:
    """The module for 4M's tokenizers, whose networks are needed only where there are any."""
    return importlib.import_module("mmtok.interop.fourm.tokenizers")


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    tensors = checkpoint.tensors
    return _tokenizers().import_tokenizer({name: tensors[name] for name in tensors}, dict(checkpoint.config))


def _owners(tokenizer: Tokenizer, name: str, modalities: Sequence[Modality]) -> list[str]:
    """The modalities of a model whose tokens a tokenizer makes."""
    if tokenizer.name not in TOKENIZED:
        raise MmtokError(f"{name}: no modality of 4M has tokens of the domain '{tokenizer.name}'{suggest(tokenizer.name, TOKENIZED)}")
    return [item.name for item in modalities if item.name.split("@")[0] in TOKENIZED[tokenizer.name]]


def _fitting(tokenizer: Tokenizer, item: Modality) -> Tokenizer:
    """A tokenizer as a modality of the model, at its resolution."""
    config = tokenizer.config
    if tokenizer.modality.shape != item.shape and hasattr(config, "encoder"):
        encoder = dataclasses.replace(config.encoder, size=config.encoder.patch * item.shape[0])
        config = dataclasses.replace(config, encoder=encoder)
    made = dataclasses.replace(tokenizer, name=item.name, source=item.source, config=config)
    ours, theirs = made.modality, item
    if (ours.vocab_size, ours.size, ours.codes) != (theirs.vocab_size, theirs.size, theirs.codes):
        raise MismatchError(
            f"modality '{item.name}': the model has {theirs.size} tokens out of {theirs.vocab_size}, the tokenizer"
            f" {tokenizer.name} makes {ours.size} out of {ours.vocab_size}; give the tokenizer it was trained with"
        )
    return made


def _plain(item: Modality, words: bytes | None) -> Tokenizer:
    """A tokenizer that needs no weights."""
    assert item.vocabulary is not None or item.kind == "continuous"
    if item.variable:
        config = EmbeddingConfig(length=item.size, channels=item.channels, bias=item.bias, show=item.show)
        return EmbeddingTokenizer(name=item.name, source=item.source, config=config)
    if item.kind == "continuous":
        config = PixelConfig(size=PATCH * item.shape[0], patch=PATCH, mean=item.mean, std=item.std, show=item.show)
        return PixelTokenizer(name=item.name, source=item.source, config=config)
    if item.kind == "sequence" and words is not None:
        return _text(item, words)
    assert item.vocabulary is not None
    config = IdConfig(
        kind="sequence" if item.kind == "sequence" else "grid",
        shape=item.shape,
        vocabulary=item.vocabulary,
        learned_positions=item.learned_positions,
    )
    return IdTokenizer(name=item.name, source=item.name, config=config)


def _text(item: Modality, words: bytes) -> Tokenizer:
    common: dict[str, Any] = {"length": item.size, "show": item.show}
    if item.name in FORMS:
        config = FourMTextConfig(form=FORMS[item.name], **common)
        made = FourMTextTokenizer(name=item.name, source=item.source, config=config).with_vocabulary(words)
    else:
        made = WordPieceTokenizer(name=item.name, source=item.source, config=WordPieceConfig(**common))
        made = made.with_vocabulary(words)
    if made.vocabulary != item.vocabulary:
        raise MismatchError(
            f"modality '{item.name}': the model has a vocabulary of {item.vocab_size} words, the text vocabulary given"
            f" has {made.vocabulary.size}; give the one it was trained with"
        )
    return made


def _sampling(item: Modality) -> Target:
    if item.kind == "sequence":
        return dataclasses.replace(TEXT, modality=item.name, temperature=TEMPERATURES.get(item.name, TEXT.temperature))
    if item.name.endswith("@448"):
        return dataclasses.replace(LARGER, modality=item.name)
    return dataclasses.replace(PICTURE if item.show == "rgb" else FROM_PICTURE, modality=item.name)

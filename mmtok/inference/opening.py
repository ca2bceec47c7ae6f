"""Opening a finished model with its tokenizers."""

import os
from pathlib import Path

from mmtok.config import from_json
from mmtok.errors import MismatchError, MmtokError
from mmtok.generate import Sampler, Target
from mmtok.inference.loaded import Loaded
from mmtok.inference.recipes import Recipe
from mmtok.model import load_model
from mmtok.tokenizers.artifact import load

PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"


def load_anytoany(path: str | os.PathLike) -> Loaded:
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
    recipes = {
        name: from_json(Recipe, recipe, where=f"{folder / 'config.json'}: recipe '{name}'")
        for name, recipe in description.get("recipes", {}).items()
    }
    grammars = {name: tokenizer.grammar for name, tokenizer in tokenizers.items() if tokenizer.grammar is not None}
    sampler = Sampler(model, grammars=grammars)
    return Loaded(sampler, tokenizers, sampling, recipes, weights=description["weights"]["fingerprint"])

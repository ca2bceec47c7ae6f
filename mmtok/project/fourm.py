"""4M models and tokenizers as folders of this project, and back."""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmtok.config import to_json
from mmtok.errors import MismatchError, MmtokError, suggest
from mmtok.files import new_folder, read_json
from mmtok.interop.fourm.checkpoint import Checkpoint, open_checkpoint, write_text
from mmtok.interop.fourm.config import is_model
from mmtok.interop.fourm.forms import Form
from mmtok.interop.fourm.modalities import RELEASED, TOKENIZED
from mmtok.interop.fourm.model import export_model, read_model
from mmtok.interop.fourm.texts import FourMTextConfig, FourMTextTokenizer
from mmtok.modality import Modality
from mmtok.project.fourm_recipes import default_plan, recipes
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


@dataclasses.dataclass(frozen=True)
class Given:
    """A tokenizer's checkpoint.

    Attributes:
      checkpoint: Its tensors and configuration.
      domain: What it is for, by 4M's names; "" where nothing says so.
      modality: The only modality that is to have it; "" is all that fit.
    """

    checkpoint: Checkpoint
    domain: str
    modality: str

    @classmethod
    def of(cls, checkpoint: Checkpoint, modality: str) -> "Given":
        """Finds out what a tokenizer is for, from its configuration or from how its file or folder is called."""
        path = checkpoint.path
        name = path.parent.name if path.stem == "model" else path.stem
        released = [domain for part, domain in RELEASED.items() if part in name]
        domain = str(checkpoint.config.get("domain") or "").partition("@")[0]
        return cls(checkpoint, domain or (released or [""])[0], modality)

    def fits(self, item: Modality) -> bool:
        """Whether it makes the tokens of a modality."""
        if self.modality:
            return item.name == self.modality
        return item.name.partition("@")[0] in TOKENIZED.get(self.domain, ())

    def tokenizer(self, *, name: str, source: str, side: int | None = None) -> Tokenizer:
        """Returns the tokenizer, for grids of `side` tokens where that is given."""
        config = dict(self.checkpoint.config)
        if self.domain:
            config["domain"] = self.domain
        cells = config.get("patch_proj") is False
        size = None if side is None else side * (1 if cells else int(config.get("patch_size") or PATCH))
        return _tokenizers().import_tokenizer(self.checkpoint.tensors, config, name=name, source=source, size=size)


def import_fourm(files: Sequence[str], out: Path) -> str:
    """Imports 4M files: a model with its tokenizers, or tokenizers alone.

    Args:
      files: Safetensors files, or folders with one, of one model at most and any number of tokenizers; and the JSON
        file of the text vocabulary. `MODALITY=FILE` says whose tokenizer it is where its configuration and name do
        not. Modalities of the model without a tokenizer are given and made as token ids.
      out: Becomes a model folder as `mmtok train` writes it; without a model the folder of the tokenizer, or of all.

    Returns:
      What was made, in words.

    Raises:
      MmtokError: a file is damaged, foreign or does not fit its configuration; or `out` exists.
      MismatchError: a tokenizer's vocabulary or token grid is not the model's.
    """
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise MmtokError(f"{out}: exists already; name a new folder")
    texts = [Path(file) for file in files if file.endswith(".json")]
    models, given = [], []
    for file in files:
        if Path(file) in texts:
            continue
        modality, equals, path = "", "", file
        if not Path(file).exists():
            modality, equals, path = file.partition("=")
        checkpoint = open_checkpoint(Path(path if equals else file))
        if is_model(checkpoint.config):
            models.append(checkpoint)
        else:
            given.append(Given.of(checkpoint, modality if equals else ""))
    if len(models) > 1 or len(texts) > 1:
        kind = "models" if len(models) > 1 else "text vocabularies"
        raise MmtokError(f"two {kind} are given, one was expected; import them into folders of their own")
    if models:
        return _import_model(models[0], given, _read(texts[0]) if texts else None, out)
    if texts or not given:
        raise MmtokError("a text vocabulary belongs to a model: give the model's file too")
    tokenizers = [_alone(item) for item in given]
    with new_folder(out) as folder:
        for tokenizer in tokenizers:
            tokenizer.save(folder / tokenizer.name if len(tokenizers) > 1 else folder)
    return f"tokenizer {', '.join(tokenizer.name for tokenizer in tokenizers)}"


def export_fourm(folder: Path, file: Path) -> None:
    """Writes a model folder or a tokenizer's folder as a 4M safetensors file.

    Of a text that holds the tokens of an inner tokenizer, that one is written: 4M keeps it in a file of its own.

    Raises:
      MmtokError: neither is there, it is damaged, or 4M has no such thing.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise MmtokError(f"{folder}: neither a model nor a tokenizer there (config.json is missing)")
    description = read_json(path)
    if not isinstance(description, dict) or "family" not in description:
        return export_model(folder, file)
    tokenizer = load(folder)
    if isinstance(tokenizer, FourMTextTokenizer) and tokenizer.inner is not None:
        tokenizer = tokenizer.inner
    tensors, config = _tokenizers().export_tokenizer(tokenizer)
    specs = {name: Spec(value.shape, value.dtype) for name, value in tensors.items()}
    return write_tensors(file, specs, tensors.__getitem__, metadata=write_text(config))


def _import_model(checkpoint: Checkpoint, given: Sequence[Given], words: bytes | None, out: Path) -> str:
    found = read_model(checkpoint)
    for item in given:
        if not any(item.fits(modality) for modality in found.modalities):
            what = f"modality '{item.modality}'" if item.modality else f"the domain '{item.domain or 'unknown'}'"
            raise MmtokError(
                f"{item.checkpoint.path}: the model has no tokens for {what}; leave the tokenizer out, or say whose it"
                f" is: MODALITY=FILE{suggest(item.modality, [modality.name for modality in found.modalities])}"
            )
    tokenizers = {
        item.name: _tokenizer(item, [one for one in given if one.fits(item)], words) for item in found.modalities
    }
    modalities = tuple(
        dataclasses.replace(
            item,
            source=tokenizers[item.name].source,
            show=tokenizers[item.name].modality.show,
            fingerprint=tokenizers[item.name].fingerprint,
        )
        for item in found.modalities
    )
    plan = default_plan([item.name for item in modalities if item.is_target])
    extra = {"sampling": {target.modality: target for target in plan}, "recipes": recipes(modalities)}
    with new_folder(out) as folder:
        for name, tokenizer in tokenizers.items():
            tokenizer.save(folder / "tokenizers" / name)
        found.write(folder, modalities, extra=to_json(extra))
    bare = [name for name, tokenizer in tokenizers.items() if isinstance(tokenizer, IdTokenizer)]
    return f"model of {len(modalities)} modalities" + (f"; as token ids: {', '.join(bare)}" if bare else "")


def _tokenizers() -> Any:
    """The module for 4M's tokenizers, whose networks are needed only where there are any."""
    return importlib.import_module("mmtok.interop.fourm.tokenizers")


def _read(path: Path) -> bytes:
    read_json(path)  # says in one sentence what is wrong with it
    return path.read_bytes()


def _alone(item: Given) -> Tokenizer:
    path = item.checkpoint.path
    name = item.modality or item.domain or (path.parent.name if path.stem == "model" else path.stem)
    return item.tokenizer(name=name, source=name)


def _tokenizer(item: Modality, given: Sequence[Given], words: bytes | None) -> Tokenizer:
    """The tokenizer of a modality of the model: the last one given for it, within that of its text where it is text."""
    if not given:
        return _plain(item, words)
    if item.kind == "sequence":
        return _nesting(given[-1], item, words)
    return _fitting(given[-1], item)


def _fitting(given: Given, item: Modality) -> Tokenizer:
    """A tokenizer as a modality of the model, at its resolution, and shown as 4M shows it."""
    made = given.tokenizer(name=item.name, source=item.source, side=item.shape[0] if len(item.shape) == 2 else None)
    ours = made.modality
    if (ours.kind, ours.vocab_size, ours.size, ours.codes) != (item.kind, item.vocab_size, item.size, item.codes):
        raise MismatchError(
            f"{given.checkpoint.path}: modality '{item.name}' of the model has {item.size} tokens out of"
            f" {item.vocab_size}, this tokenizer makes {ours.size * ours.codes} out of {ours.vocab_size}; give the one"
            " it was trained with"
        )
    return dataclasses.replace(made, config=dataclasses.replace(made.config, show=item.show))


def _nesting(given: Given, item: Modality, words: bytes | None) -> Tokenizer:
    """The tokenizer of a text that holds tokens of another."""
    if words is None:
        raise MmtokError(
            f"{given.checkpoint.path}: the tokens of this tokenizer stand in the text '{item.name}'; give the JSON file"
            " of the text vocabulary too, or leave the tokenizer out"
        )
    made = _text(item, words)
    if not isinstance(made, FourMTextTokenizer):
        raise MmtokError(
            f"{given.checkpoint.path}: modality '{item.name}' is plain text and has no tokenizer of its own"
        )
    inner = given.tokenizer(name=item.name, source=item.source)
    try:
        return made.with_inner(inner)
    except MmtokError as error:
        raise type(error)(f"{given.checkpoint.path}: {error}; give the one it was trained with") from None


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


def _text(item: Modality, words: bytes) -> WordPieceTokenizer:
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

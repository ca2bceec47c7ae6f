"""Samples of a token store, given as tokens."""

import dataclasses
import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mmtok.batch import TokenColumn
from mmtok.data import Store
from mmtok.errors import MismatchError, MmtokError, unknown
from mmtok.inference.inputs.given import Given, check_name
from mmtok.inference.loaded import Loaded


@dataclasses.dataclass(frozen=True)
class Stored:
    """Samples of one split of a token store; see `mmtok.inference.inputs.given.Inputs`.

    Attributes:
      store: The store.
      split: Its split.
      sources: Modality that is given -> its raw field.
      names: Of the samples.
    """

    store: Store
    split: str
    sources: Mapping[str, str]
    names: Sequence[str]

    @property
    def counts(self) -> Mapping[str, int]:
        """Raw field -> how many samples have it at most."""
        return dict.fromkeys(self.sources.values(), len(self.names))

    @property
    def modalities(self) -> Sequence[str]:
        """What is given as tokens."""
        return list(self.sources)

    @property
    def masked(self) -> Sequence[str]:
        """Raw fields of which some samples are known in part."""
        return ()

    def read(self, numbers: Sequence[int]) -> list[Given]:
        """Reads samples; what is wrong with one of them stands in its `error`."""
        columns = self.tokens(numbers)
        return [
            self._given(number, {name: column[row : row + 1] for name, column in columns.items()})
            for row, number in enumerate(numbers)
        ]

    def tokens(self, numbers: Sequence[int]) -> dict[str, TokenColumn]:
        """Reads what is given as tokens, one row per number."""
        columns = self.store.read(self.split, list(numbers))
        return {name: columns[name] for name in self.sources}

    def _given(self, number: int, columns: Mapping[str, TokenColumn]) -> Given:
        inputs = {
            name: {"tokens": f"{self.split}/{number}", "sha256": hashlib.sha256(column.values.tobytes()).hexdigest()}
            for name, column in columns.items()
            if column.length[0]
        }
        return Given(number, self.names[number], {}, inputs, "" if inputs else "nothing is given, it has no tokens")


def open_store(path: str, model: Loaded, *, split: str, fields: Collection[str], asked: Collection[str]) -> Stored:
    """Opens one split; see `mmtok.inference.inputs.origin.Origin.open`.

    Raises:
      MmtokError: no such split, none is named although there are several, or nothing that the model reads.
      MismatchError: the store was made with other tokenizers.
    """
    store = Store(path)
    splits = list(store.splits)
    if not split and len(splits) > 1:
        raise MmtokError(f"{path}: a token store of several splits; say which one ({', '.join(splits)})")
    split = split or splits[0]
    if split not in splits:
        raise unknown(f"split of token store {path}", split, splits)
    made = {model.modalities[name].source for name in asked if name in model.modalities}
    sources = {}
    for item in store.modalities:
        ours = model.modalities.get(item.name)
        if ours is None or not ours.is_input or ours.source not in (fields or model.fields.keys() - made):
            continue
        if ours.fingerprint != item.fingerprint:
            raise MismatchError(
                f"modality '{item.name}': token store {path} was made with tokenizer {item.fingerprint}, the"
                f" model was trained with {ours.fingerprint}; tokenize the data with the model's tokenizers"
            )
        sources[item.name] = ours.source
    if not sources:
        raise MmtokError(f"{path}: this token store holds nothing that the model reads but what is asked for")
    names = [key.replace("/", "-") for key in store.keys(split)]
    if len(set(names)) < len(names):
        raise MmtokError(f"{path}: two samples of the same name in split '{split}'")
    for name in names:
        check_name(name, where=Path(path))
    return Stored(store, split, sources, names)

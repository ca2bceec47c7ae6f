"""What the rest of the house knows of a tokenizer: the protocol between raw values and tokens."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from mmtok.batch import TokenColumn
from mmtok.modality import Modality


@runtime_checkable
class Codec(Protocol):
    """Turns raw values of one field into tokens and back.

    Raw values are numpy arrays ((H, W), (H, W, C) or vectors), strings, or JSON-like lists and mappings; `None` stands
    for a missing value.
    """

    @property
    def modality(self) -> Modality:
        """The modality its tokens belong to, with this tokenizer's fingerprint."""
        ...

    def encode(self, values: Sequence[Any]) -> TokenColumn:
        """Encodes a batch of B raw values; a `None` gets length 0.

        Raises:
          MmtokError: a value does not fit the preprocessing (size, channels, dtype, range), saying which one and why.
        """
        ...

    def decode(self, column: TokenColumn) -> list[Any]:
        """Decodes B samples to raw values of the kind `encode` takes; `None` where the length is 0.

        Never fails on ids inside the vocabulary: a malformed sequence gives the parts of it that make sense.
        """
        ...

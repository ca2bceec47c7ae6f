"""Text in the pieces of an existing WordPiece vocabulary (Schuster and Nakajima 2012; files of `tokenizers`).

The vocabulary file is part of the artifact. Its first ids must be those of every sequence here: padding, unknown,
start, end, then the sentinels.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import tokenizers

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.modality import Modality, Vocabulary
from mmtok.tokenizers.artifact import Tokenizer
from mmtok.tokenizers.sequences import END, PAD, SENTINEL, UNKNOWN, ids_of, pack_text

_FILE = "wordpiece.json"
SPECIALS = {"[PAD]": PAD, "[UNK]": UNKNOWN, "[EOS]": END, "[S_0]": SENTINEL}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordPieceConfig:
    """A WordPiece tokenizer.

    Attributes:
      length: Longest number of tokens, the end included; longer texts are truncated.
      show: How `mmtok.show` draws it.
    """

    family: ClassVar[str] = "wordpiece"

    length: int = 256
    show: str = "text"


class WordPieceTokenizer(Tokenizer):
    """Tokenizes strings; words that the vocabulary has as a whole stay whole, and upper case may be lost."""

    Config = WordPieceConfig
    config: WordPieceConfig

    chunk_prefix: ClassVar[str] = ""
    """Words that begin so open a masking unit; "" where each token is its own unit."""

    whole_chunks: ClassVar[bool] = False
    """Whether what is too long ends after the last chunk that fits; otherwise it is cut anywhere."""

    @functools.cached_property
    def modality(self) -> Modality:
        """A sequence."""
        return Modality(
            name=self.name,
            kind="sequence",
            shape=(self.config.length,),
            vocabulary=self.vocabulary,
            source=self.source,
            show=self.config.show,
            fingerprint=self.fingerprint,
        )

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The ids of the vocabulary file."""
        names = self._pieces.get_vocab()
        sentinels = 0
        while names.get(f"[S_{sentinels}]") == SENTINEL + sentinels:
            sentinels += 1
        units = sorted(id for word, id in names.items() if self.chunk_prefix and word.startswith(self.chunk_prefix))
        unit = {"unit_first": units[0], "unit_count": len(units)} if units else {}
        return Vocabulary(size=self._pieces.get_vocab_size(), sentinel_count=sentinels, **unit)

    def expected_files(self) -> tuple[str, ...]:
        """Returns the name of the vocabulary file."""
        return (_FILE,)

    def with_vocabulary(self, content: bytes) -> "WordPieceTokenizer":
        """Returns this tokenizer with a vocabulary file of the `tokenizers` library.

        Raises:
          MmtokError: it is no such file, or its special tokens are not where they must be.
        """
        made = dataclasses.replace(self, files={_FILE: content})
        found = made._pieces.get_vocab()
        for word, id in SPECIALS.items():
            if found.get(word) != id:
                raise MmtokError(
                    f"tokenizer '{self.name}': the vocabulary must have {word} as id {id}, it has {found.get(word)}"
                )
        return made

    def encode(self, values: Sequence[Any]) -> TokenColumn:
        """Encodes raw values (see `mmtok.codec.Codec`); warns when one is truncated."""
        self.require_complete()
        what = f"modality '{self.name}', sample {{}} of the batch"
        texts = [
            None if value is None else [self._tokenized(chunk) for chunk in self.write(value, what=what.format(row))]
            for row, value in enumerate(values)
        ]
        return pack_text(texts, modality=self.modality, whole_chunks=self.whole_chunks)

    def decode(self, column: TokenColumn) -> list[Any]:
        """Decodes tokens (see `mmtok.codec.Codec`); specials and sentinels are left out."""
        self.require_complete()
        return [
            None if ids is None else self.read(self.text(self._plain(ids)))
            for ids in ids_of(column, modality=self.modality)
        ]

    def text(self, ids: Sequence[int]) -> str:
        """Returns the text of ids that are not special, joined as the vocabulary file says."""
        return self._pieces.decode(ids, skip_special_tokens=False)

    def write(self, value: Any, *, what: str) -> list[str]:
        """Returns a value as text, in chunks; `what` begins the error message."""
        if not isinstance(value, str):
            raise MmtokError(f"{what}: expected a text, found {type(value).__name__}")
        return [value]

    def read(self, text: str) -> Any:
        """Returns the value that a text stands for."""
        return text

    def _tokenized(self, chunk: str) -> list[int]:
        return self._pieces.encode(chunk, add_special_tokens=False).ids

    def _plain(self, ids: list[int]) -> list[int]:
        first = SENTINEL + self.vocabulary.sentinel_count
        return [id for id in ids if id == UNKNOWN or id >= first]

    @functools.cached_property
    def _pieces(self) -> Any:
        try:
            return tokenizers.Tokenizer.from_str(self.files[_FILE].decode())
        except Exception as error:  # the library raises bare ones
            raise MmtokError(
                f"tokenizer '{self.name}': not a vocabulary file of the tokenizers library ({error}); copy it again"
            ) from error

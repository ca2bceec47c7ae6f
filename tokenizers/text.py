"""Text: SentencePiece pieces (Kudo and Richardson, arXiv 1808.06226) behind the special ids of sequences."""

import dataclasses
import functools
import io
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import sentencepiece

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.modality import Modality, Vocabulary
from mmtok.tokenizers.artifact import Fitted
from mmtok.tokenizers.sequences import UNKNOWN, ids_of, pack_text

_MODEL = "sentencepiece.model"
_LARGEST_CORPUS = 1_000_000  # sentences; a sample of more is taken


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A text tokenizer.

    Attributes:
      length: Longest number of tokens, the end included; longer texts are truncated.
      pieces: Greatest number of pieces; small corpora give fewer.
      model: Kind of SentencePiece model; `unigram` needs a large and varied corpus.
      sentinels: Number of sentinels; at least (length + 1) // 2 + 2.
      show: How `mmtok.show` draws it.
    """

    family: ClassVar[str] = "text"

    length: int = 48
    pieces: int = 1000
    model: Literal["bpe", "unigram"] = "bpe"
    sentinels: int = 64
    show: str = "text"


class TextTokenizer(Fitted):
    """Tokenizes strings; exact for all characters that occur in the texts it was fitted to."""

    Config = TextConfig
    config: TextConfig

    @functools.cached_property
    def modality(self) -> Modality:
        """A sequence; ids: specials, sentinels, pieces."""
        pieces = self._processor.get_piece_size() - 1 if self.complete else self.config.pieces
        return Modality(
            name=self.name,
            kind="sequence",
            shape=(self.config.length,),
            vocabulary=Vocabulary(size=self._first + pieces, sentinel_count=self.config.sentinels),
            source=self.source,
            show=self.config.show,
            fingerprint=self.fingerprint,
        )

    def expected_files(self) -> tuple[str, ...]:
        """Returns the name of the SentencePiece model."""
        return (_MODEL,)

    def fit(self, values: Iterable[Any]) -> "TextTokenizer":
        """Returns the tokenizer with pieces learned from the texts."""
        texts = [self._text(value, row) for row, value in enumerate(values) if value is not None]
        texts = [text for text in texts if text]
        if not texts:
            raise MmtokError(f"tokenizer '{self.name}': no text to fit to")
        model = io.BytesIO()
        sentencepiece.set_random_generator_seed(0)
        common = {
            "sentence_iterator": iter(texts),
            "model_writer": model,
            "model_type": self.config.model,
            "character_coverage": 1.0,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "max_sentence_length": 1 << 16,
            "input_sentence_size": _LARGEST_CORPUS,
            "unk_id": 0,
            "bos_id": -1,
            "eos_id": -1,
            "pad_id": -1,
            "unk_surface": "\ufffd",
            "num_threads": 1,  # the same pieces on every machine
            "minloglevel": 2,
        }
        characters = len(set("".join(texts))) + 3
        try:
            sentencepiece.SentencePieceTrainer.train(
                vocab_size=max(self.config.pieces + 1, characters), hard_vocab_limit=False, **common
            )
        except (RuntimeError, OSError) as error:
            raise MmtokError(
                f"tokenizer '{self.name}': SentencePiece cannot learn from these texts ({error})"
            ) from error
        return dataclasses.replace(self, files={_MODEL: model.getvalue()})

    def encode(self, values: Sequence[Any]) -> TokenColumn:
        """Encodes strings (see `mmtok.codec.Codec`); warns when one is truncated."""
        self.require_complete()
        texts = [
            None if value is None else (self._tokenized(self._text(value, row)),) for row, value in enumerate(values)
        ]
        return pack_text(texts, modality=self.modality)

    def decode(self, column: TokenColumn) -> list[Any]:
        """Decodes tokens to strings; specials and sentinels are left out."""
        self.require_complete()
        return [None if ids is None else self._joined(ids) for ids in ids_of(column, modality=self.modality)]

    def _tokenized(self, text: str) -> list[int]:
        return [piece + self._first - 1 if piece else UNKNOWN for piece in self._processor.encode(text)]

    def _joined(self, ids: list[int]) -> str:
        pieces = [id - self._first + 1 if id >= self._first else 0 for id in ids if id == UNKNOWN or id >= self._first]
        return self._processor.decode(pieces)

    def _text(self, value: Any, row: int) -> str:
        if not isinstance(value, str):
            found = type(value).__name__
            raise MmtokError(f"modality '{self.name}', sample {row} of the batch: expected a text, found {found}")
        return value

    @property
    def _first(self) -> int:
        """Id of the first piece."""
        return 4 + self.config.sentinels

    @functools.cached_property
    def _processor(self) -> Any:
        try:
            return sentencepiece.SentencePieceProcessor(model_proto=self.files[_MODEL])
        except RuntimeError as error:
            raise MmtokError(f"tokenizer '{self.name}': {_MODEL} is damaged ({error}); copy or fit it again") from error

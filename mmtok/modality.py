"""What a modality is: the one place that says so.

A name carries no meaning; everything the code needs to know about a modality stands in `Modality`.
"""

import dataclasses
import math
from typing import Literal

from mmtok.errors import MmtokError

Kind = Literal["grid", "sequence", "continuous"]
Role = Literal["both", "input", "target"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The ids of one code of a modality: 0 .. size-1.

    The special ids concern sequences only; their layout follows 4M (first ids of the vocabulary), so that
    every sequence tokenizer can share it.

    Attributes:
      size: Number of ids.
      pad: Fills unused positions; never predicted.
      unknown: Stands for what the tokenizer cannot express.
      start: Unused by span masking; kept for the shared layout.
      end: Ends every complete sequence.
      sentinel_first: Id of sentinel 0. Sentinel j has id `sentinel_first + j`. Span j (from 1) of a masked
        sequence is replaced by sentinel j in the input and opened by it in the target; sentinel 0 is unused (as in 4M).
      sentinel_count: Number of sentinels; 0 for grids.
      unit_first: First id of a range that opens a new masking unit (for example the key of a key-value pair), so that
        spans cover whole units; `unit_count` 0 means each token is its own unit. `end` is always its own unit.
      unit_count: Number of ids in that range.
    """

    size: int
    pad: int = 0
    unknown: int = 1
    start: int = 2
    end: int = 3
    sentinel_first: int = 4
    sentinel_count: int = 0
    unit_first: int = 0
    unit_count: int = 0

    def sentinel(self, index: int) -> int:
        """Returns the id of sentinel `index`."""
        if not 0 <= index < self.sentinel_count:
            raise MmtokError(f"sentinel {index} asked for, the vocabulary has {self.sentinel_count}")
        return self.sentinel_first + index


@dataclasses.dataclass(frozen=True, kw_only=True)
class Modality:
    """One modality as the model sees it.

    Attributes:
      name: Any name; carries no meaning.
      kind: `grid`: a fixed grid of tokens of any rank (a vector code is a 1-D grid), targets are mask queries decoded
        in parallel. `sequence`: variable length, spans and sentinels, targets are causal. `continuous`: real vectors
        on a fixed grid, encoder input only.
      shape: Grid of positions, row-major; for a sequence `(longest number of tokens, end included,)`.
      vocabulary: Of each code; None for `continuous`.
      codes: Codes per position (residual or product codebooks): embeddings are summed, each code has its own head.
      channels: `continuous` only: length of the vector at one position.
      mean: `continuous` only: subtracted from the vectors; its length divides `channels` (repeated along it).
      std: `continuous` only: divides the vectors after that.
      bias: `continuous` only: the projection of the vectors has a bias.
      variable: `continuous` only: any number of vectors up to `shape`, such as a text encoder's outputs. They are
        masked in spans like a sequence, with one zero vector for each hidden run, and positions count what is visible.
      role: `input`: the model reads but cannot predict it; `target`: it predicts but cannot read it; or both.
      learned_positions: Learned instead of sine-cosine position embeddings.
      position_limit: Of sequences: positions of the decoder from this one on are embedded as position 0, as in the
        models that 4M released; 0 is no limit.
      source: Raw field this modality is made from (two modalities may share one: pixels and tokens of `rgb`).
      show: How `mmtok.show` draws a decoded value.
      names: Names of classes by their id, for a legend.
      fingerprint: Of the tokenizer that makes the tokens.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    vocabulary: Vocabulary | None = None
    codes: int = 1
    channels: int = 0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    bias: bool = False
    variable: bool = False
    role: Role = "both"
    learned_positions: bool = False
    position_limit: int = 0
    source: str = ""
    show: str = "array"
    names: tuple[str, ...] = ()
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if self.kind == "continuous":
            if self.channels < 1 or self.vocabulary is not None:
                raise MmtokError(f"modality '{self.name}': continuous needs channels >= 1 and no vocabulary")
            if self.channels % len(self.mean) or self.channels % len(self.std):
                raise MmtokError(
                    f"modality '{self.name}': lengths of mean and std must divide {self.channels} channels"
                )
            if self.variable and len(self.shape) != 1:
                raise MmtokError(f"modality '{self.name}': a variable number of vectors has one dimension")
        elif self.vocabulary is None or self.codes < 1:
            raise MmtokError(f"modality '{self.name}': {self.kind} needs a vocabulary and codes >= 1")
        if not self.shape or min(self.shape) < 1:
            raise MmtokError(f"modality '{self.name}': shape {self.shape} must hold positive sizes")
        if self.kind == "sequence":
            if len(self.shape) != 1 or self.codes != 1:
                raise MmtokError(f"modality '{self.name}': a sequence has one dimension and one code per position")
            assert self.vocabulary is not None
            need = (self.shape[0] + 1) // 2 + 2  # most runs a sequence can have, sentinel 0 and the closing one
            if self.vocabulary.sentinel_count < need:
                raise MmtokError(
                    f"modality '{self.name}': {self.shape[0]} tokens need {need} sentinels,"
                    f" the vocabulary has {self.vocabulary.sentinel_count}"
                )

    @property
    def size(self) -> int:
        """Number of token positions of a whole grid, or of the longest sequence."""
        return math.prod(self.shape)

    @property
    def positions(self) -> int:
        """Rows of the position table: a span-masked sequence is longer than the sequence itself (spec: 2(T+1))."""
        return 2 * (self.size + 1) if self.kind == "sequence" else self.size

    @property
    def is_target(self) -> bool:
        """Whether the model can predict it."""
        return self.kind != "continuous" and self.role != "input"

    @property
    def is_input(self) -> bool:
        """Whether the model can read it."""
        return self.role != "target"

    @property
    def in_spans(self) -> bool:
        """Whether it is masked in spans, positions counting what is visible, rather than position by position."""
        return self.kind == "sequence" or self.variable

    @property
    def vocab_size(self) -> int:
        """Ids per code; 0 for continuous."""
        return self.vocabulary.size if self.vocabulary else 0


def by_name(modalities: tuple[Modality, ...]) -> dict[str, Modality]:
    """Returns the modalities by name.

    Raises:
      MmtokError: a name occurs twice.
    """
    table = {modality.name: modality for modality in modalities}
    if len(table) < len(modalities):
        names = [modality.name for modality in modalities]
        twice = next(name for name in names if names.count(name) > 1)
        raise MmtokError(f"modality '{twice}' is declared twice; names must be unique")
    return table

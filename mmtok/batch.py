"""The contracts between tokenizers, data, masking and model: TokenColumn and MaskedBatch.

Shape letters: B samples, L positions of one modality, K codes per position, N encoder slots, M decoder slots.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float16, Float32, Int, UInt8

Array = np.ndarray | jax.Array


@dataclasses.dataclass(frozen=True)
class TokenColumn:
    """One modality of a batch of token samples.

    Attributes:
      values: (B, L, K) integer ids for `grid` and `sequence`; (B, L, channels) numbers for `continuous`. L is the
        modality's `size`; positions from `length` on hold `pad` (0).
      length: (B,) int32, positions in use; 0 means that the sample lacks this modality. A present grid has
        length L; a present sequence at least 1 (its end id).
    """

    values: np.ndarray
    length: Int[np.ndarray, " B"]

    def __getitem__(self, rows: Any) -> "TokenColumn":
        return TokenColumn(self.values[rows], self.length[rows])


TokenBatch = Mapping[str, TokenColumn]
"""Token samples by modality name, in columns; all columns have the same B."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EncoderSlots:
    """What the encoder reads: N slots per sample, valid ones first.

    Attributes:
      ids: Token id within its modality's vocabulary per code; -1 where the modality has fewer codes. For a continuous
        slot `ids[..., 0]` is the row of `vectors[name]` that holds its content.
      modality: Index into the model's tuple of modalities (0 where not valid).
      position: Row of the modality's position table: flat row-major index on a grid, rank among the visible tokens of
        a sequence (sentinels included).
      valid: False marks padding, which nothing may attend to.
      vectors: Per continuous modality that occurs: (B, rows, channels) contents, not yet normalised; 0 where no slot
        refers to them. uint8 (pixels) and float16 where the token samples are (the model makes them float32, on the
        device), else float32.
    """

    ids: Int[Array, "B N K"]
    modality: Int[Array, "B N"]
    position: Int[Array, "B N"]
    valid: Bool[Array, "B N"]
    vectors: dict[
        str, UInt8[Array, "B rows channels"] | Float16[Array, "B rows channels"] | Float32[Array, "B rows channels"]
    ]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecoderSlots:
    """What the decoder reads: M slots per sample, grouped by modality, valid ones first.

    Attributes:
      ids: Input id per code: for sequences the token before the target (teacher forcing). Grids are mask queries: the
        model ignores their ids (0). -1 where the modality has fewer codes.
      modality: Index into the model's tuple of modalities (0 where not valid).
      position: As for the encoder; for sequences the rank of the input token within the target span sequence.
      valid: False marks padding.
      limit: Slot t attends to slot s iff both are valid, of the same modality, and s < limit[t]: t + 1 within a
        sequence (causal), the end of the block for a grid (all of its queries).
    """

    ids: Int[Array, "B M K"]
    modality: Int[Array, "B M"]
    position: Int[Array, "B M"]
    valid: Bool[Array, "B M"]
    limit: Int[Array, "B M"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MaskedBatch:
    """One training batch; fixed shapes only.

    Attributes:
      encoder: Visible tokens.
      decoder: Queries.
      targets: Id to predict at each decoder slot per code; -1 where the modality has fewer codes, and at padding.
    """

    encoder: EncoderSlots
    decoder: DecoderSlots
    targets: Int[Array, "B M K"]

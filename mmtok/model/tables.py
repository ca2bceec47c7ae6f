"""One concatenated table for the tokens of all modalities: embeddings and output heads."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from mmtok import axes
from mmtok.axes import param
from mmtok.errors import MmtokError
from mmtok.modality import Modality, by_name
from mmtok.model.config import ModelConfig, Tie

EMBEDDING_STD = 0.02
CODE_NOISE = 0.1  # of the standard deviation: two codes at the same place must still be told apart


def row_offsets(
    modalities: tuple[Modality, ...], members: tuple[Modality, ...]
) -> tuple[Int[np.ndarray, "modalities codes"], int]:
    """Returns the first row of each (modality, code) in a table of the ids of `members`, and the number of rows.

    Modalities that have fewer codes repeat an offset; those that are no members have no rows.
    """
    most = max((modality.codes for modality in modalities), default=1)
    offsets, rows = np.zeros((len(modalities), most), np.int32), 0
    for index, modality in enumerate(modalities):
        offsets[index] = rows
        for code in range(modality.codes if modality in members else 0):
            offsets[index, code] = rows
            rows += modality.vocab_size
    return offsets, rows


@dataclasses.dataclass(frozen=True)
class Members:
    """The modalities whose ids have rows in each table, in the order of the rows; a table without any does not exist.

    Attributes:
      encoder: Embeddings that the encoder reads.
      decoder: Embeddings that the decoder reads.
      head: Output heads.
      outputs: The name of the table that serves as output heads.
    """

    encoder: tuple[Modality, ...]
    decoder: tuple[Modality, ...]
    head: tuple[Modality, ...]
    outputs: Literal["encoder", "decoder", "head"]

    @classmethod
    def of(cls, modalities: tuple[Modality, ...], tie: Tie) -> "Members":
        """Returns the members under a way of tying.

        Untied, the decoder's table holds the sequences only: a grid is asked for by mask queries, which embed no ids.
        """
        tokens = tuple(modality for modality in modalities if modality.kind != "continuous")
        inputs = tuple(modality for modality in tokens if modality.is_input)
        targets = tuple(modality for modality in tokens if modality.is_target)
        sequences = tuple(modality for modality in targets if modality.kind == "sequence")
        if tie == "all":
            return cls(tokens, (), (), "encoder")
        return cls(inputs, targets, (), "decoder") if tie == "head" else cls(inputs, sequences, targets, "head")

    @property
    def output_rows(self) -> tuple[Modality, ...]:
        """The modalities that have rows in the table of the output heads."""
        return getattr(self, self.outputs)


def look_up(
    table: Float[Array, "rows D"], *, offsets: Int[np.ndarray, "modalities codes"], ids: Array, modality: Array
) -> Float[Array, "B S D"]:
    """Returns the sum over codes of the rows of `ids` (B, S, K); ids below 0 add nothing.

    Where the width of the table is split over devices, the ids go to the table: each device looks up its part of the
    width for all of those it shares the table with, then they exchange what they found. Neither the table nor its
    gradient is ever whole on a device.
    """
    rows = jnp.asarray(offsets)[modality][..., : ids.shape[-1]] + ids
    rows = jnp.where(ids >= 0, rows, -1).reshape(-1, ids.shape[-1])

    def find(table: Array, rows: Array) -> tuple[Array]:
        rows = axes.gather(rows, "table", axis=0)
        found = jnp.take(table, jnp.maximum(rows, 0), axis=0, mode="clip")
        found = jnp.sum(found * (rows >= 0)[..., None], axis=-2)
        return (axes.exchange(found, "table", split=0, join=1),)

    found = axes.per_device(find, inputs=((None, "table"), ("token", None)), outputs=(("token", None),))(table, rows)
    return axes.constrain(found[0].reshape(*ids.shape[:-1], -1), "batch", None, None)


def take(table: Float[Array, "rows D"], index: Int[Array, "B S"]) -> Float[Array, "B S D"]:
    """Returns rows of a table that every device holds; its gradient is summed once each device has added up its own."""

    def find(table: Array, index: Array) -> tuple[Array]:
        return (jnp.take(table, index, axis=0, mode="clip"),)

    names = ("token", None)
    found = axes.per_device(find, inputs=((None, None), names[:1]), outputs=(names,))(table, index.reshape(-1))
    return axes.constrain(found[0].reshape(*index.shape, -1), "batch", None, None)


class TokenTables(nnx.Module):
    """Token embeddings of encoder and decoder, and output heads, tied as the configuration says.

    A table that is tied to another one is None.
    """

    def __init__(
        self,
        config: ModelConfig,
        modalities: tuple[Modality, ...],
        *,
        rngs: nnx.Rngs,
        code_vectors: Mapping[str, np.ndarray],
    ) -> None:
        _check(code_vectors, modalities)
        rows = Members.of(modalities, config.tie)
        projection_key = rngs.params()
        self.scale = config.dim**0.5 if config.scaled_embeddings else 1.0
        usual = 1 / self.scale if config.scaled_embeddings else EMBEDDING_STD

        def table(members: tuple[Modality, ...], *, xavier: bool = False) -> nnx.Param:
            parts = [jnp.zeros((0, config.dim))]
            for modality in members:
                vectors, key = code_vectors.get(modality.name), jax.random.fold_in(projection_key, len(parts))
                std = (2 / (modality.vocab_size + config.dim)) ** 0.5 if xavier else usual
                for code in range(modality.codes):
                    shape = (modality.vocab_size, config.dim)
                    if vectors is not None:
                        rows = _neighbourly(vectors, jax.random.fold_in(key, code), rngs.params(), dim=config.dim)
                    elif xavier:
                        rows = jax.random.uniform(rngs.params(), shape, minval=-(3**0.5), maxval=3**0.5)
                    else:
                        rows = jax.random.normal(rngs.params(), shape)
                    parts.append(std * rows)
            return param(jnp.concatenate(parts), (None, "table"))

        self.encoder = table(rows.encoder) if rows.encoder else None
        self.decoder = table(rows.decoder) if rows.decoder else None
        self.head = table(rows.head, xavier=True) if rows.head else None
        self.modalities = modalities
        self.rows = rows
        self.dim = config.dim

    def encode(self, ids: Int[Array, "B N K"], modality: Int[Array, "B N"]) -> Float[Array, "B N D"]:
        """Returns the encoder embeddings of `ids`, summed over codes."""
        if self.encoder is None:
            return jnp.zeros((*ids.shape[:2], self.dim))
        offsets, _ = row_offsets(self.modalities, self.rows.encoder)
        return self.scale * look_up(self.encoder[...], offsets=offsets, ids=ids, modality=modality)

    def decode(self, ids: Int[Array, "B M K"], modality: Int[Array, "B M"]) -> Float[Array, "B M D"] | None:
        """Returns the decoder embeddings of `ids` (of no meaning for grids); None when no sequence is a target."""
        if not any(item.kind == "sequence" and item.is_target for item in self.modalities):
            return None
        members = self.rows.decoder or self.rows.output_rows
        table = self.outputs if self.decoder is None else self.decoder[...]
        offsets, _ = row_offsets(self.modalities, members)
        return self.scale * look_up(table, offsets=offsets, ids=ids[..., :1], modality=modality)  # sequences: one code

    @property
    def outputs(self) -> Float[Array, "rows D"]:
        """The output heads: row `offset + id` gives the logit of `id`."""
        chosen: nnx.Param | None = getattr(self, self.rows.outputs)
        assert chosen is not None
        return chosen[...]

    @property
    def output_offsets(self) -> Int[np.ndarray, "modalities codes"]:
        """First row in `outputs` of each (modality, code)."""
        return row_offsets(self.modalities, self.rows.output_rows)[0]


def _check(code_vectors: Mapping[str, np.ndarray], modalities: tuple[Modality, ...]) -> None:
    table = by_name(modalities)
    for name, vectors in code_vectors.items():
        if name not in table:
            raise MmtokError(f"code vectors are given for '{name}', which is no modality of this model")
        if vectors.ndim != 2 or len(vectors) != table[name].vocab_size:
            raise MmtokError(
                f"code vectors of '{name}' have shape {vectors.shape}, expected ({table[name].vocab_size}, d)"
            )


def _neighbourly(vectors: np.ndarray, projection: Array, noise: Array, *, dim: int) -> Float[Array, "V D"]:
    """Returns rows of unit variance that lie near each other where the code vectors do.

    A fixed random projection keeps distances (Johnson-Lindenstrauss), so what is learned about a code helps its
    neighbours from the first step on; independent rows would have to discover them one by one.
    """
    vectors = np.asarray(vectors, np.float32)
    standard = (vectors - vectors.mean(0)) / np.maximum(vectors.std(0), 1e-6)
    projected = standard @ jax.random.normal(projection, (vectors.shape[1], dim)) / vectors.shape[1] ** 0.5
    return projected + CODE_NOISE * jax.random.normal(noise, projected.shape)

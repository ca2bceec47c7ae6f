"""One concatenated table for the tokens of all modalities: embeddings and output heads."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from mmtok.axes import param
from mmtok.errors import MmtokError
from mmtok.modality import Modality, by_name
from mmtok.model.config import ModelConfig

EMBEDDING_STD = 0.02
CODE_NOISE = 0.1  # of the standard deviation: two codes at the same place must still be told apart


def row_offsets(modalities: tuple[Modality, ...]) -> tuple[Int[np.ndarray, "modalities codes"], int]:
    """Returns the first row of each (modality, code) in a table of all their ids, and the number of rows.

    Modalities that have fewer codes repeat an offset; continuous ones have no rows.
    """
    most = max((modality.codes for modality in modalities), default=1)
    offsets, rows = np.zeros((len(modalities), most), np.int32), 0
    for index, modality in enumerate(modalities):
        offsets[index] = rows
        for code in range(modality.codes if modality.is_target else 0):
            offsets[index, code] = rows
            rows += modality.vocab_size
    return offsets, rows


def gather(
    table: Float[Array, "rows D"], *, offsets: Int[np.ndarray, "modalities codes"], ids: Array, modality: Array
) -> Float[Array, "B S D"]:
    """Returns the sum over codes of the rows of `ids` (B, S, K); ids below 0 add nothing."""
    used = ids >= 0
    rows = jnp.asarray(offsets)[modality][..., : ids.shape[-1]] + jnp.where(used, ids, 0)
    embedded = jnp.take(table, rows, axis=0, mode="clip")
    return jnp.sum(embedded * used[..., None], axis=-2)


class TokenTables(nnx.Module):
    """Token embeddings of encoder and decoder, and output heads, tied as the configuration says.

    A table that is tied to another one is None. Untied, the decoder's table holds the sequences only: a grid is asked
    for by mask queries, which embed no ids.
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
        sequences = tuple(modality for modality in modalities if modality.kind == "sequence")
        projection_key = rngs.params()
        self.scale = config.dim**0.5 if config.scaled_embeddings else 1.0
        usual = 1 / self.scale if config.scaled_embeddings else EMBEDDING_STD

        def table(members: tuple[Modality, ...], *, xavier: bool = False) -> nnx.Param:
            parts = [jnp.zeros((0, config.dim))]
            for modality in members:
                vectors, key = code_vectors.get(modality.name), jax.random.fold_in(projection_key, len(parts))
                std = (2 / (modality.vocab_size + config.dim)) ** 0.5 if xavier else usual
                for code in range(modality.codes if modality.is_target else 0):
                    shape = (modality.vocab_size, config.dim)
                    if vectors is not None:
                        rows = _neighbourly(vectors, jax.random.fold_in(key, code), rngs.params(), dim=config.dim)
                    elif xavier:
                        rows = jax.random.uniform(rngs.params(), shape, minval=-(3**0.5), maxval=3**0.5)
                    else:
                        rows = jax.random.normal(rngs.params(), shape)
                    parts.append(std * rows)
            return param(jnp.concatenate(parts), ("vocab", "embed"))

        self.encoder = table(modalities)
        decoder = {"none": sequences, "head": modalities, "all": ()}[config.tie]
        self.decoder = table(decoder) if decoder else None
        self.head = table(modalities, xavier=True) if config.tie == "none" else None
        self.modalities = modalities
        self.tie = config.tie

    def encode(self, ids: Int[Array, "B N K"], modality: Int[Array, "B N"]) -> Float[Array, "B N D"]:
        """Returns the encoder embeddings of `ids`, summed over codes."""
        offsets, _ = row_offsets(self.modalities)
        return self.scale * gather(self.encoder[...], offsets=offsets, ids=ids, modality=modality)

    def decode(self, ids: Int[Array, "B M K"], modality: Int[Array, "B M"]) -> Float[Array, "B M D"] | None:
        """Returns the decoder embeddings of `ids` (of no meaning for grids); None when there is no sequence."""
        if all(item.kind != "sequence" for item in self.modalities):
            return None
        if self.tie == "none":
            assert self.decoder is not None
            rows = tuple(item for item in self.modalities if item.kind == "sequence")
            starts = dict(zip([item.name for item in rows], row_offsets(rows)[0]))
            offsets = np.stack([starts.get(item.name, np.zeros(1, np.int32)) for item in self.modalities])
            table = self.decoder[...]
        else:
            offsets, table = row_offsets(self.modalities)[0], self.outputs
        return self.scale * gather(table, offsets=offsets, ids=ids[..., :1], modality=modality)  # sequences: one code

    @property
    def outputs(self) -> Float[Array, "rows D"]:
        """The output heads: row `offset + id` gives the logit of `id`."""
        chosen = {"none": self.head, "head": self.decoder, "all": self.encoder}[self.tie]
        assert chosen is not None
        return chosen[...]


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

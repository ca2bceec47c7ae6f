"""What enters encoder and decoder: contents, positions and modality embeddings of exactly the slots in use."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Real

from mmtok.axes import param, whole_width
from mmtok.batch import DecoderSlots, EncoderSlots
from mmtok.modality import Modality
from mmtok.model.config import ModelConfig
from mmtok.model.layers import Linear
from mmtok.model.positions import PositionLayout
from mmtok.model.tables import EMBEDDING_STD, TokenTables, take


class Embeddings(nnx.Module):
    """Token tables, projections of continuous modalities, position and modality embeddings, mask token, registers."""

    def __init__(
        self,
        config: ModelConfig,
        modalities: tuple[Modality, ...],
        *,
        rngs: nnx.Rngs,
        code_vectors: Mapping[str, np.ndarray],
    ) -> None:
        def normal(rows: int) -> nnx.Param:
            return param(EMBEDDING_STD * jax.random.normal(rngs.params(), (rows, config.dim)), (None, "embed"))

        layout = PositionLayout(modalities)
        self.tokens = TokenTables(config, modalities, rngs=rngs, code_vectors=code_vectors)
        self.inputs = nnx.Dict(
            {
                modality.name: Linear(
                    modality.channels,
                    config.dim,
                    axes=(None, "embed"),
                    bias=modality.bias,
                    dtype=config.dtype,
                    rngs=rngs,
                )
                for modality in modalities
                if modality.kind == "continuous"
            }
        )
        self.modality = normal(len(modalities))
        self.decoder_modality = normal(len(modalities)) if config.decoder_modality else None
        self.encoder_position = normal(layout.learned_rows) if layout.learned_rows else None
        self.decoder_position = normal(layout.learned_rows) if layout.learned_rows else None
        self.mask = normal(1)
        self.registers = normal(config.registers) if config.registers else None
        self.modalities = modalities
        self.dim = config.dim
        self.temperature = config.position_temperature

    @jax.named_scope("embeddings")
    def encode(self, slots: EncoderSlots) -> tuple[Float[Array, "B N D"], Float[Array, "B N D"]]:
        """Returns (content, place) of the encoder's slots, float32; both are 0 at padding."""
        ids, modality = jnp.asarray(slots.ids), jnp.asarray(slots.modality)
        continuous = np.array([item.kind == "continuous" for item in self.modalities])
        content = self.tokens.encode(jnp.where(jnp.asarray(continuous)[modality][..., None], -1, ids), modality)
        for index, item in enumerate(self.modalities):
            if item.name in slots.vectors:
                rows = self._project(item, jnp.asarray(slots.vectors[item.name]))
                picked = jnp.take_along_axis(rows, jnp.maximum(ids[..., :1], 0), axis=1, mode="clip")
                content = jnp.where((modality == index)[..., None], picked, content)
        valid = jnp.asarray(slots.valid)[..., None]
        place = self._place(modality, jnp.asarray(slots.position), self.modality, self.encoder_position)
        return content * valid, place * valid

    @jax.named_scope("embeddings")
    def decode(self, slots: DecoderSlots) -> Float[Array, "B M D"]:
        """Returns the decoder's input, float32: token before the target in sequences, mask token on grids."""
        ids, modality = jnp.asarray(slots.ids), jnp.asarray(slots.modality)
        sequence = np.array([item.kind == "sequence" for item in self.modalities])
        content, mask = self.tokens.decode(ids, modality), whole_width(self.mask[...], (None, "embed"))
        if content is None:
            content = mask
        else:
            content = jnp.where(jnp.asarray(sequence)[modality][..., None], content, mask)
        limits = np.array([item.position_limit or item.positions for item in self.modalities], np.int32)
        position = jnp.where(slots.position < jnp.asarray(limits)[modality], slots.position, 0)
        owners = self.modality if self.decoder_modality is None else self.decoder_modality
        place = self._place(modality, position, owners, self.decoder_position)
        return (content + place) * jnp.asarray(slots.valid)[..., None]

    def _place(
        self, modality: Int[Array, "B S"], position: Int[Array, "B S"], owners: nnx.Param, learned: nnx.Param | None
    ) -> Float[Array, "B S D"]:
        """Returns the sum of position and modality embedding."""
        layout = PositionLayout(self.modalities)
        table = jnp.asarray(layout.fixed(dim=self.dim, temperature=self.temperature))
        if learned is not None:
            table = jnp.concatenate([table, whole_width(learned[...], (None, "embed"))])
        rows = jnp.asarray(layout.offsets)[modality] + position
        return take(table, rows) + take(whole_width(owners[...], (None, "embed")), modality)

    def _project(self, modality: Modality, vectors: Real[Array, "B rows channels"]) -> Float[Array, "B rows D"]:
        mean, std = (
            np.resize(np.array(value, np.float32), modality.channels) for value in (modality.mean, modality.std)
        )
        return self.inputs[modality.name]((vectors.astype(jnp.float32) - mean) / std).astype(jnp.float32)

"""The encoder-decoder that predicts any tokens from any others."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mmtok.axes import constrain, whole_width
from mmtok.batch import DecoderSlots, EncoderSlots, MaskedBatch
from mmtok.errors import MmtokError
from mmtok.metrics import Mean
from mmtok.modality import Modality, by_name
from mmtok.model.blocks import DecoderBlock, EncoderBlock, Layers, Stack
from mmtok.model.config import ModelConfig
from mmtok.model.embeddings import Embeddings
from mmtok.model.heads import Head, cross_entropy
from mmtok.model.incremental import Memory, advance, begin
from mmtok.model.layers import LayerNorm, Linear

FLOP_RULE = (
    "6 per parameter and token in the dense layers of encoder and decoder; 12 per pair of slots and unit of width in"
    " attention, masked or not; 6 x dim x vocabulary per target and code in the heads, targets spread evenly over the"
    " modalities"
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """What the decoder attends to: R registers and N encoder slots.

    Attributes:
      tokens: Projected encoder outputs with the slots' position and modality embeddings added again; float32.
      valid: False marks padding.
    """

    tokens: Float[Array, "B S D"]
    valid: Bool[Array, "B S"]


class AnyToAny(nnx.Module):
    """Encoder-decoder Transformer over the tokens of all modalities (4M; Mizrahi et al. 2023, section 2)."""

    def __init__(
        self,
        config: ModelConfig,
        modalities: tuple[Modality, ...],
        *,
        rngs: nnx.Rngs,
        code_vectors: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Initialises the parameters (MAE style: Xavier-uniform layers, embeddings of standard deviation 0.02).

        Args:
          config: The shape of the model.
          modalities: The order is the meaning of the modality indices in a batch.
          rngs: Its `params` stream is used.
          code_vectors: Per modality (V, d) vectors of its ids, for example codebook entries: embedding and head rows
            start as a random projection of them, so that similar ids start out similar.

        Raises:
          MmtokError: two modalities share a name, none can be predicted, or code vectors do not fit.
        """
        by_name(modalities)
        if not any(modality.is_target for modality in modalities):
            raise MmtokError("a model needs at least one modality of kind grid or sequence, which it can predict")
        self.config = config
        self.modalities = modalities
        self.embeddings = Embeddings(config, modalities, rngs=rngs, code_vectors=code_vectors or {})
        self.encoder: Stack | Layers = Stack(EncoderBlock, config, depth=config.encoder_depth, rngs=rngs)
        self.encoder_norm = LayerNorm(config.dim, eps=config.norm_eps, bias=config.norm_bias)
        self.context = Linear(config.dim, config.dim, axes=(None, "embed"), bias=True, dtype=config.dtype, rngs=rngs)
        self.decoder: Stack | Layers = Stack(DecoderBlock, config, depth=config.decoder_depth, rngs=rngs)
        self.decoder_norm = LayerNorm(config.dim, eps=config.norm_eps, bias=config.norm_bias)

    def encode(self, slots: EncoderSlots) -> Context:
        """Returns the context that the visible tokens give the decoder."""
        (context,) = self.encode_views((slots,))
        return context

    def encode_views(self, views: Sequence[EncoderSlots]) -> tuple[Context, ...]:
        """Returns the contexts of several views of the same samples, of any lengths.

        They pass through the encoder side by side, so that a slot costs the same however many views there are, and none
        is padded to the length of another.
        """
        hidden, place, valid = self._encoder(views)
        tokens = constrain(self.context(hidden) + place, "batch", None, None)
        parts = jnp.split(tokens, np.cumsum([part.shape[1] for part in valid])[:-1], axis=1)
        return tuple(map(Context, parts, valid))

    def encoder_hidden(self, slots: EncoderSlots) -> Float[Array, "B S D"]:
        """Returns the encoder's normalised outputs, registers first; for probing and for comparisons."""
        return self._encoder((slots,))[0]

    def _encoder(self, views: Sequence[EncoderSlots]) -> tuple[Array, Array, list[Array]]:
        """Returns outputs and places of all views side by side, and which slots of each are valid."""
        embedded = [self._embedded(slots) for slots in views]
        x, place = (jnp.concatenate(parts, axis=1) for parts in list(zip(*embedded))[:2])
        valid = [part for _, _, part in embedded]
        return self.encoder_norm(self.encoder(x, *(part[:, None] for part in valid))), place, valid

    def _embedded(self, slots: EncoderSlots) -> tuple[Array, Array, Array]:
        content, place = self.embeddings.encode(slots)
        x, valid = content + place, jnp.asarray(slots.valid)
        if self.embeddings.registers is not None:
            registers = whole_width(self.embeddings.registers[...], (None, "embed"))
            registers = jnp.broadcast_to(registers, (len(x), self.config.registers, x.shape[-1]))
            x = jnp.concatenate([registers, x], axis=1)
            place = jnp.pad(place, ((0, 0), (self.config.registers, 0), (0, 0)))
            valid = jnp.pad(valid, ((0, 0), (self.config.registers, 0)), constant_values=True)
        return x, place, valid

    def decode(self, slots: DecoderSlots, context: Context) -> Float[Array, "B M D"]:
        """Returns the hidden states of the queries, float32; of no meaning at padding."""
        modality, valid = jnp.asarray(slots.modality), jnp.asarray(slots.valid)
        same = modality[:, :, None] == modality[:, None, :]
        before = jnp.arange(modality.shape[1]) < jnp.asarray(slots.limit)[:, :, None]
        mask = same & before & valid[:, :, None] & valid[:, None, :]
        x = self.decoder(self.embeddings.decode(slots), mask, context.tokens, context.valid[:, None])
        return self.decoder_norm(x)

    def unstacked(self) -> "AnyToAny":
        """Returns the model with its layers side by side, which samples faster; results are the same.

        Their parameters are copies, under other paths; those of the rest are shared.
        """
        model = nnx.merge(*nnx.split(self))
        model.encoder, model.decoder = (
            Layers(stack) if isinstance(stack, Stack) else stack for stack in (model.encoder, model.decoder)
        )
        return model

    def begin(self, context: Context, *, size: int) -> Memory:
        """Returns what the decoder remembers before the first of at most `size` tokens of a sequence."""
        return begin(self.decoder, context.tokens, context.valid, size=size)

    def advance(
        self, slots: DecoderSlots, memory: Memory, step: Int[Array, ""]
    ) -> tuple[Float[Array, "B 1 D"], Memory]:
        """Runs the decoder on one more slot of each sample, number `step`, which sees all slots before it.

        Slot by slot this gives what `decode` gives for slots of one modality with `limit` = number + 1.

        Returns:
          Its hidden state, float32, and the memory with it.
        """
        x, memory = advance(self.decoder, self.embeddings.decode(slots), memory, step)
        return self.decoder_norm(x), memory

    def head(self, modality: int) -> Float[Array, "rows D"]:
        """Returns the rows of the output table that belong to one modality, code after code.

        Raises:
          MmtokError: the modality is no target.
        """
        item = self.modalities[modality]
        if not item.is_target:
            why = "is continuous" if item.kind == "continuous" else "is an input only"
            raise MmtokError(f"modality '{item.name}' {why}: the model reads it but cannot predict it")
        offset, rows = self.embeddings.tokens.output_offsets[modality, 0], item.codes * item.vocab_size
        return self.embeddings.tokens.outputs[offset : offset + rows].astype(self.config.dtype)

    def logits(
        self, hidden: Float[Array, "*slots D"], *, modality: int, head: Float[Array, "rows D"] | None = None
    ) -> Float[Array, "*slots K V"]:
        """Returns the float32 logits of every code of one modality.

        Args:
          hidden: What the decoder returned.
          modality: Its index.
          head: What `head` returned, so that it need not be cut out of the table again.

        Raises:
          MmtokError: the modality is no target.
        """
        item, head = self.modalities[modality], self.head(modality) if head is None else head
        flat = hidden.reshape(-1, hidden.shape[-1]).astype(self.config.dtype)
        logits = jnp.matmul(flat, head.T, preferred_element_type=jnp.float32)
        return logits.reshape(*hidden.shape[:-1], item.codes, item.vocab_size)

    def losses(self, batch: MaskedBatch) -> dict[str, Mean]:
        """Returns the cross-entropy in nats of every modality that can be a target.

        Each is (sum over targets and codes, number of targets times codes); a modality without targets has count 0.
        """
        hidden = self.decode(batch.decoder, self.encode(batch.encoder))
        targets = jnp.asarray(batch.targets)
        with jax.named_scope("heads"):
            totals, counts = cross_entropy(
                hidden.reshape(-1, hidden.shape[-1]),
                self.embeddings.tokens.outputs,
                targets.reshape(-1, targets.shape[-1]),
                jnp.asarray(batch.decoder.modality).reshape(-1),
                jnp.asarray(batch.decoder.valid).reshape(-1),
                heads=self.heads,
                dtype=self.config.dtype,
            )
        return {
            item.name: Mean(totals[index], counts[index])
            for index, item in enumerate(self.modalities)
            if item.is_target
        }

    @property
    def heads(self) -> tuple[Head, ...]:
        """The output heads: one per code of each modality that can be predicted."""
        offsets = self.embeddings.tokens.output_offsets
        return tuple(
            Head(modality=index, code=code, offset=int(offsets[index, code]), size=item.vocab_size)
            for index, item in enumerate(self.modalities)
            if item.is_target
            for code in range(item.codes)
        )

    def flops(self, batch_size: int, encoder_slots: int, decoder_slots: int) -> dict[str, float]:
        """Returns the floating-point operations of one training step (forward and backward) on a full batch, by part.

        Counts what the model needs, as `FLOP_RULE` says; look-ups, norms and recomputation do not count.
        """
        c = self.config
        n, m, width = encoder_slots + c.registers, decoder_slots, c.heads * c.head_dim
        projection, mlp = c.dim * width, (3 if c.gated else 2) * c.dim * c.mlp_hidden
        targets = [item for item in self.modalities if item.is_target]
        vocabulary = sum(item.codes * item.vocab_size for item in targets) / len(targets)
        parts = {
            "encoder": 6 * n * (c.encoder_depth * (4 * projection + mlp) + c.dim**2),
            "decoder": 6 * c.decoder_depth * (m * (6 * projection + mlp) + n * 2 * projection),
            "attention": 12 * width * (c.encoder_depth * n * n + c.decoder_depth * (m * m + m * n)),
            "heads": 6 * m * c.dim * vocabulary,
        }
        return {name: float(batch_size * count) for name, count in parts.items()}

"""Decoding token by token: every layer remembers keys and values, so that a new token costs one token's work."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmtok.model.blocks import Attention, Layers, Stack


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pairs:
    """Keys and values of one layer, by head, so that the product with one query reads them as they lie."""

    keys: Float[Array, "B H S d"]
    values: Float[Array, "B H S d"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """What a decoder remembers, layer by layer.

    One array per layer: stacked ones would be cut up, and so copied, at every token.

    Attributes:
      tokens: Of self-attention, M slots; 0 where no token is yet.
      context: Of cross-attention, S slots, which never change.
      valid: False marks padding of the context.
    """

    tokens: tuple[Pairs, ...]
    context: tuple[Pairs, ...]
    valid: Bool[Array, "B S"]


def begin(decoder: Stack | Layers, context: Float[Array, "B S D"], valid: Bool[Array, "B S"], *, size: int) -> Memory:
    """Returns the memory before the first of at most `size` tokens."""
    own = tuple(_pairs(block.cross_attention, block.context_norm(context)) for block in decoder.layers())
    shape = (*own[0].keys.shape[:2], size, own[0].keys.shape[-1])
    none = Pairs(jnp.zeros(shape, own[0].keys.dtype), jnp.zeros(shape, own[0].values.dtype))
    return Memory((none,) * len(own), own, valid)


def advance(
    decoder: Stack | Layers, x: Float[Array, "B 1 D"], memory: Memory, step: Int[Array, ""]
) -> tuple[Float[Array, "B 1 D"], Memory]:
    """Runs all blocks on token number `step`, which sees itself and those before it.

    Returns:
      The residual stream behind the last block, float32; and the memory with this token.
    """
    seen = jnp.arange(memory.tokens[0].keys.shape[2])[None] <= step
    tokens = []
    for block, before, context in zip(decoder.layers(), memory.tokens, memory.context):
        y = block.attention_norm(x)
        here = _pairs(block.attention, y)
        write = lambda old, new: jax.lax.dynamic_update_slice(old, new, (0, 0, step, 0))  # noqa: E731
        tokens.append(jax.tree.map(write, before, here))
        x = x + _read(block.attention, y, tokens[-1], seen)
        x = x + _read(block.cross_attention, block.cross_norm(x), context, memory.valid)
        x = x + block.mlp(block.mlp_norm(x))
    return x, dataclasses.replace(memory, tokens=tuple(tokens))


def _pairs(attention: Attention, x: Float[Array, "B S D"]) -> Pairs:
    keys, values = attention.remember(x)
    return Pairs(jnp.swapaxes(keys, 1, 2), jnp.swapaxes(values, 1, 2))


def _read(
    attention: Attention, x: Float[Array, "B 1 D"], pairs: Pairs, mask: Bool[Array, "#B S"]
) -> Float[Array, "B 1 D"]:
    """Returns what one token reads; it may always see something, unlike in `blocks.attend`, unless there is nothing."""
    query = attention.ask(x)[:, 0]
    scale = query.shape[-1] ** -0.5
    logits = jnp.einsum("bhd,bhsd->bhs", query * scale, pairs.keys, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(mask[:, None], logits, jnp.finfo(jnp.float32).min), axis=-1)
    weights = jnp.where(mask.any(-1)[:, None, None], weights, 0).astype(pairs.values.dtype)
    y = jnp.einsum("bhs,bhsd->bhd", weights, pairs.values, preferred_element_type=jnp.float32)
    return attention.out(y.astype(query.dtype).reshape(len(y), 1, -1))

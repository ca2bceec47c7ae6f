"""Transformer blocks of the encoder and the decoder (pre-norm; Mizrahi et al. 2023, section 2.3)."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from mmtok import axes
from mmtok.model.attention import Kind, attend
from mmtok.model.config import ModelConfig
from mmtok.model.layers import LayerNorm, Linear

UNROLLED = {"cpu": 32, "gpu": 24, "tpu": 4}
"""Most layers that are run one after the other instead of by a loop; see `Stack`."""

REMAT_POLICIES: dict[str, Callable[..., Any]] = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Attention(nnx.Module):
    """Multi-head attention of one sequence to another (or to itself)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        width = config.heads * config.head_dim
        linear = functools.partial(Linear, dtype=config.dtype, rngs=rngs)
        self.query = linear(config.dim, width, axes=("embed", "heads"), bias=config.qkv_bias)
        self.key = linear(config.dim, width, axes=("embed", "heads"), bias=config.qkv_bias)
        self.value = linear(config.dim, width, axes=("embed", "heads"), bias=config.qkv_bias)
        self.out = linear(width, config.dim, axes=("heads", "embed"), bias=config.proj_bias)
        # With equal projections a query first looks at what resembles it, its own position above all, instead of having
        # to discover that (Trockman & Kolter 2023, "Mimetic Initialization of Self-Attention Layers").
        self.key.kernel[...] = self.query.kernel[...]
        norm = functools.partial(LayerNorm, config.head_dim, eps=config.norm_eps, bias=config.norm_bias, axis=None)
        self.query_norm = norm() if config.qk_norm else None
        self.key_norm = norm() if config.qk_norm else None
        self.heads = config.heads
        self.kind: Kind = config.attention

    @jax.named_scope("attention")
    def __call__(
        self, x: Float[Array, "B Q D"], context: Float[Array, "B S D"], mask: Bool[Array, "B #Q S"]
    ) -> Float[Array, "B Q D"]:
        """Returns what each of `x` reads from `context`; `mask` is True where it may look."""
        key, value = self.remember(context)
        y = attend(self.ask(x), key, value, mask, kind=self.kind)
        return self.out(y.reshape(*y.shape[:2], -1))

    @jax.named_scope("attention")
    def within(self, x: Float[Array, "B N D"], *masks: Bool[Array, "B _ _"]) -> Float[Array, "B N D"]:
        """Returns what each slot of `x` reads from its own part; parts lie side by side, each with its own mask."""
        query, (key, value) = self.ask(x), self.remember(x)
        cuts = np.cumsum([mask.shape[-1] for mask in masks])[:-1]
        parts = zip(*(jnp.split(item, cuts, axis=1) for item in (query, key, value)), masks, strict=True)
        y = jnp.concatenate([attend(*part, kind=self.kind) for part in parts], axis=1)
        return self.out(y.reshape(*y.shape[:2], -1))

    def ask(self, x: Float[Array, "B Q D"]) -> Float[Array, "B Q H d"]:
        """Returns the queries of `x`."""
        query = self._by_heads(self.query(x))
        return query if self.query_norm is None else self.query_norm(query).astype(query.dtype)

    def remember(self, context: Float[Array, "B S D"]) -> tuple[Float[Array, "B S H d"], Float[Array, "B S H d"]]:
        """Returns keys and values of `context`."""
        key, value = self._by_heads(self.key(context)), self._by_heads(self.value(context))
        return key if self.key_norm is None else self.key_norm(key).astype(key.dtype), value

    def _by_heads(self, y: Float[Array, "B S width"]) -> Float[Array, "B S H d"]:
        return y.reshape(*y.shape[:2], self.heads, -1)


class Mlp(nnx.Module):
    """Two-layer perceptron, optionally gated (Shazeer 2020, "GLU Variants Improve Transformer")."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        linear = functools.partial(Linear, bias=config.mlp_bias, dtype=config.dtype, rngs=rngs)
        self.up = linear(config.dim, config.mlp_hidden, axes=("embed", "mlp"))
        self.gate = linear(config.dim, config.mlp_hidden, axes=("embed", "mlp")) if config.gated else None
        self.down = linear(config.mlp_hidden, config.dim, axes=("mlp", "embed"))
        self.activation, self.remat = config.activation, config.remat

    @jax.named_scope("mlp")
    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """Returns the transformed tokens."""
        act = jax.nn.silu if self.activation == "silu" else functools.partial(jax.nn.gelu, approximate=False)
        if self.gate is None:
            return self.down(act(self.up(x)))

        def gated(gate: Array, up: Array) -> Array:
            return act(gate) * up

        if self.remat == "none":  # not kept for the backward pass: quicker and smaller; else the block sees to that
            gated = jax.checkpoint(gated)
        return self.down(gated(self.gate(x), self.up(x)))


class EncoderBlock(nnx.Module):
    """Self-attention and MLP, each added to the residual stream."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        norm = functools.partial(LayerNorm, config.dim, eps=config.norm_eps, bias=config.norm_bias)
        self.attention_norm = norm()
        self.attention = Attention(config, rngs=rngs)
        self.mlp_norm = norm()
        self.mlp = Mlp(config, rngs=rngs)

    def __call__(self, x: Float[Array, "B N D"], *masks: Bool[Array, "B _ _"]) -> Float[Array, "B N D"]:
        """Returns the next residual stream, float32, of parts that do not see each other, one for each mask."""
        x = x + self.attention.within(self.attention_norm(x), *masks)
        return x + self.mlp(self.mlp_norm(x))


class DecoderBlock(nnx.Module):
    """Self-attention, cross-attention to the context and MLP, each added to the residual stream."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        norm = functools.partial(LayerNorm, config.dim, eps=config.norm_eps, bias=config.norm_bias)
        self.attention_norm = norm()
        self.attention = Attention(config, rngs=rngs)
        self.cross_norm = norm()
        self.context_norm = norm()
        self.cross_attention = Attention(config, rngs=rngs)
        self.mlp_norm = norm()
        self.mlp = Mlp(config, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B M D"],
        mask: Bool[Array, "B M M"],
        context: Float[Array, "B S D"],
        context_mask: Bool[Array, "B 1 S"],
    ) -> Float[Array, "B M D"]:
        """Returns the next residual stream, float32."""
        y = self.attention_norm(x)
        x = x + self.attention(y, y, mask)
        x = x + self.cross_attention(self.cross_norm(x), self.context_norm(context), context_mask)
        return x + self.mlp(self.mlp_norm(x))


class Stack(nnx.Module):
    """Equal blocks with stacked parameters, run by `jax.lax.scan`.

    A stack that keeps activations and compiles quickly, a shallow one on TPU or nearly any elsewhere, is unrolled: not
    copying what it keeps in and out of stacked arrays makes a step a tenth to a fifth faster on CPU.
    """

    def __init__(
        self, block: type[EncoderBlock] | type[DecoderBlock], config: ModelConfig, *, depth: int, rngs: nnx.Rngs
    ) -> None:
        self.blocks = axes.stack(lambda keys: block(config, rngs=keys), count=depth, rngs=rngs)
        self.depth, self.remat = depth, config.remat

    def __call__(self, x: Float[Array, "B S D"], *inputs: Array) -> Float[Array, "B S D"]:
        """Runs all blocks on `x`; each gets the same further `inputs`."""
        graph, state = nnx.split(self.blocks)

        def step(x: Array, layer: nnx.State) -> tuple[Array, None]:
            return axes.constrain(nnx.merge(graph, layer)(x, *inputs), "batch", None, None), None

        unrolled = self.remat != "full" and self.depth <= UNROLLED[axes.platform()]
        if self.remat != "none":  # in a loop, nothing of the forward pass is at hand that the compiler could reuse
            step = jax.checkpoint(step, policy=REMAT_POLICIES[self.remat], prevent_cse=unrolled)
        return jax.lax.scan(step, x, state, unroll=self.depth if unrolled else 1)[0]

    def layers(self) -> Iterator[Any]:
        """Yields the blocks one by one, each with arrays of its own."""
        graph, state = nnx.split(self.blocks)
        for layer in range(self.depth):
            yield nnx.merge(graph, jax.tree.map(lambda leaf, layer=layer: leaf[layer], state))


class Layers(nnx.Module):
    """The blocks of a stack, each with arrays of its own: what samples rather than trains.

    Where few tokens pass, time goes into reading the weights, and a layer of a stacked array is copied before it is
    read.
    """

    def __init__(self, stack: Stack) -> None:
        self.blocks = nnx.List(stack.layers())

    def __call__(self, x: Float[Array, "B S D"], *inputs: Array) -> Float[Array, "B S D"]:
        """Runs all blocks on `x`; each gets the same further `inputs`."""
        for block in self.blocks:
            x = block(x, *inputs)
        return x

    def layers(self) -> Iterator[Any]:
        """Yields the blocks one by one."""
        yield from self.blocks

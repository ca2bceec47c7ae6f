"""Pre-norm Transformer blocks with biases and exact GELU (Dosovitskiy et al., arXiv 2010.11929)."""

from collections.abc import Callable

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float

from mmtok.tokenizers.networks.layers import Dense, LayerNorm

_RATIO = 4  # width of the hidden layer of a perceptron over its width


def exact_gelu(x: Array) -> Array:
    """GELU by the error function, not its tanh approximation."""
    return jax.nn.gelu(x, approximate=False)


class Attention(nnx.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, *, heads: int, rngs: nnx.Rngs):
        self.heads = heads
        self.qkv = Dense(width, 3 * width, rngs=rngs, axes=("embed", "heads"))
        self.out = Dense(width, width, rngs=rngs, axes=("heads", "embed"))

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Returns what each position gathers from all."""
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, -1)
        attended = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return self.out(attended.reshape(x.shape))


class CrossAttention(nnx.Module):
    """Multi-head attention to a context."""

    def __init__(self, width: int, *, context: int, heads: int, rngs: nnx.Rngs):
        self.heads = heads
        self.q = Dense(width, width, rngs=rngs, axes=("embed", "heads"))
        self.kv = Dense(context, 2 * width, rngs=rngs, axes=(None, "heads"))
        self.out = Dense(width, width, rngs=rngs, axes=("heads", "embed"))

    def __call__(
        self, x: Float[Array, "B L D"], context: Float[Array, "B M C"], seen: Bool[Array, "B M"] | None = None
    ) -> Float[Array, "B L D"]:
        """Returns what each position gathers from the context, or from that part of it which is seen."""
        q = self.q(x).reshape(*x.shape[:2], self.heads, -1)
        kv = self.kv(context).reshape(*context.shape[:2], 2, self.heads, -1)
        mask = None if seen is None else seen[:, None, None, :]
        attended = jax.nn.dot_product_attention(q, kv[:, :, 0], kv[:, :, 1], mask=mask)
        return self.out(attended.reshape(x.shape))


class Perceptron(nnx.Module):
    """Two layers with a nonlinearity between."""

    def __init__(self, width: int, *, rngs: nnx.Rngs, activation: Callable[[Array], Array] = exact_gelu):
        self.up = Dense(width, _RATIO * width, rngs=rngs, axes=("embed", "mlp"))
        self.down = Dense(_RATIO * width, width, rngs=rngs, axes=("mlp", "embed"))
        self.activation = activation

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Returns the outputs."""
        return self.down(self.activation(self.up(x)))


class Block(nnx.Module):
    """Self-attention and a perceptron, each on normalised inputs and added to them."""

    def __init__(self, width: int, *, heads: int, rngs: nnx.Rngs):
        self.attention_norm = LayerNorm(width)
        self.attention = Attention(width, heads=heads, rngs=rngs)
        self.mlp_norm = LayerNorm(width)
        self.mlp = Perceptron(width, rngs=rngs)

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Returns x with both branches added."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


def run(blocks: nnx.Module, x: Array, *inputs: Array | None) -> Array:
    """Applies blocks stacked along their first axis (`mmtok.axes.stack`) one after the other; all see the `inputs`."""
    graph, state = nnx.split(blocks)

    def step(x: Array, state: nnx.State) -> tuple[Array, None]:
        return nnx.merge(graph, state)(x, *inputs), None

    return jax.lax.scan(step, x, state)[0]

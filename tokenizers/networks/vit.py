"""Vision Transformer encoder and decoder (Dosovitskiy et al., arXiv 2010.11929), pre-norm, sine-cosine positions."""

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mmtok.axes import stack
from mmtok.tokenizers.networks.layers import HEAD_GAIN, Dense, LayerNorm
from mmtok.tokenizers.networks.patches import patchify, unpatchify

_HEAD = 32  # width of one attention head
_BRANCH = 0.1  # initial gain of what a block adds: nearly linear networks leave the mean picture soonest
_RATIO = 2  # width of the hidden layer of a block over its width


class ViTEncoder(nnx.Module):
    """(B, H, W, C) -> (B, H/P * W/P, latent)."""

    def __init__(self, *, size: int, patch: int, channels: int, latent: int, width: int, depth: int, rngs: nnx.Rngs):
        self.patch, self.grid = patch, size // patch
        self.stem = Dense(patch * patch * channels, width, rngs=rngs, axes=(None, "embed"))
        self.trunk = Trunk(width=width, depth=depth, rngs=rngs)
        self.head = Dense(width, latent, rngs=rngs, axes=("embed", None), gain=HEAD_GAIN)
        self.flops = _flops(self.grid**2, width, depth, patch * patch * channels + latent)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B L latent"]:
        """Returns one latent per patch, row-major."""
        x = self.stem(patchify(x, patch=self.patch))
        return self.head(self.trunk(x + positions(self.grid, x.shape[-1])))


class ViTDecoder(nnx.Module):
    """(B, H/P * W/P, latent) -> (B, H, W, C)."""

    def __init__(self, *, size: int, patch: int, channels: int, latent: int, width: int, depth: int, rngs: nnx.Rngs):
        self.patch, self.grid = patch, size // patch
        self.stem = Dense(latent, width, rngs=rngs, axes=(None, "embed"))
        self.trunk = Trunk(width=width, depth=depth, rngs=rngs)
        self.head = Dense(width, patch * patch * channels, rngs=rngs, axes=("embed", None), gain=HEAD_GAIN)
        self.flops = _flops(self.grid**2, width, depth, patch * patch * channels + latent)

    def __call__(self, x: Float[Array, "B L latent"]) -> Float[Array, "B H W C"]:
        """Returns the image made of one patch per latent."""
        x = self.stem(x)
        x = self.head(self.trunk(x + positions(self.grid, x.shape[-1])))
        return unpatchify(x, patch=self.patch)


class Trunk(nnx.Module):
    """`depth` Transformer blocks and a norm, on (B, L, width)."""

    def __init__(self, *, width: int, depth: int, rngs: nnx.Rngs):
        self.blocks = stack(lambda rngs: Block(width=width, rngs=rngs), count=depth, rngs=rngs)
        self.norm = LayerNorm(width)

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Returns the normalised output of the last block."""
        graph, state = nnx.split(self.blocks)

        def step(x: Array, state: nnx.State) -> tuple[Array, None]:
            return nnx.merge(graph, state)(x), None

        return self.norm(jax.lax.scan(step, x, state)[0])


class Block(nnx.Module):
    """Pre-norm self-attention and a two-layer perceptron."""

    def __init__(self, *, width: int, rngs: nnx.Rngs):
        self.attention_norm = LayerNorm(width)
        self.qkv = Dense(width, 3 * width, rngs=rngs, axes=("embed", "heads"))
        self.out = Dense(width, width, rngs=rngs, axes=("heads", "embed"), gain=_BRANCH)
        self.mlp_norm = LayerNorm(width)
        self.up = Dense(width, _RATIO * width, rngs=rngs, axes=("embed", "mlp"))
        self.down = Dense(_RATIO * width, width, rngs=rngs, axes=("mlp", "embed"), gain=_BRANCH)

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Returns x with both branches added."""
        batch, length, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).reshape(batch, length, 3, -1, min(_HEAD, width))
        attended = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        x = x + self.out(attended.reshape(batch, length, width))
        return x + self.down(jax.nn.gelu(self.up(self.mlp_norm(x))))


def positions(grid: int, width: int) -> Float[np.ndarray, "L D"]:
    """Returns sine-cosine position embeddings of a square grid: the first half for rows, the second for columns.

    The slowest wave is twice the grid and the fastest two cells, whatever the grid, without a part that all positions
    share; small, or the network would see little else than where it is.
    """
    quarter = width // 4
    angles = (np.arange(grid)[:, None] + 0.5) / grid * np.pi * np.geomspace(1, max(grid, 1), quarter)
    line = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    table = np.concatenate([np.repeat(line, grid, axis=0), np.tile(line, (grid, 1))], axis=1)
    return (0.1 * (table - table.mean(axis=0))).astype(np.float32)


def _flops(length: int, width: int, depth: int, outside: int) -> float:
    per_token = width * outside + depth * width * (width * (4 + 2 * _RATIO) + 2 * length)
    return 2.0 * length * per_token

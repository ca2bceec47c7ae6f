"""Vision Transformers between grids of any size: the table of positions is resized to the grid at hand (as in 4M)."""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mmtok.axes import stack
from mmtok.errors import MmtokError
from mmtok.tokenizers.networks.convnext import ConvNeXtBlock
from mmtok.tokenizers.networks.grids import bicubic, sine_cosine
from mmtok.tokenizers.networks.layers import Convolution, Dense, LayerNorm
from mmtok.tokenizers.networks.patches import unfold
from mmtok.tokenizers.networks.transformer import Block, Perceptron, run


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """A Vision Transformer.

    Attributes:
      width: Width of the blocks.
      depth: Number of blocks.
      heads: Attention heads.
      grid: Side of the table of positions; other grids get a resized one.
      final_mlp: Whether a tanh perceptron follows the blocks (ViT-VQGAN, arXiv 2110.04627, section 3.1).
      refine: ConvNeXt blocks on the output of a decoder.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    grid: int = 14
    final_mlp: bool = True
    refine: int = 0

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 4 or min(self.depth, self.grid) < 1:
            raise MmtokError(
                f"ViT of width {self.width}, depth {self.depth}, {self.heads} heads, grid {self.grid}:"
                " width must be a multiple of the heads and of 4, depth and grid at least 1"
            )


class Trunk(nnx.Module):
    """Positions, blocks and the final perceptron."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.positions = nnx.Variable(jnp.asarray(sine_cosine(config.grid, width)))  # not trained
        self.blocks = stack(lambda rngs: Block(width, heads=config.heads, rngs=rngs), count=config.depth, rngs=rngs)
        self.final_norm = LayerNorm(width) if config.final_mlp else None
        self.final_mlp = Perceptron(width, rngs=rngs, activation=jnp.tanh) if config.final_mlp else None

    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        """Returns the outputs of all cells."""
        positions = bicubic(self.positions[...], shape=(x.shape[1], x.shape[2]))
        flat = (x + positions).reshape(len(x), -1, x.shape[-1])
        flat = run(self.blocks, flat)
        if self.final_norm is not None and self.final_mlp is not None:
            flat = flat + self.final_mlp(self.final_norm(flat))
        return flat.reshape(x.shape)


class ResizableEncoder(nnx.Module):
    """(B, H, W, channels) -> (B, H/P, W/P, width)."""

    def __init__(self, config: ViTConfig, *, channels: int, patch: int, rngs: nnx.Rngs):
        self.stem = Convolution(channels, config.width, size=patch, stride=patch, rngs=rngs)
        self.trunk = Trunk(config, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        """Returns one vector per patch."""
        return self.trunk(self.stem(x))


class ResizableDecoder(nnx.Module):
    """(B, h, w, width) -> (B, h*P, w*P, channels)."""

    def __init__(self, config: ViTConfig, *, channels: int, patch: int, rngs: nnx.Rngs):
        self.patch = patch
        self.trunk = Trunk(config, rngs=rngs)
        self.head = Dense(config.width, channels * patch**2, rngs=rngs, axes=("embed", None))
        self.refine = nnx.List([ConvNeXtBlock(channels, rngs=rngs) for _ in range(config.refine)])

    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B H W C"]:
        """Returns one patch per vector, joined."""
        x = unfold(self.head(self.trunk(x)), patch=self.patch)
        for block in self.refine:
            x = block(x)
        return x

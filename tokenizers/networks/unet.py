"""The denoising U-Net of ADM (Dhariwal and Nichol, arXiv 2105.05233), on patches (arXiv 2207.04316) and conditional."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mmtok.tokenizers.networks.grids import nearest
from mmtok.tokenizers.networks.layers import Convolution, Dense, GroupNorm
from mmtok.tokenizers.networks.patches import fold, unfold
from mmtok.tokenizers.networks.resnet import Downsample, ResidualBlock, TimeEmbedding, Upsample


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """A patched U-Net.

    Attributes:
      patch: Side of the patches that are its pixels.
      width: Channels at the finest level; a multiple of 32.
      multipliers: Channels of each level over `width`; each level has half the resolution of the one before.
      depth: Residual blocks per level on the way down; one more on the way up.
      attention: Reductions of the resolution at which attention follows the blocks.
    """

    patch: int = 4
    width: int = 256
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    depth: int = 3
    attention: tuple[int, ...] = (4, 8)

    @property
    def multiple(self) -> int:
        """Image sizes must be multiples of this."""
        return self.patch << (len(self.multipliers) - 1)


class UNet(nnx.Module):
    """(B, H, W, C) noisy pictures -> (B, H, W, C) predictions."""

    def __init__(self, config: UNetConfig, *, channels: int, condition: int, rngs: nnx.Rngs):
        self.patch = config.patch
        cells, time = channels * config.patch**2, 4 * config.width
        widths = [config.width * multiplier for multiplier in config.multipliers]
        self.time = TimeEmbedding(config.width, time, rngs=rngs)

        def blocks(inputs: int, outputs: int, level: int) -> list[nnx.Module]:
            layers: list[nnx.Module] = [ResidualBlock(inputs, outputs, time=time, rngs=rngs)]
            return layers + ([PixelAttention(outputs, rngs=rngs)] if 1 << level in config.attention else [])

        width = widths[0]
        skips = [width]
        down: list[list[nnx.Module]] = [[Convolution(cells + condition, width, size=3, padding=1, rngs=rngs)]]
        for level, outputs in enumerate(widths):
            for _ in range(config.depth):
                down.append(blocks(width, outputs, level))
                skips.append(width := outputs)
            if level < len(widths) - 1:
                down.append([Downsample(width, rngs=rngs)])
                skips.append(width)
        self.down = nnx.List([nnx.List(layers) for layers in down])
        middle = [ResidualBlock(width, width, time=time, rngs=rngs) for _ in range(2)]
        self.middle = nnx.List([middle[0], PixelAttention(width, rngs=rngs), middle[1]])
        up: list[list[nnx.Module]] = []
        for level, outputs in reversed(list(enumerate(widths))):
            for index in range(config.depth + 1):
                layers = blocks(width + skips.pop(), outputs, level)
                last = level > 0 and index == config.depth
                up.append(layers + ([Upsample(outputs, rngs=rngs)] if last else []))
                width = outputs
        self.up = nnx.List([nnx.List(layers) for layers in up])
        self.norm = GroupNorm(width)
        self.head = Convolution(width, cells, size=3, padding=1, rngs=rngs, gain=0.0)

    def __call__(
        self,
        x: Float[Array, "B H W C"],
        time: Int[Array, " B"],
        condition: Float[Array, "B h w D"],
        dropped: Bool[Array, "B h w"] | None = None,
    ) -> Float[Array, "B H W C"]:
        """Returns the prediction at each pixel; a dropped cell of the condition counts as 0."""
        if dropped is not None:
            condition = jnp.where(dropped[..., None], 0.0, condition)
        x = fold(x, patch=self.patch)
        x = jnp.concatenate([x, nearest(condition, shape=(x.shape[1], x.shape[2]))], axis=-1)
        embedding, skips = self.time(time), []
        for layers in self.down:
            x = _apply(layers, x, embedding)
            skips.append(x)
        x = _apply(self.middle, x, embedding)
        for layers in self.up:
            x = _apply(layers, jnp.concatenate([x, skips.pop()], axis=-1), embedding)
        return unfold(self.head(jax.nn.silu(self.norm(x))), patch=self.patch)


class PixelAttention(nnx.Module):
    """One-headed self-attention over all cells, added to the input."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = GroupNorm(width)
        self.qkv = Dense(width, 3 * width, rngs=rngs, axes=("embed", "heads"))
        self.out = Dense(width, width, rngs=rngs, axes=("heads", "embed"), gain=0.0)

    def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
        """Returns x with the branch added."""
        q, k, v = jnp.split(self.qkv(self.norm(x)).reshape(len(x), -1, 1, 3 * x.shape[-1]), 3, axis=-1)
        return x + self.out(jax.nn.dot_product_attention(q, k, v).reshape(x.shape))


def _apply(layers: nnx.List, x: Array, time: Array) -> Array:
    for layer in layers:
        x = layer(x, time) if isinstance(layer, ResidualBlock) else layer(x)
    return x

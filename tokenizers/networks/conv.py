"""Small residual convolutional encoder and decoder."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mmtok.axes import param
from mmtok.errors import MmtokError
from mmtok.tokenizers.networks.layers import HEAD_GAIN, Dense, LayerNorm


class ConvEncoder(nnx.Module):
    """(B, H, W, C) -> (B, H/P * W/P, latent): residual blocks and halvings of the resolution in turn."""

    def __init__(self, *, size: int, patch: int, channels: int, latent: int, width: int, depth: int, rngs: nnx.Rngs):
        widths = _widths(width, patch)
        self.stem = Conv(channels, widths[0], rngs=rngs)
        stages: list[nnx.Module] = []
        for before, after in itertools.pairwise(widths):
            stages += [Residual(before, rngs=rngs) for _ in range(depth)]
            stages.append(Conv(before, after, rngs=rngs, stride=2))
        stages += [Residual(width, rngs=rngs) for _ in range(depth)]
        self.stages = nnx.List(stages)
        self.norm = LayerNorm(width)
        self.head = Dense(width, latent, rngs=rngs, axes=("embed", None), gain=HEAD_GAIN)
        self.flops = _flops(size, patch, channels, width, depth)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B L latent"]:
        """Returns one latent per cell of the grid, row-major."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(self.norm(x.reshape(len(x), -1, x.shape[-1])))


class ConvDecoder(nnx.Module):
    """(B, H/P * W/P, latent) -> (B, H, W, C), the mirror image of the encoder."""

    def __init__(self, *, size: int, patch: int, channels: int, latent: int, width: int, depth: int, rngs: nnx.Rngs):
        self.grid = size // patch
        widths = _widths(width, patch)[::-1]
        self.stem = Dense(latent, width, rngs=rngs, axes=(None, "embed"))
        stages: list[nnx.Module] = [Residual(width, rngs=rngs) for _ in range(depth)]
        for before, after in itertools.pairwise(widths):
            stages.append(Double(before, after, rngs=rngs))
            stages += [Residual(after, rngs=rngs) for _ in range(depth)]
        self.stages = nnx.List(stages)
        self.norm = LayerNorm(widths[-1])
        self.head = Conv(widths[-1], channels, rngs=rngs, gain=HEAD_GAIN)
        self.flops = _flops(size, patch, channels, width, depth)

    def __call__(self, x: Float[Array, "B L latent"]) -> Float[Array, "B H W C"]:
        """Returns the image."""
        x = self.stem(x)
        x = x.reshape(len(x), self.grid, self.grid, -1)
        for stage in self.stages:
            x = stage(x)
        return self.head(self.norm(x))


class Conv(nnx.Module):
    """3 x 3 convolution."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs, stride: int = 1, gain: float = 1.0):
        self.stride = stride
        kernel = gain * jax.nn.initializers.lecun_normal()(rngs.params(), (3, 3, inputs, outputs))
        self.kernel = param(kernel, (None, None, None, "embed"))
        self.bias = param(jnp.zeros(outputs), ("embed",))

    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B h w O"]:
        """Returns the convolved x; with stride 2 at half the resolution."""
        strides = (self.stride, self.stride)
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, self.kernel[...], strides, "SAME", dimension_numbers=layout) + self.bias


class Residual(nnx.Module):
    """Norm, convolution, GELU, 1 x 1 convolution, added to the input."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(width)
        self.conv = Conv(width, width, rngs=rngs)
        self.out = Dense(width, width, rngs=rngs, axes=(None, "embed"))

    def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
        """Returns x with the branch added."""
        return x + self.out(jax.nn.gelu(self.conv(self.norm(x))))


class Double(nnx.Module):
    """Twice the resolution: each cell becomes 2 x 2 cells (sub-pixel convolution, Shi et al., arXiv 1609.05158)."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.dense = Dense(inputs, 4 * outputs, rngs=rngs, axes=(None, "embed"))

    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B 2*H 2*W O"]:
        """Returns the enlarged x."""
        batch, height, width, _ = x.shape
        x = self.dense(x).reshape(batch, height, width, 2, 2, -1)
        return x.swapaxes(2, 3).reshape(batch, 2 * height, 2 * width, -1)


def _widths(width: int, patch: int) -> list[int]:
    """Channels at each resolution, finest first: halved with every doubling of the resolution, but at least 16."""
    halvings = patch.bit_length() - 1
    if patch != 2**halvings:
        raise MmtokError(f"patch {patch}: the conv network needs a power of two (or use network 'vit')")
    return [max(width >> (halvings - level), 16) for level in range(halvings)] + [width]


def _flops(size: int, patch: int, channels: int, width: int, depth: int) -> float:
    total, widths = 9.0 * size**2 * channels * _widths(width, patch)[0], _widths(width, patch)
    for level, channels_here in enumerate(widths):
        pixels = (size >> level) ** 2
        total += depth * 10 * pixels * channels_here**2
        if level:
            total += 9 * pixels * widths[level - 1] * channels_here
    return 2.0 * total

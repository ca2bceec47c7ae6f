"""ConvNeXt block (Liu et al., arXiv 2201.03545)."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mmtok.axes import param
from mmtok.tokenizers.networks.layers import Convolution, LayerNorm
from mmtok.tokenizers.networks.transformer import Perceptron

_KERNEL = 7
_LAYER_SCALE = 1e-6


class ConvNeXtBlock(nnx.Module):
    """Depthwise convolution, norm and perceptron, scaled by channel and added to the input."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.depthwise = Convolution(width, width, size=_KERNEL, padding=_KERNEL // 2, groups=width, rngs=rngs)
        self.norm = LayerNorm(width)
        self.mlp = Perceptron(width, rngs=rngs)
        self.scale = param(jnp.full(width, _LAYER_SCALE), (None,))

    def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
        """Returns x with the branch added."""
        return x + self.scale[...] * self.mlp(self.norm(self.depthwise(x)))

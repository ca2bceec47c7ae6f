"""Residual perceptrons for single vectors (Bachmann et al., arXiv 2306.13575)."""

import dataclasses

from flax import nnx
from jaxtyping import Array, Float

from mmtok.axes import stack
from mmtok.tokenizers.networks.layers import Dense, LayerNorm
from mmtok.tokenizers.networks.transformer import exact_gelu, run


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """A stack of inverted bottlenecks.

    Attributes:
      width: Width between the blocks.
      depth: Number of blocks.
      expansion: Width of the hidden layer of a block over `width`.
    """

    width: int = 1024
    depth: int = 6
    expansion: int = 4


class BottleneckMLP(nnx.Module):
    """(*, inputs) -> (*, outputs)."""

    def __init__(self, config: MLPConfig, *, inputs: int, outputs: int, rngs: nnx.Rngs):
        self.first = Dense(inputs, config.width, rngs=rngs, axes=(None, "embed"))
        self.blocks = stack(lambda rngs: Bottleneck(config, rngs=rngs), count=config.depth, rngs=rngs)
        self.last = Dense(config.width, outputs, rngs=rngs, axes=("embed", None))

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        """Returns the outputs."""
        return self.last(run(self.blocks, self.first(x)))


class Bottleneck(nnx.Module):
    """Norm, wide layer, GELU and narrow layer, added to the input."""

    def __init__(self, config: MLPConfig, *, rngs: nnx.Rngs):
        wide = config.expansion * config.width
        self.norm = LayerNorm(config.width, eps=1e-5)
        self.up = Dense(config.width, wide, rngs=rngs, axes=("embed", "mlp"))
        self.down = Dense(wide, config.width, rngs=rngs, axes=("mlp", "embed"))

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Returns x with the branch added."""
        return x + self.down(exact_gelu(self.up(self.norm(x))))

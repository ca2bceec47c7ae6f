"""U-ViT (Hoogeboom et al., arXiv 2301.11093): a U-Net whose coarsest level is a Transformer, given a condition."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mmtok.axes import param, stack
from mmtok.errors import MmtokError
from mmtok.tokenizers.networks.grids import bicubic, nearest, sine_cosine
from mmtok.tokenizers.networks.layers import Convolution, Dense, GroupNorm, LayerNorm
from mmtok.tokenizers.networks.resnet import Downsample, ResidualBlock, TimeEmbedding, Upsample
from mmtok.tokenizers.networks.transformer import Attention, CrossAttention, Perceptron, run

_DEPTH = 2  # residual blocks per level on the way down; one more on the way up


@dataclasses.dataclass(frozen=True, kw_only=True)
class UViTConfig:
    """A U-ViT.

    Attributes:
      patch: Side of the patches that are its pixels.
      levels: Channels of each convolutional level, multiples of 32; each has half the resolution of the one before.
      halve: Whether the Transformer works at half the resolution of the last level.
      width: Width of the Transformer.
      depth: Blocks of the Transformer; an odd number with `long_skips`.
      heads: Attention heads of the Transformer.
      condition: Whether the condition is added to the cells (`concat`, as 4M calls it) or attended to (`xattn`).
      long_skips: Whether blocks of the second half also see the outputs of the first (arXiv 2209.12152).
      grid: Side of the table of positions; other grids get a resized one.
    """

    patch: int = 4
    levels: tuple[int, ...] = (128, 256)
    halve: bool = True
    width: int = 768
    depth: int = 12
    heads: int = 12
    condition: Literal["concat", "xattn"] = "concat"
    long_skips: bool = False
    grid: int = 32

    def __post_init__(self) -> None:
        if self.long_skips and self.depth % 2 == 0:
            raise MmtokError(f"U-ViT with long skips: the depth must be odd, found {self.depth}")

    @property
    def multiple(self) -> int:
        """Image sizes must be multiples of this."""
        return self.patch << (len(self.levels) - 1 + self.halve)


class UViT(nnx.Module):
    """(B, H, W, C) noisy pictures -> (B, H, W, C) predictions."""

    def __init__(self, config: UViTConfig, *, channels: int, condition: int, rngs: nnx.Rngs):
        levels, patch = config.levels, config.patch
        width, time = levels[0], 4 * levels[0]
        self.stem = Convolution(channels, width, size=patch, stride=patch, rngs=rngs)
        self.time = TimeEmbedding(width, time, rngs=rngs)
        down, skips = [], [width]
        for index, outputs in enumerate(levels):
            inputs = [width] + [outputs] * (_DEPTH - 1)
            resize = Downsample(outputs, rngs=rngs) if index < len(levels) - 1 else None
            down.append(Level(inputs, outputs, time=time, resize=resize, rngs=rngs))
            skips += [outputs] * (_DEPTH + (resize is not None))
            width = outputs
        self.down = nnx.List(down)
        self.halve = Downsample(width, rngs=rngs) if config.halve else None
        self.middle = Middle(config, cells=width, condition=condition, time=time, rngs=rngs)
        self.double = Upsample(width, rngs=rngs) if config.halve else None
        up = []
        for index, outputs in reversed(list(enumerate(levels))):
            inputs = [before + skips.pop() for before in [width] + [outputs] * _DEPTH]
            resize = Upsample(outputs, rngs=rngs) if index else None
            up.append(Level(inputs, outputs, time=time, resize=resize, rngs=rngs))
            width = outputs
        self.up = nnx.List(up)
        self.norm = GroupNorm(width)
        self.head = Patches(width, channels, patch=patch, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B H W C"],
        time: Int[Array, " B"],
        condition: Float[Array, "B h w D"],
        dropped: Bool[Array, "B h w"] | None = None,
    ) -> Float[Array, "B H W C"]:
        """Returns the prediction at each pixel; a dropped cell of the condition is hidden."""
        embedding, x = self.time(time), self.stem(x)
        skips = [x]
        for level in self.down:
            for block in level.blocks:
                x = block(x, embedding)
                skips.append(x)
            if level.resize is not None:
                x = level.resize(x)
                skips.append(x)
        x = x if self.halve is None else self.halve(x)
        x = self.middle(x, embedding, condition, dropped)
        x = x if self.double is None else self.double(x)
        for level in self.up:
            for block in level.blocks:
                x = block(jnp.concatenate([x, skips.pop()], axis=-1), embedding)
            x = x if level.resize is None else level.resize(x)
        return self.head(jax.nn.silu(self.norm(x)))


class Level(nnx.Module):
    """The blocks of one resolution, and the step to the next."""

    def __init__(
        self, inputs: list[int], outputs: int, *, time: int, resize: Downsample | Upsample | None, rngs: nnx.Rngs
    ):
        self.blocks = nnx.List([ResidualBlock(width, outputs, time=time, rngs=rngs) for width in inputs])
        self.resize = resize


class Patches(nnx.Module):
    """Each cell becomes a patch (a transposed convolution without overlap)."""

    def __init__(self, inputs: int, channels: int, *, patch: int, rngs: nnx.Rngs):
        kernel = jax.nn.initializers.lecun_normal(in_axis=0, out_axis=(1, 2, 3))
        self.kernel = param(kernel(rngs.params(), (inputs, patch, patch, channels)), ("embed", None, None, None))
        self.bias = param(jnp.zeros(channels), (None,))

    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B H W C"]:
        """Returns the picture."""
        inputs, patch, _, channels = self.kernel.shape
        cells = x @ self.kernel[...].reshape(inputs, -1)
        batch, height, width, _ = x.shape
        cells = cells.reshape(batch, height, width, patch, patch, channels).swapaxes(2, 3)
        return cells.reshape(batch, height * patch, width * patch, channels) + self.bias[...]


class Middle(nnx.Module):
    """The Transformer at the coarsest resolution."""

    def __init__(self, config: UViTConfig, *, cells: int, condition: int, time: int, rngs: nnx.Rngs):
        width, attends = config.width, config.condition == "xattn"
        self.attends = attends

        def blocks(count: int, *, skips: bool = False) -> ModulatedBlock:
            def make(rngs: nnx.Rngs) -> ModulatedBlock:
                context = condition if attends else None
                return ModulatedBlock(width, heads=config.heads, time=time, context=context, skips=skips, rngs=rngs)

            return stack(make, count=count, rngs=rngs)

        self.positions = nnx.Variable(jnp.asarray(sine_cosine(config.grid, width)))  # not trained
        self.stem = Dense(cells, width, rngs=rngs, axes=(None, "embed"))
        self.condition = None if attends else Dense(condition, width, rngs=rngs, axes=(None, "embed"))
        self.hidden = None if attends else param(jnp.zeros(width), ("embed",))
        late = config.depth // 2 if config.long_skips else 0
        self.blocks = blocks(config.depth - late)
        self.late = blocks(late, skips=True) if late else None
        self.head = Dense(width, cells, rngs=rngs, axes=("embed", None))

    def __call__(
        self,
        x: Float[Array, "B h w C"],
        time: Float[Array, "B T"],
        condition: Float[Array, "B H W D"],
        dropped: Bool[Array, "B H W"] | None,
    ) -> Float[Array, "B h w C"]:
        """Returns the outputs of all cells."""
        shape, flat = (x.shape[1], x.shape[2]), (len(x), x.shape[1] * x.shape[2], -1)
        y, context, seen = self.stem(x), None, None
        if self.condition is not None and self.hidden is not None:
            added = self.condition(nearest(condition, shape=shape))
            if dropped is not None:
                added = jnp.where(nearest(dropped, shape=shape)[..., None], self.hidden[...], added)
            y = y + added + bicubic(self.positions[...], shape=shape)
        else:
            context = condition.reshape(len(x), -1, condition.shape[-1])
            seen = None if dropped is None else ~dropped.reshape(len(x), -1)
            # 4M takes the nearest positions here, and interpolated ones above
            y = y + nearest(self.positions[...][None], shape=shape)[0]
        y = self._run(y.reshape(flat), time, context, seen)
        return self.head(y.reshape(*x.shape[:3], -1))

    def _run(self, x: Array, time: Array, context: Array | None, seen: Array | None) -> Array:
        if self.late is None:
            return run(self.blocks, x, time, context, seen)
        # the middle block comes last of the first half; only the outputs of the others are skips
        early, state = nnx.split(self.blocks)

        def first(x: Array, state: nnx.State) -> tuple[Array, Array]:
            x = nnx.merge(early, state)(x, time, context, seen)
            return x, x

        x, outputs = jax.lax.scan(first, x, state)
        late, state = nnx.split(self.late)

        def second(x: Array, inputs: tuple[nnx.State, Array]) -> tuple[Array, None]:
            return nnx.merge(late, inputs[0])(x, time, context, seen, inputs[1]), None

        return jax.lax.scan(second, x, (state, outputs[:-1][::-1]))[0]


class ModulatedBlock(nnx.Module):
    """A Transformer block whose norms and branches are scaled by the time (DiT, arXiv 2212.09748, adaLN-Zero)."""

    def __init__(self, width: int, *, heads: int, time: int, context: int | None, skips: bool, rngs: nnx.Rngs):
        branches = 2 if context is None else 3
        self.attention_norm = LayerNorm(width, eps=1e-5)
        self.attention = Attention(width, heads=heads, rngs=rngs)
        self.query_norm = None if context is None else LayerNorm(width, eps=1e-5)
        self.context_norm = None if context is None else LayerNorm(context, eps=1e-5)
        self.cross = None if context is None else CrossAttention(width, context=context, heads=heads, rngs=rngs)
        self.mlp_norm = LayerNorm(width, eps=1e-5)
        self.mlp = Perceptron(width, rngs=rngs)
        self.modulation = Dense(time, 2 * branches * width, rngs=rngs, axes=(None, "embed"))
        self.gate = Dense(time, branches * width, rngs=rngs, axes=(None, "embed"), gain=0.0)
        self.skip = Dense(2 * width, width, rngs=rngs, axes=(None, "embed")) if skips else None

    def __call__(
        self,
        x: Float[Array, "B L D"],
        time: Float[Array, "B T"],
        context: Float[Array, "B M C"] | None = None,
        seen: Bool[Array, "B M"] | None = None,
        skip: Float[Array, "B L D"] | None = None,
    ) -> Float[Array, "B L D"]:
        """Returns x with all branches added."""
        width = x.shape[-1]
        active = jax.nn.silu(time)[:, None]
        gates = iter(jnp.split(self.gate(active), self.gate.bias.shape[0] // width, axis=-1))
        modulation = jnp.split(self.modulation(active), self.modulation.bias.shape[0] // width, axis=-1)
        shifts, scales = iter(modulation[::2]), iter(modulation[1::2])
        if self.skip is not None and skip is not None:
            x = self.skip(jnp.concatenate([x, skip], axis=-1))

        def modulated(x: Array) -> Array:
            return x * (1 + next(scales)) + next(shifts)

        x = x + next(gates) * self.attention(modulated(self.attention_norm(x)))
        if self.query_norm is not None and self.context_norm is not None and self.cross is not None:
            assert context is not None
            query = modulated(self.query_norm(x))
            x = x + next(gates) * self.cross(query, self.context_norm(context), seen)
        return x + next(gates) * self.mlp(modulated(self.mlp_norm(x)))

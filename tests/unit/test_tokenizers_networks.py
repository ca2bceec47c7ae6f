"""The networks against plain numpy, written with the tensors and the layout of PyTorch (channels first)."""

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import erf

from mmtok.interop.fourm import tokenizer_names as table
from mmtok.tokenizers.flops import flops
from mmtok.tokenizers.networks.convnext import ConvNeXtBlock
from mmtok.tokenizers.networks.grids import bicubic, nearest, sine_cosine
from mmtok.tokenizers.networks.patches import fold, unfold
from mmtok.tokenizers.networks.resizable import ResizableDecoder, ResizableEncoder, ViTConfig
from mmtok.tokenizers.networks.resnet import TimeEmbedding
from mmtok.tokenizers.networks.unet import UNet, UNetConfig
from mmtok.tokenizers.networks.uvit import UViT, UViTConfig

Tensors = dict[str, np.ndarray]


def filled(make: Any, seed: int = 0) -> nnx.Module:
    """A module whose arrays are random, so that nothing that starts at zero hides a mistake."""
    graph, state = nnx.split(nnx.eval_shape(make))
    leaves, tree = jax.tree.flatten(state)
    rng = np.random.default_rng(seed)
    values = [rng.normal(size=leaf.shape) / math.sqrt(max(math.prod(leaf.shape[:-1]), 4)) for leaf in leaves]
    return nnx.merge(graph, jax.tree.unflatten(tree, [jnp.asarray(value, jnp.float32) for value in values]))


def jitted(module: Any) -> Any:
    graph, state = nnx.split(module)
    run = jax.jit(lambda state, *inputs: nnx.merge(graph, state)(*inputs))
    return lambda *inputs: run(state, *inputs)


def torch_tensors(module: nnx.Module, prefix: str, *names: tuple[table.Names, int]) -> Tensors:
    """The state dict of a module that stands at `prefix` of one of ours."""
    arrays = {
        prefix + ".".join(map(str, path)): np.asarray(value.get_value())
        for path, value in nnx.to_flat_state(nnx.state(module))
    }
    tensors = {}
    for part, first in names:
        for link in table.links({name: array.shape for name, array in arrays.items()}, part, first=first):
            array = arrays[link.ours]
            for theirs, value in zip(link.theirs, array if link.stacked else [array], strict=True):
                tensors[theirs] = link.layout[1](value).astype(np.float64)
                assert tensors[theirs].shape == link.shape
    return tensors


class Reference:
    """Layers of PyTorch in numpy."""

    def __init__(self, tensors: Tensors):
        self.tensors = tensors

    def linear(self, x, name):
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def layer_norm(self, x, name, eps):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
        return x * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    def group_norm(self, x, name):
        grouped = x.reshape(len(x), 32, -1)
        grouped = grouped - grouped.mean(-1, keepdims=True)
        grouped = grouped / np.sqrt((grouped**2).mean(-1, keepdims=True) + 1e-5)
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return grouped.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]

    def conv(self, x, name, stride=1, padding=0, groups=1):
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
        if groups > 1:
            return np.einsum("bchwij,cij->bchw", windows, weight[:, 0]) + bias[:, None, None]
        return np.einsum("bchwij,ocij->bohw", windows, weight, optimize=True) + bias[:, None, None]

    def attend(self, q, k, v, heads, seen=None):
        q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (q, k, v))
        logits = np.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
        if seen is not None:
            logits = np.where(seen[:, None, None], logits, -1e30)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.einsum("bhqk,bkhd->bqhd", weights, v).reshape(*q.shape[:2], -1)

    def attention(self, x, name, heads):
        q, k, v = np.split(self.linear(x, f"{name}.qkv"), 3, -1)
        return self.linear(self.attend(q, k, v, heads), f"{name}.proj")

    def mlp(self, x, name, activation=None):
        return self.linear((activation or gelu)(self.linear(x, f"{name}.fc1")), f"{name}.fc2")

    def resnet(self, x, temb, name):
        y = self.conv(silu(self.group_norm(x, f"{name}.norm1")), f"{name}.conv1", padding=1)
        y = y + self.linear(silu(temb), f"{name}.time_emb_proj")[:, :, None, None]
        y = self.conv(silu(self.group_norm(y, f"{name}.norm2")), f"{name}.conv2", padding=1)
        return (self.conv(x, f"{name}.conv_shortcut") if f"{name}.conv_shortcut.weight" in self.tensors else x) + y


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return x * 0.5 * (1 + erf(x / math.sqrt(2)))


def waves(time, width):
    angles = time[:, None] * np.exp(-math.log(10000) * np.arange(width // 2) / (width // 2))
    return np.concatenate([np.cos(angles), np.sin(angles)], -1)


def first(x):
    return np.moveaxis(np.asarray(x, np.float64), -1, 1)


def sequence(x):
    return x.reshape(*x.shape[:2], -1).swapaxes(1, 2)


def resized(grid, shape, method=None):
    ours = bicubic(jnp.asarray(grid[0].transpose(1, 2, 0), jnp.float32), shape=shape)
    return np.asarray(ours, np.float64).reshape(-1, grid.shape[1])


def relative(got, want) -> float:
    return float(np.linalg.norm(np.asarray(got, np.float64) - want) / np.linalg.norm(want))


def uvit_reference(tensors: Tensors, config: UViTConfig, x, time, condition, dropped):
    net, prefix = Reference(tensors), "decoder."
    temb = net.linear(waves(time, config.levels[0]), f"{prefix}time_embedding.linear_1")
    temb = net.linear(silu(temb), f"{prefix}time_embedding.linear_2")
    x = net.conv(x, f"{prefix}conv_in", stride=config.patch)
    skips, last = [x], len(config.levels) - 1
    for level in range(len(config.levels)):
        for block in range(2):
            x = net.resnet(x, temb, f"{prefix}down_blocks.{level}.resnets.{block}")
            skips.append(x)
        if level < last:
            x = net.conv(x, f"{prefix}down_blocks.{level}.downsamplers.0.conv", stride=2, padding=1)
            skips.append(x)
    if config.halve:
        x = net.conv(x, f"{prefix}downsample_mid.conv", stride=2, padding=1)
    middle = f"{prefix}mid_block."
    tokens, (height, width) = net.linear(sequence(x), f"{middle}mid_proj_in"), x.shape[2:]
    positions = tensors[f"{middle}mid_pos_emb"]
    rows = (np.arange(height) * condition.shape[2] // height)[:, None]
    columns = np.arange(width) * condition.shape[3] // width
    context, seen = None, None
    if config.condition == "concat":
        added = net.linear(sequence(condition[:, :, rows, columns]), f"{middle}mid_cond_proj")
        hidden = dropped[:, rows, columns].reshape(len(x), -1)
        added[hidden] = tensors[f"{middle}mask_token"]
        tokens = tokens + added + resized(positions, (height, width))
    else:
        context, seen = sequence(condition), ~dropped.reshape(len(x), -1)
        rows = (np.arange(height) * positions.shape[2] // height)[:, None]
        tokens = tokens + sequence(positions[:, :, rows, np.arange(width) * positions.shape[3] // width])
    outputs = []
    for index in range(config.depth):
        name = f"{middle}mid_block.{index}"
        if config.long_skips and index > config.depth // 2:
            tokens = net.linear(np.concatenate([tokens, outputs.pop()], -1), f"{name}.skip_linear")
        branches = 2 if context is None else 3
        gates = iter(np.split(net.linear(silu(temb), f"{name}.adaLN_gate")[:, None], branches, -1))
        modulation = np.split(net.linear(silu(temb), f"{name}.adaLN_modulation")[:, None], 2 * branches, -1)
        pairs = iter(zip(modulation[::2], modulation[1::2]))

        def modulated(x, norm, name=name, pairs=pairs):
            shift, scale = next(pairs)
            return net.layer_norm(x, f"{name}.{norm}", 1e-5) * (1 + scale) + shift

        own = "attn" if context is None else "self_attn"
        tokens = tokens + next(gates) * net.attention(modulated(tokens, "norm1"), f"{name}.{own}", config.heads)
        if context is not None:
            q = net.linear(modulated(tokens, "query_norm"), f"{name}.cross_attn.q")
            kv = net.linear(net.layer_norm(context, f"{name}.context_norm", 1e-5), f"{name}.cross_attn.kv")
            crossed = net.attend(q, *np.split(kv, 2, -1), config.heads, seen)
            tokens = tokens + next(gates) * net.linear(crossed, f"{name}.cross_attn.proj")
        tokens = tokens + next(gates) * net.mlp(modulated(tokens, "norm2"), f"{name}.mlp")
        if config.long_skips and index < config.depth // 2:
            outputs.append(tokens)
    x = net.linear(tokens, f"{middle}mid_proj_out").swapaxes(1, 2).reshape(x.shape)
    if config.halve:
        x = net.conv(x.repeat(2, 2).repeat(2, 3), f"{prefix}upsample_mid.conv", padding=1)
    for level in range(len(config.levels)):
        for block in range(3):
            x = net.resnet(np.concatenate([x, skips.pop()], 1), temb, f"{prefix}up_blocks.{level}.resnets.{block}")
        if level < last:
            x = net.conv(x.repeat(2, 2).repeat(2, 3), f"{prefix}up_blocks.{level}.upsamplers.0.conv", padding=1)
    x = silu(net.group_norm(x, f"{prefix}conv_norm_out"))
    weight, bias = tensors[f"{prefix}conv_out.weight"], tensors[f"{prefix}conv_out.bias"]
    out = np.einsum("bchw,coij->bohiwj", x, weight)
    return out.reshape(len(x), len(bias), x.shape[2] * config.patch, -1) + bias[:, None, None]


SMALL = UViTConfig(levels=(32, 64), width=32, depth=2, heads=4, grid=3)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        dataclasses.replace(SMALL, depth=5, levels=(32, 32, 32), long_skips=True, halve=False),
        dataclasses.replace(SMALL, depth=3, long_skips=True, condition="xattn"),
    ],
    ids=["concat", "extraconv-longskip", "xattn-longskip"],
)
def test_uvit_agrees_with_numpy(config: UViTConfig):
    rng = np.random.default_rng(1)
    module: Any = filled(lambda: UViT(config, channels=2, condition=6, rngs=nnx.Rngs(0)))
    attends, late = config.condition == "xattn", config.depth // 2 if config.long_skips else 0
    parts = [(table.UVIT, 0)]
    parts += [(table.blocks(attends=attends, late=False), 0)]
    parts += [(table.blocks(attends=attends, late=True), config.depth - late)]
    tensors = torch_tensors(module, "denoiser.", *parts)
    size = config.multiple * 3
    x, time = rng.normal(size=(2, size, size, 2)).astype(np.float32), np.array([3, 870])
    condition = rng.normal(size=(2, 2, 2, 6)).astype(np.float32)
    dropped = np.array([[[True, False], [False, False]], [[False, False], [True, True]]])
    got = jitted(module)(x, time.astype(np.int32), condition, dropped)
    want = uvit_reference(tensors, config, first(x), time, first(condition), dropped)
    assert relative(first(got), want) < 1e-5


def vit_blocks(net: Reference, x, side, config: ViTConfig):
    for index in range(config.depth):
        name = f"{side}.blocks.{index}"
        x = x + net.attention(net.layer_norm(x, f"{name}.norm1", 1e-6), f"{name}.attn", config.heads)
        x = x + net.mlp(net.layer_norm(x, f"{name}.norm2", 1e-6), f"{name}.mlp")
    if config.final_mlp:
        x = x + net.mlp(net.layer_norm(x, f"{side}.norm_mlp", 1e-6), f"{side}.post_mlp", np.tanh)
    return x


@pytest.mark.parametrize(("patch", "final"), [(2, True), (1, False)])
def test_vit_at_another_size_than_its_table_agrees_with_numpy(patch: int, final: bool):
    config = ViTConfig(width=16, depth=2, heads=2, grid=4, final_mlp=final, refine=2)
    encoder: Any = filled(lambda: ResizableEncoder(config, channels=3, patch=patch, rngs=nnx.Rngs(0)))
    decoder: Any = filled(lambda: ResizableDecoder(config, channels=3, patch=patch, rngs=nnx.Rngs(0)), seed=1)
    x = np.random.default_rng(2).normal(size=(2, 3 * patch, 5 * patch, 3)).astype(np.float32)
    encoded = jitted(encoder)(x)
    decoded = jitted(decoder)(encoded)

    net = Reference(torch_tensors(encoder, "encoder.", (table.VQVAE, 0)))
    net.tensors |= torch_tensors(decoder, "decoder.", (table.VQVAE, 0))
    tokens = sequence(net.conv(first(x), "encoder.proj", stride=patch))
    tokens = vit_blocks(net, tokens + resized(net.tensors["encoder.pos_emb"], (3, 5)), "encoder", config)
    assert encoded.shape == (2, 3, 5, 16)
    assert relative(sequence(first(encoded)), tokens) < 1e-5
    tokens = vit_blocks(net, tokens + resized(net.tensors["decoder.pos_emb"], (3, 5)), "decoder", config)
    y = net.linear(tokens, "decoder.out_proj").reshape(2, 3, 5, 3, patch, patch)
    y = y.transpose(0, 3, 1, 4, 2, 5).reshape(2, 3, 3 * patch, 5 * patch)
    for block in ("decoder.out_conv.0", "decoder.out_conv.1"):
        branch = net.conv(y, f"{block}.dwconv", padding=3, groups=3).transpose(0, 2, 3, 1)
        branch = net.linear(net.layer_norm(branch, f"{block}.norm", 1e-6), f"{block}.pwconv1")
        branch = net.linear(gelu(branch), f"{block}.pwconv2") * net.tensors[f"{block}.gamma"]
        y = y + branch.transpose(0, 3, 1, 2)
    assert relative(first(decoded), y) < 1e-5


def test_bicubic_is_that_of_pytorch():
    table = jnp.arange(16.0).reshape(4, 4, 1)
    np.testing.assert_allclose(bicubic(table, shape=(3, 3))[0, :, 0], [0.63079, 2.00463, 3.37847], atol=1e-5)
    want = [-0.43403, 0.05903, 0.86574, 1.43982, 2.24653, 2.73958]
    np.testing.assert_allclose(bicubic(table, shape=(6, 6))[0, :, 0], want, atol=1e-5)
    np.testing.assert_array_equal(bicubic(table, shape=(4, 4)), table)


def test_nearest_repeats_and_skips_cells():
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    np.testing.assert_array_equal(nearest(x, shape=(4, 3))[0, :, 0, 0], [0, 0, 3, 3])
    np.testing.assert_array_equal(nearest(x, shape=(1, 2))[0, 0, :, 0], [0, 1])
    row = nearest(jnp.arange(26.0).reshape(1, 1, 26, 1), shape=(1, 22))[0, 0, :, 0]
    assert row[11] == 12  # PyTorch's; without its rounding of 26 / 22 it were cell 13


def test_time_waves_are_those_of_pytorch():
    net = TimeEmbedding(128, 4, rngs=nnx.Rngs(0))
    net.first.kernel[...] = jnp.eye(128, 4, k=-126)  # passes the sines of the two slowest waves on
    net.second.kernel[...] = jnp.eye(4)
    got = np.asarray(net(jnp.array([999, 500])))[:, :2]
    waves = np.sin(np.outer([999, 500], [0.000133352078, 0.000115478157]))
    np.testing.assert_allclose(got, silu(waves), rtol=2e-7)


def test_positions_are_sines_and_cosines_of_row_and_column():
    row = sine_cosine(14, 768).reshape(196, 768)[17]
    want = [0.841471, 0.815251, 0.540302, 0.14112, 0.27838, -0.989992]
    np.testing.assert_allclose(row[[0, 1, 192, 384, 385, 576]], want, atol=1e-5)


def test_fold_puts_channels_first_and_unfold_undoes_it():
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
    folded = np.asarray(fold(jnp.asarray(x), patch=2))
    assert folded.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(folded[1, 1, 2].reshape(3, 2, 2), x[1, 2:4, 4:6].transpose(2, 0, 1))
    np.testing.assert_array_equal(unfold(jnp.asarray(folded), patch=2), x)


def test_denoisers_start_with_a_prediction_that_ignores_the_picture():
    config = UNetConfig(patch=2, width=32, multipliers=(1, 2), depth=1, attention=(2,))
    net = UNet(config, channels=1, condition=4, rngs=nnx.Rngs(0))
    x = jnp.ones((1, 8, 8, 1))
    out = jitted(net)(x, np.array([5]), np.ones((1, 2, 2, 4)), np.array([[[True, False], [False, False]]]))
    np.testing.assert_array_equal(out, jnp.zeros_like(x))
    block = ConvNeXtBlock(4, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(jitted(block)(np.ones((1, 8, 8, 4))), 1, atol=1e-4)


def test_unet_does_not_see_dropped_cells():
    config = UNetConfig(patch=2, width=32, multipliers=(1, 2), depth=1, attention=(2,))
    net: Any = filled(lambda: UNet(config, channels=1, condition=4, rngs=nnx.Rngs(0)))
    x, condition = jnp.ones((1, 8, 8, 1)), jnp.arange(16.0).reshape(1, 2, 2, 4)
    dropped = jnp.array([[[True, False], [False, False]]])
    run = jitted(net)
    base, hidden, shown = (
        run(x, np.array([5]), value, dropped)
        for value in (condition, condition.at[0, 0, 0].add(9), condition.at[0, 1, 1].add(9))
    )
    np.testing.assert_array_equal(base, hidden)
    assert not np.array_equal(base, shown)


def test_flops_counts_products_within_loops_and_convolutions():
    def run(x, kernel):
        looped = jax.lax.scan(lambda x, _: (x @ x, None), x, length=3)[0]
        image = jax.lax.conv_general_dilated(x[None, None], kernel, (1, 1), "VALID")
        return looped, jax.jit(lambda x: x @ x)(x), image

    kernel = np.zeros((2, 1, 3, 3), np.float32)
    assert flops(run, np.zeros((8, 8), np.float32), kernel) == 4 * 2 * 8**3 + 2 * 2 * 6 * 6 * 9


def test_every_layer_of_the_unet_has_a_name_of_its_own():
    net = nnx.eval_shape(lambda: UNet(UNetConfig(), channels=3, condition=32, rngs=nnx.Rngs(0)))
    flat = nnx.to_flat_state(nnx.state(net))
    shapes = {"denoiser." + ".".join(map(str, path)): value.shape for path, value in flat}
    theirs = list(itertools.chain(*(link.theirs for link in table.links(shapes, table.UNET))))
    assert len(theirs) == len(set(theirs)) == len(shapes) == 446

"""Which tensor of a 4M tokenizer is which of our parameters: one table, read in both directions."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np

Layout = tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]
"""From a tensor of PyTorch to ours, and back."""

SAME: Layout = (lambda x: x, lambda x: x)
MATRIX: Layout = (lambda x: x.T, lambda x: x.T)  # (outputs, inputs), (inputs, outputs)
KERNEL: Layout = (lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))  # OIHW, HWIO
POINTWISE: Layout = (lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])  # a 1 x 1 convolution
POINTWISE_1D: Layout = (lambda x: x[:, :, 0].T, lambda x: x.T[:, :, None])
TRANSPOSED: Layout = (lambda x: x.transpose(0, 2, 3, 1), lambda x: x.transpose(0, 3, 1, 2))  # IOHW, IHWO
GRID: Layout = (lambda x: x[0].transpose(1, 2, 0), lambda x: x.transpose(2, 0, 1)[None])  # (1, D, h, w), (h, w, D)

Leaves = Mapping[str, tuple[str, Layout]]
"""Name of a tensor within a layer of 4M -> name within our layer, and layout."""

BIAS = {"bias": ("bias", SAME)}
LINEAR: Leaves = {"weight": ("kernel", MATRIX), **BIAS}
CONV: Leaves = {"weight": ("kernel", KERNEL), **BIAS}
CONV_1: Leaves = {"weight": ("kernel", POINTWISE), **BIAS}
CONV_1D: Leaves = {"weight": ("kernel", POINTWISE_1D), **BIAS}
CONV_UP: Leaves = {"weight": ("kernel", TRANSPOSED), **BIAS}
NORM: Leaves = {"weight": ("scale", SAME), **BIAS}

Names = Mapping[str, tuple[str, Leaves]]
"""Layer of 4M -> our layer, and its leaves."""

VIT_BLOCK: Names = {
    "norm1": ("attention_norm", NORM),
    "attn.qkv": ("attention.qkv", LINEAR),
    "attn.proj": ("attention.out", LINEAR),
    "norm2": ("mlp_norm", NORM),
    "mlp.fc1": ("mlp.up", LINEAR),
    "mlp.fc2": ("mlp.down", LINEAR),
}
VIT: Names = {
    "": ("trunk", {"pos_emb": ("positions", GRID)}),
    "proj": ("stem", CONV),
    "norm_mlp": ("trunk.final_norm", NORM),
    "post_mlp.fc1": ("trunk.final_mlp.up", LINEAR),
    "post_mlp.fc2": ("trunk.final_mlp.down", LINEAR),
    "out_proj": ("head", LINEAR),
    "out_conv.{}": ("refine.{}", {"gamma": ("scale", SAME)}),
    "out_conv.{}.dwconv": ("refine.{}.depthwise", CONV),
    "out_conv.{}.norm": ("refine.{}.norm", NORM),
    "out_conv.{}.pwconv1": ("refine.{}.mlp.up", LINEAR),
    "out_conv.{}.pwconv2": ("refine.{}.mlp.down", LINEAR),
}
MLP: Names = {
    "linear_in": ("first", LINEAR),
    "layernorms.{}": ("blocks.norm", NORM),
    "blocks.{}.block.0": ("blocks.up", LINEAR),
    "blocks.{}.block.2": ("blocks.down", LINEAR),
    "linear_out": ("last", LINEAR),
}
UNET_LAYER: Names = {
    "in_layers.0": ("norm_in", NORM),
    "in_layers.2": ("conv_in", CONV),
    "emb_layers.1": ("time", LINEAR),
    "out_layers.0": ("norm_out", NORM),
    "out_layers.3": ("conv_out", CONV),
    "skip_connection": ("shortcut", CONV_1),
    "norm": ("norm", NORM),
    "qkv": ("qkv", CONV_1D),
    "proj_out": ("out", CONV_1D),
}
UVIT_RESNET: Names = {
    "norm1": ("norm_in", NORM),
    "conv1": ("conv_in", CONV),
    "time_emb_proj": ("time", LINEAR),
    "norm2": ("norm_out", NORM),
    "conv2": ("conv_out", CONV),
    "conv_shortcut": ("shortcut", CONV_1),
}
MODULATION: Names = {
    "adaLN_modulation": ("modulation", LINEAR),
    "adaLN_gate": ("gate", LINEAR),
    "skip_linear": ("skip", LINEAR),
}
UVIT_CONCAT: Names = {**VIT_BLOCK, **MODULATION}
UVIT_XATTN: Names = {
    **{theirs.replace("attn.", "self_attn."): ours for theirs, ours in UVIT_CONCAT.items()},
    "query_norm": ("query_norm", NORM),
    "context_norm": ("context_norm", NORM),
    "cross_attn.q": ("cross.q", LINEAR),
    "cross_attn.kv": ("cross.kv", LINEAR),
    "cross_attn.proj": ("cross.out", LINEAR),
}


def _join(first: str, second: str) -> str:
    return ".".join(part for part in (first, second) if part)


def prefixed(theirs: str, ours: str, names: Names) -> Names:
    """Returns the names within a module: the prefixes stand before them."""
    return {_join(theirs, inner): (_join(ours, own), leaves) for inner, (own, leaves) in names.items()}


BOTTLENECK: Names = {
    "cls_emb": ("", {"weight": ("labels", SAME)}),
    "quant_proj": ("to_latent", CONV_1),
    "post_quant_proj": ("from_latent", CONV_1),
    "quantize._codebook": (
        "quantizer",
        {"embed": ("table", SAME), "cluster_size": ("counts", SAME), "embed_avg": ("sums", SAME)},
    ),
    "quantize.project_in": ("quantizer.split", LINEAR),
    "quantize.project_out": ("quantizer.join", LINEAR),
}
VQVAE: Names = {
    **BOTTLENECK,
    **prefixed("encoder", "encoder", VIT),
    **prefixed("encoder.blocks.{}", "encoder.trunk.blocks", VIT_BLOCK),
    **prefixed("decoder", "decoder", VIT),
    **prefixed("decoder.blocks.{}", "decoder.trunk.blocks", VIT_BLOCK),
}
VECTORS: Names = {
    **BOTTLENECK,
    "quantize": ("quantizer", {"codes": ("codes", SAME)}),
    "quantize.to_k": ("quantizer", {"weight": ("keys", SAME)}),
    "quantize.to_v": ("quantizer", {"weight": ("values", SAME)}),
    **prefixed("encoder", "encoder", MLP),
    **prefixed("decoder", "decoder", MLP),
}
UNET: Names = {
    **VQVAE,
    "decoder.time_embed.0": ("denoiser.time.first", LINEAR),
    "decoder.time_embed.2": ("denoiser.time.second", LINEAR),
    "decoder.input_blocks.0.0": ("denoiser.down.0.0", CONV),
    "decoder.input_blocks.{}.{}.op": ("denoiser.down.{}.{}.conv", CONV),
    **prefixed("decoder.input_blocks.{}.{}", "denoiser.down.{}.{}", UNET_LAYER),
    **prefixed("decoder.middle_block.{}", "denoiser.middle.{}", UNET_LAYER),
    **prefixed("decoder.output_blocks.{}.{}", "denoiser.up.{}.{}", UNET_LAYER),
    "decoder.output_blocks.{}.{}.conv": ("denoiser.up.{}.{}.conv", CONV),
    "decoder.out.0": ("denoiser.norm", NORM),
    "decoder.out.2": ("denoiser.head", CONV),
}
UVIT: Names = {
    **VQVAE,
    "decoder.conv_in": ("denoiser.stem", CONV),
    "decoder.time_embedding.linear_1": ("denoiser.time.first", LINEAR),
    "decoder.time_embedding.linear_2": ("denoiser.time.second", LINEAR),
    **prefixed("decoder.down_blocks.{}.resnets.{}", "denoiser.down.{}.blocks.{}", UVIT_RESNET),
    "decoder.down_blocks.{}.downsamplers.0.conv": ("denoiser.down.{}.resize.conv", CONV),
    "decoder.downsample_mid.conv": ("denoiser.halve.conv", CONV),
    "decoder.mid_block": (
        "denoiser.middle",
        {"mid_pos_emb": ("positions", GRID), "mask_token": ("hidden", SAME)},
    ),
    "decoder.mid_block.mid_proj_in": ("denoiser.middle.stem", LINEAR),
    "decoder.mid_block.mid_cond_proj": ("denoiser.middle.condition", LINEAR),
    "decoder.mid_block.mid_proj_out": ("denoiser.middle.head", LINEAR),
    "decoder.upsample_mid.conv": ("denoiser.double.conv", CONV),
    **prefixed("decoder.up_blocks.{}.resnets.{}", "denoiser.up.{}.blocks.{}", UVIT_RESNET),
    "decoder.up_blocks.{}.upsamplers.0.conv": ("denoiser.up.{}.resize.conv", CONV),
    "decoder.conv_norm_out": ("denoiser.norm", NORM),
    "decoder.conv_out": ("denoiser.head", CONV_UP),
}

ALIASES = {"decoder.downsample_mid.conv.": "decoder.downsample_mid.Conv2d_0."}
"""Tensors that 4M registers under two names -> the other name."""

INITIALISED = "quantize._codebook.initted"
"""A flag that 4M stores with every trained codebook of moving averages; always 1."""


def blocks(*, attends: bool, late: bool) -> Names:
    """Returns the names within the Transformer of a U-ViT: of all its blocks, or of those that see earlier ones."""
    ours = "denoiser.middle.late" if late else "denoiser.middle.blocks"
    return prefixed("decoder.mid_block.mid_block.{}", ours, UVIT_XATTN if attends else UVIT_CONCAT)


@dataclasses.dataclass(frozen=True)
class Link:
    """One of our parameters and where 4M keeps it.

    Attributes:
      ours: Name of our parameter.
      theirs: Names of its tensors: one, or one for each block of a stack.
      stacked: Whether ours has a leading axis for the blocks.
      layout: How the numbers are turned.
      shape: Of each 4M tensor.
    """

    ours: str
    theirs: tuple[str, ...]
    stacked: bool
    layout: Layout
    shape: tuple[int, ...]


def links(shapes: Mapping[str, tuple[int, ...]], names: Names, *, first: int = 0) -> Iterator[Link]:
    """Finds the 4M tensors of those of our parameters that the names cover.

    Args:
      shapes: Shape of each of our parameters.
      names: Part of the table.
      first: Number of the first block of a stack.
    """
    for layer, (own, leaves) in names.items():
        for leaf, (inner, layout) in leaves.items():
            pattern = re.escape(_join(own, inner)).replace(r"\{\}", r"(\d+)")
            stacked = layer.count("{}") > own.count("{}")
            for ours, shape in shapes.items():
                match = re.fullmatch(pattern, ours)
                if match is None:
                    continue
                name, one = f"{layer}.{leaf}", shape[1:] if stacked else shape
                indices = range(first, first + shape[0]) if stacked else ()
                theirs = [name.format(index) for index in indices] or [name.format(*match.groups())]
                # a view without memory of its own shows the shape on the other side
                turned = layout[1](np.broadcast_to(np.float32(0), one)).shape
                yield Link(ours, tuple(theirs), stacked, layout, turned)

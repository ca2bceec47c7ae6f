"""Which tensor of a 4M model is which part of which parameter of ours: one table, read in both directions."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import numpy as np
from flax import nnx

from mmtok.modality import Modality
from mmtok.model import AnyToAny, ModelConfig, named_parameters
from mmtok.model.positions import sincos
from mmtok.model.tables import Members, row_offsets

SEQUENCE_POSITIONS = 512  # rows of the position table that 4M stores for every sequence
Shape = tuple[int, ...]

# Name within a layer of 4M -> our modules within a layer. Several stand one after the other in the rows of the tensor.
ENCODER_LAYER = {
    "norm1": ("attention_norm",),
    "attn.qkv": ("attention.query", "attention.key", "attention.value"),
    "attn.q_norm": ("attention.query_norm",),
    "attn.k_norm": ("attention.key_norm",),
    "attn.proj": ("attention.out",),
    "norm2": ("mlp_norm",),
}
DECODER_LAYER = {
    "norm1": ("attention_norm",),
    "self_attn.qkv": ("attention.query", "attention.key", "attention.value"),
    "self_attn.q_norm": ("attention.query_norm",),
    "self_attn.k_norm": ("attention.key_norm",),
    "self_attn.proj": ("attention.out",),
    "query_norm": ("cross_norm",),
    "context_norm": ("context_norm",),
    "cross_attn.q": ("cross_attention.query",),
    "cross_attn.kv": ("cross_attention.key", "cross_attention.value"),
    "cross_attn.q_norm": ("cross_attention.query_norm",),
    "cross_attn.k_norm": ("cross_attention.key_norm",),
    "cross_attn.proj": ("cross_attention.out",),
    "norm2": ("mlp_norm",),
}
MLP = {"mlp.fc1": ("mlp.up",), "mlp.fc2": ("mlp.down",)}
GATED_MLP = {"mlp.fc1": ("mlp.gate",), "mlp.fc3": ("mlp.up",), "mlp.fc2": ("mlp.down",)}
OUTSIDE = {
    "encoder_norm": ("encoder_norm",),
    "decoder_proj_context": ("context",),
    "decoder_norm": ("decoder_norm",),
}


@dataclasses.dataclass(frozen=True)
class Link:
    """Rows of a 4M tensor that are a part of one of our parameters.

    Attributes:
      theirs: The 4M tensor.
      rows: Which of its rows; all of it where that is None.
      ours: Our parameter.
      at: Where in it.
      transposed: 4M's linear layers hold (outputs, inputs), ours (inputs, outputs).
    """

    theirs: str
    rows: slice | None
    ours: str
    at: tuple[int | slice, ...]
    transposed: bool = False


@dataclasses.dataclass(frozen=True)
class Spare:
    """A 4M tensor that is no parameter of ours: a constant, or one that has no influence.

    Attributes:
      shape: Of the tensor.
      usual: Gives its usual value; takes a function that reads other 4M tensors.
      tolerance: How far a value may be from the usual one; infinite where it has no influence on the model.
    """

    shape: Shape
    usual: Callable[[Callable[[str], np.ndarray]], np.ndarray]
    tolerance: float


@dataclasses.dataclass(frozen=True)
class Table:
    """All tensors of a 4M model.

    Attributes:
      ours: Shape of each of our parameters.
      shapes: Shape of each 4M tensor that holds parameters.
      links: Where these are. Several 4M tensors may be the same part of ours: they are tied, and equal.
      spares: The other 4M tensors.
    """

    ours: Mapping[str, Shape]
    shapes: Mapping[str, Shape]
    links: tuple[Link, ...]
    spares: Mapping[str, Spare]

    @property
    def theirs(self) -> dict[str, Shape]:
        """Shape of every 4M tensor."""
        return {**self.shapes, **{name: spare.shape for name, spare in self.spares.items()}}

    @functools.cached_property
    def parts(self) -> dict[tuple[str, str], list[Link]]:
        """The links of each part of ours: more than one where tensors are tied."""
        parts: dict[tuple[str, str], list[Link]] = {}
        for link in self.links:
            parts.setdefault((link.ours, repr(link.at)), []).append(link)
        return parts

    def import_parameter(self, name: str, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns one of our parameters in float32; rows that 4M does not have are 0."""
        value = np.zeros(self.ours[name], np.float32)
        for (ours, _), (link, *tied) in self.parts.items():
            if ours == name:
                link = next(item for item in (link, *tied) if item.theirs in tensors)
                tensor = tensors[link.theirs]
                part = tensor if link.rows is None else tensor[link.rows]
                value[link.at] = part.T if link.transposed else part.reshape(value[link.at].shape)
        return value

    def export_tensor(self, name: str, parameters: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns one of the 4M tensors that hold parameters, in float32."""
        tensor = np.empty(self.shapes[name], np.float32)
        for link in self.links:
            if link.theirs == name:
                part = parameters[link.ours][link.at]
                rows = slice(None) if link.rows is None else link.rows
                tensor[rows] = part.T if link.transposed else part.reshape(tensor[rows].shape)
        return tensor


def table(config: ModelConfig, modalities: tuple[Modality, ...]) -> Table:
    """Returns the table of a model."""
    abstract = nnx.eval_shape(lambda: AnyToAny(config, modalities, rngs=nnx.Rngs(jax.random.key(0))))
    builder = _Builder({name: tuple(value.shape) for name, value in named_parameters(abstract).items()})
    mlp = GATED_MLP if config.gated else MLP
    for side, depth, names in (
        ("encoder", config.encoder_depth, ENCODER_LAYER),
        ("decoder", config.decoder_depth, DECODER_LAYER),
    ):
        for layer in range(depth):
            for theirs, modules in (names | mlp).items():
                builder.layer(
                    f"{side}.{layer}.{theirs}", [f"{side}.blocks.{module}" for module in modules], at=(layer,)
                )
    for theirs, modules in OUTSIDE.items():
        builder.layer(theirs, modules)
    builder.whole("mask_token", "embeddings.mask", (1, 1, config.dim))
    if config.registers:
        builder.whole("register_tokens", "embeddings.registers", (1, config.registers, config.dim))
    _embeddings(builder, config, modalities)
    return Table(builder.ours, builder.shapes, tuple(builder.links), builder.spares)


def _embeddings(builder: "_Builder", config: ModelConfig, modalities: tuple[Modality, ...]) -> None:
    members = Members.of(modalities, config.tie)
    learned = 0
    for index, item in enumerate(modalities):
        sides = [side for side, used in (("encoder", item.is_input), ("decoder", item.is_target)) if used]
        for side in sides:
            prefix = f"{side}_embeddings.{item.name}"
            own = "decoder_modality" if side == "decoder" and config.decoder_modality else "modality"
            builder.whole(f"{prefix}.mod_emb", f"embeddings.{own}", (1, 1, config.dim), at=(index,))
            if item.learned_positions:
                rows = slice(learned, learned + item.positions)
                shape = (1, item.positions, config.dim)
                builder.whole(f"{prefix}.pos_emb", f"embeddings.{side}_position", shape, at=(rows,))
            else:
                builder.spares[f"{prefix}.pos_emb"] = _positions(item, config.dim)
        learned += item.positions if item.learned_positions else 0
        if item.kind == "continuous":
            layer = "emb_proj" if item.variable else "proj"
            builder.layer(f"encoder_embeddings.{item.name}.{layer}", [f"embeddings.inputs.{item.name}"])
            continue
        homes = {"decoder.to_logits": (members.outputs, members.output_rows)} if item.is_target else {}
        if item.is_input:
            homes["encoder.token_emb"] = ("encoder", members.encoder)
        if item.is_target and item in members.decoder:
            homes["decoder.token_emb"] = ("decoder", members.decoder)
        elif item.is_target and config.tie == "all":
            homes["decoder.token_emb"] = ("encoder", members.encoder)
        elif item.is_target:  # 4M's decoder embeds no ids of grids either, but stores such a table
            heads = f"decoder_embeddings.{item.name}.to_logits.weight"
            builder.spares[f"decoder_embeddings.{item.name}.token_emb.weight"] = Spare(
                (item.vocab_size, config.dim), functools.partial(_copy, heads), np.inf
            )
        for home, (own, rows) in homes.items():
            side, leaf = home.split(".")
            start = int(row_offsets(modalities, rows)[0][index, 0])
            at = (slice(start, start + item.vocab_size),)
            shape = (item.vocab_size, config.dim)
            builder.whole(f"{side}_embeddings.{item.name}.{leaf}.weight", f"embeddings.tokens.{own}", shape, at=at)


class _Builder:
    """Collects the table."""

    def __init__(self, ours: Mapping[str, Shape]) -> None:
        self.ours = ours
        self.shapes: dict[str, Shape] = {}
        self.links: list[Link] = []
        self.spares: dict[str, Spare] = {}

    def whole(self, theirs: str, ours: str, shape: Shape, *, at: tuple[int | slice, ...] = ()) -> None:
        """A tensor that is one part of ours."""
        self.shapes[theirs] = shape
        self.links.append(Link(theirs, None, ours, at))

    def layer(self, theirs: str, modules: tuple[str, ...] | list[str], *, at: tuple[int, ...] = ()) -> None:
        """A linear layer or a norm: its weight, and its bias where ours has one; nothing where there is none."""
        for leaf, names in (("weight", ("kernel", "scale")), ("bias", ("bias",))):
            found = [f"{module}.{name}" for module in modules for name in names if f"{module}.{name}" in self.ours]
            row = 0
            for name in found:
                *inputs, width = self.ours[name][len(at) :]
                rows = slice(row, row + width)
                self.links.append(Link(f"{theirs}.{leaf}", rows, name, at, transposed=bool(inputs)))
                self.shapes[f"{theirs}.{leaf}"] = (row + width, *inputs)
                row += width
            scale = f"{modules[0]}.scale"
            if leaf == "bias" and not found and scale in self.ours:  # 4M's norms without bias store zeros
                self.spares[f"{theirs}.bias"] = _zeros(self.ours[scale][len(at) :])


def _zeros(shape: Shape) -> Spare:
    return Spare(shape, lambda _: np.zeros(shape, np.float32), 0.0)


def _positions(item: Modality, dim: int) -> Spare:
    grid = (SEQUENCE_POSITIONS,) if item.in_spans else item.shape
    shape = (1, int(np.prod(grid)), dim)
    return Spare(shape, lambda _: sincos(grid, dim=dim)[None], 1e-3)


def _copy(name: str, read: Callable[[str], np.ndarray]) -> np.ndarray:
    return read(name)

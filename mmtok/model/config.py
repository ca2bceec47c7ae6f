"""The shape of a model, and the table of sizes."""

import dataclasses
import functools
from typing import Any, Literal

from mmtok.errors import MmtokError, unknown

Tie = Literal["none", "head", "all"]
Remat = Literal["none", "full", "dots"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that decides the parameters of an `AnyToAny` beside its modalities.

    Attributes:
      dim: Width of the residual stream.
      encoder_depth: Encoder blocks.
      decoder_depth: Decoder blocks.
      heads: Attention heads.
      head_dim: Width of one head; `heads * head_dim` may differ from `dim`.
      mlp_hidden: Hidden width of the MLP.
      gated: SwiGLU-style MLP, act(a x) * (b x), instead of act(a x).
      activation: Of the MLP; `gelu` is the exact one (erf).
      norm_bias: LayerNorm with bias.
      qkv_bias: Biases of the query, key and value projections.
      proj_bias: Bias of the attention's output projection.
      mlp_bias: Biases of the MLP.
      norm_eps: Added to the variance in LayerNorm.
      qk_norm: LayerNorm over each head's queries and keys (Dehghani et al. 2023, "Scaling Vision Transformers to 22
        Billion Parameters", section 2).
      decoder_modality: The decoder has modality embeddings of its own, instead of sharing the encoder's.
      registers: Learned extra tokens in front of the encoder's input (Darcet et al. 2024, "Vision Transformers Need
        Registers").
      position_temperature: Longest wavelength of the sine-cosine positions over the shortest one. Small grids want a
        small one: at 10 000, most columns hardly change over four positions.
      scaled_embeddings: Token embeddings start with variance 1 / dim and are multiplied by sqrt(dim) (Vaswani et al.
        2017, section 3.4), so that contents enter at the scale of positions and tied heads still start small.
        Otherwise they start, and enter, with standard deviation 0.02.
      tie: Which token tables are one: `none` (encoder embedding, decoder embedding and output heads are separate),
        `head` (the heads use the decoder embedding) or `all`.
      dtype: Of matrix products; parameters, residual stream, norms, softmax and losses stay float32.
      remat: What the backward pass computes again: `none`, `full` (each whole block) or `dots` (all of a block but its
        matrix products with parameters).
      attention: `plain`, or fused: `cudnn` (GPUs) or `splash` (TPUs); `auto` takes cuDNN's where it can be had.
    """

    dim: int
    encoder_depth: int
    decoder_depth: int
    heads: int
    head_dim: int = 64
    mlp_hidden: int
    gated: bool = True
    activation: Literal["silu", "gelu"] = "silu"
    norm_bias: bool = False
    qkv_bias: bool = False
    proj_bias: bool = False
    mlp_bias: bool = False
    norm_eps: float = 1e-6
    qk_norm: bool = False
    decoder_modality: bool = False
    registers: int = 0
    position_temperature: float = 10_000.0
    scaled_embeddings: bool = False
    tie: Tie = "none"
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    attention: Literal["auto", "plain", "cudnn", "splash"] = "auto"

    def __post_init__(self) -> None:
        for name in ("dim", "encoder_depth", "decoder_depth", "heads", "head_dim", "mlp_hidden"):
            if getattr(self, name) < 1:
                raise MmtokError(f"model config: {name} must be at least 1, it is {getattr(self, name)}")
        if self.dim % 2:
            raise MmtokError(f"model config: dim must be even for sine-cosine positions, it is {self.dim}")
        if not self.position_temperature >= 1:
            raise MmtokError(
                f"model config: position_temperature must be at least 1, it is {self.position_temperature}"
            )
        if self.registers < 0:
            raise MmtokError(f"model config: registers must not be negative, it is {self.registers}")


_scenes = functools.partial(ModelConfig, head_dim=32, position_temperature=10.0, scaled_embeddings=True, tie="all")

# Ti to XL: 4M (Mizrahi et al. 2023) and 4M-21 (Bachmann et al. 2024), the variants `*_swiglu_nobias` of their code,
# whose gated width is the truncated 8/3 dim. pico and nano are ours, for the built-in data on two CPU cores.
SIZES: dict[str, ModelConfig] = {
    "pico": _scenes(dim=96, encoder_depth=2, decoder_depth=2, heads=3, mlp_hidden=256),
    "nano": _scenes(dim=128, encoder_depth=3, decoder_depth=3, heads=4, mlp_hidden=352),
    "Ti": ModelConfig(dim=384, encoder_depth=6, decoder_depth=6, heads=6, mlp_hidden=1024),
    "S": ModelConfig(dim=512, encoder_depth=8, decoder_depth=8, heads=8, mlp_hidden=1365),
    "B": ModelConfig(dim=768, encoder_depth=12, decoder_depth=12, heads=12, mlp_hidden=2048),
    "L": ModelConfig(dim=1024, encoder_depth=24, decoder_depth=24, heads=16, mlp_hidden=2730),
    "XL": ModelConfig(dim=2048, encoder_depth=24, decoder_depth=24, heads=32, mlp_hidden=5461),
}
# The same for matrix units of 128 x 128: heads of width 128, gated widths rounded up to a multiple of 256, so that they
# fill the units and split over devices. Parameters and cost are 4M's within 3 %; the weights do not fit each other.
SIZES |= {
    f"{name}-tpu": dataclasses.replace(
        size, heads=size.dim // 128, head_dim=128, mlp_hidden=-(-size.mlp_hidden // 256) * 256
    )
    for name, size in SIZES.items()
    if name in ("B", "L", "XL")
}


def sized(name: str, **overrides: Any) -> ModelConfig:
    """Returns the size `name` of `SIZES` with some fields replaced.

    Raises:
      MmtokError: there is no such size or no such field.
    """
    if name not in SIZES:
        raise unknown("model size", name, SIZES)
    fields = [field.name for field in dataclasses.fields(ModelConfig)]
    for key in overrides:
        if key not in fields:
            raise unknown("field of ModelConfig", key, fields)
    return dataclasses.replace(SIZES[name], **overrides)

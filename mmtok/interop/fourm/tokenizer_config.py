"""Configurations of 4M's tokenizers, read and written."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmtok.errors import MmtokError, suggest
from mmtok.tokenizers.artifact import Tokenizer
from mmtok.tokenizers.diffusion import NoiseConfig, SamplerConfig, Schedule
from mmtok.tokenizers.divae import DiVAEConfig
from mmtok.tokenizers.networks.mlp import MLPConfig
from mmtok.tokenizers.networks.resizable import ViTConfig
from mmtok.tokenizers.networks.unet import UNetConfig
from mmtok.tokenizers.networks.uvit import UViTConfig
from mmtok.tokenizers.quantizers import MemcodesConfig, VQConfig
from mmtok.tokenizers.units import Units, Values
from mmtok.tokenizers.vectors import VectorConfig
from mmtok.tokenizers.vq import EncoderConfig, VQTokenizerConfig

DEFAULTS: Mapping[str, Any] = {
    "image_size": 224,
    "n_channels": 3,
    "n_labels": None,
    "enc_type": "vit_b_enc",
    "patch_proj": True,
    "post_mlp": False,
    "patch_size": 16,
    "quant_type": "lucid",
    "codebook_size": 16384,
    "num_codebooks": 1,
    "latent_dim": 32,
    "norm_codes": True,
    "norm_latents": False,
    "ema_decay": 0.99,
    "threshold_ema_dead_code": 0.25,
    "code_replacement_policy": "batch_random",
    "commitment_weight": 1.0,
    "patch_size_dec": None,
    "out_conv": False,
    "num_train_timesteps": 1000,
    "cls_free_guidance_dropout": 0.0,
    "scheduler": "ddpm",
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "thresholding": True,
    "conditioning": "concat",
    "zero_terminal_snr": True,
    "domain": None,
}
"""What 4M assumes for a key that a configuration lacks."""

VITS = {"s": (512, 8, 8), "b": (768, 12, 12), "l": (1024, 24, 16)}
"""Width, depth and heads of `vit_{s,b,l}_{enc,dec}`."""

UNETS = {"unet_patched": UNetConfig()}
UVITS = {
    "uvit_b_p4_f16": UViTConfig(),
    "uvit_l_p4_f16": UViTConfig(width=1024, depth=24, heads=16),
    "uvit_h_p4_f16": UViTConfig(width=1280, depth=32, heads=16),
    "uvit_b_p4_f16_longskip": UViTConfig(depth=13, long_skips=True),
    "uvit_l_p4_f16_longskip": UViTConfig(width=1024, depth=25, heads=16, long_skips=True),
    "uvit_b_p4_f8": UViTConfig(halve=False),
    "uvit_l_p4_f8": UViTConfig(halve=False, width=1024, depth=24, heads=16),
    "uvit_b_p4_f16_extraconv": UViTConfig(levels=(128, 256, 512), halve=False),
    "uvit_l_p4_f16_extraconv": UViTConfig(levels=(128, 256, 512), halve=False, width=1024, depth=24, heads=16),
}
SCHEDULES: Mapping[str, Schedule] = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "squared_cosine",
    "sigmoid": "sigmoid",
}
PREDICTIONS = {"sample": "sample", "epsilon": "epsilon", "v_prediction": "velocity"}
REPLACEMENTS = {"batch_random": "batch", "linde_buzo_gray": "split"}
REFINE = 2  # ConvNeXt blocks of `out_conv`
DOMAINS: Mapping[str, Values] = {
    "rgb": "uint8",
    "canny_edge": "uint8",
    "sam_edge": "uint8",
    "normal": "unit",
    "depth": "depth",
    "sam_mask": "mask",
    "sam_instance": "mask",
}
"""What 4M's tokenizers are trained on -> what the numbers mean. Intensities and normals are seen as [-1, 1]."""

SHOWS: Mapping[Values, str] = {
    "uint8": "rgb",
    "unit": "normal",
    "depth": "relative_depth",
    "mask": "mask",
    "classes": "label",
    "features": "feature",
}
LOSSES: Mapping[Values, Any] = {"classes": "cross_entropy", "mask": "binary_cross_entropy", "features": "smooth_l1"}


def tokenizer_config(
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    *,
    where: str,
    values: Values | None = None,
    size: int | None = None,
) -> VQTokenizerConfig | VectorConfig | DiVAEConfig:
    """Returns our configuration of a 4M tokenizer.

    Args:
      config: The 4M configuration; unknown keys are ignored, as there.
      tensors: They say how many channels there are and how large the tables of positions: 4M's own registry is wrong
        on the former for edges, and the latter follows the largest size of the training.
      where: Begins error messages.
      values: What the numbers of a picture mean; guessed unless given.
      size: Height and width of the pictures; those of the configuration unless given.

    Raises:
      MmtokError: it asks for what is not supported.
    """
    key = _Keys(config, where)
    if "MLP" in key("enc_type", str):
        return _vectors(key, tensors)
    decoder = key("dec_type", str, default=_decoder(tensors))
    if decoder.startswith("vit_"):
        return _vqvae(key, tensors, decoder, values, size)
    return _divae(key, tensors, decoder, values, size)


def fourm_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the 4M configuration of a tokenizer.

    Raises:
      MmtokError: 4M has no such tokenizers.
    """
    match tokenizer.config:
        case VQTokenizerConfig() as config:
            return {
                **_encoder_keys(config.encoder, tokenizer.name),
                "dec_type": f"vit_{_vit_letter(config.network, tokenizer.name)}_dec",
                "out_conv": config.network.refine > 0,
                **({} if config.encoder.patch == 1 else {"patch_size_dec": config.patch}),
                "image_size_dec": config.network.grid * config.patch,
            }
        case VectorConfig() as config:
            return {
                "n_channels": config.length,
                "enc_type": _mlp_name(config.encoder),
                "dec_type": _mlp_name(config.decoder),
                "quant_type": "memcodes",
                "codebook_size": config.quantizer.size,
                "num_codebooks": config.quantizer.codes,
                "latent_dim": config.quantizer.latent,
            }
        case DiVAEConfig() as config:
            return {**_encoder_keys(config.encoder, tokenizer.name), **_decoder_keys(config, tokenizer.name)}
        case config:
            raise MmtokError(f"tokenizer '{tokenizer.name}': 4M has no tokenizers of family '{config.family}'")


def _show(encoder: EncoderConfig) -> str:
    return "grey" if encoder.units.values == "uint8" and encoder.units.channels == 1 else SHOWS[encoder.units.values]


def _vqvae(
    key: "_Keys", tensors: Mapping[str, np.ndarray], decoder: str, values: Values | None, size: int | None
) -> VQTokenizerConfig:
    encoder = _encoder(key, tensors, values, size)
    return VQTokenizerConfig(
        encoder=encoder,
        patch=(key("patch_size_dec", int, default=key("patch_size", int))) if key("patch_proj", bool) else 1,
        network=_vit(key, tensors, "decoder", decoder, refine=REFINE if key("out_conv", bool) else 0),
        loss=LOSSES.get(encoder.units.values, "mse"),
        show=_show(encoder),
    )


def _divae(
    key: "_Keys", tensors: Mapping[str, np.ndarray], decoder: str, values: Values | None, size: int | None
) -> DiVAEConfig:
    if decoder not in UNETS | UVITS:
        vits = [f"vit_{letter}_dec" for letter in VITS]
        raise key.fault("dec_type", decoder, [*vits, *UNETS, *UVITS])
    uvit = UVITS.get(decoder)
    if uvit is not None:
        uvit = dataclasses.replace(uvit, condition=key.one_of("conditioning", {"concat": "concat", "xattn": "xattn"}))
        uvit = dataclasses.replace(uvit, grid=_side(tensors, "decoder.mid_block.mid_pos_emb", default=uvit.grid))
    encoder = _encoder(key, tensors, values, size)
    return DiVAEConfig(
        encoder=encoder,
        unet=UNETS.get(decoder),
        uvit=uvit,
        noise=_noise(key),
        sampler=SamplerConfig(method=key.one_of("scheduler", {"ddim": "ddim", "ddpm": "ddpm"})),
        drop=key("cls_free_guidance_dropout", float),
        show=_show(encoder),
    )


def _noise(key: "_Keys") -> NoiseConfig:
    schedule, _, shift = key("beta_schedule", str).partition(":")
    shifted = schedule == "shifted_cosine" and re.fullmatch(r"(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", shift)
    if not shifted and schedule + shift not in SCHEDULES:
        raise key.fault("beta_schedule", key("beta_schedule", str), [*SCHEDULES, "shifted_cosine:0.5"])
    return NoiseConfig(
        steps=key("num_train_timesteps", int),
        schedule="shifted_cosine" if shifted else SCHEDULES[schedule],
        shift=float(shift) if shifted else 1.0,
        zero_terminal=key("zero_terminal_snr", bool),
        prediction=key.one_of("prediction_type", PREDICTIONS),
        # dynamic thresholding with 4M's bound of 1 is plain clipping
        clip=key("thresholding", bool) or key("clip_sample", bool),
    )


def _vectors(key: "_Keys", tensors: Mapping[str, np.ndarray]) -> VectorConfig:
    key.one_of("quant_type", {"memcodes": "memcodes"})
    return VectorConfig(
        length=_channels(key, tensors, "encoder.linear_in.weight"),
        encoder=_mlp(key, "enc_type"),
        decoder=_mlp(key, "dec_type"),
        quantizer=MemcodesConfig(
            size=key("codebook_size", int), latent=key("latent_dim", int), codes=key("num_codebooks", int)
        ),
    )


def _encoder(key: "_Keys", tensors: Mapping[str, np.ndarray], values: Values | None, size: int | None) -> EncoderConfig:
    key.one_of("quant_type", {"lucid": "lucid"})
    channels = _channels(key, tensors, "encoder.proj.weight")
    classes = key("n_labels", int, default=0)
    values = values or _values(key, channels)
    patch, whole, cells = key("patch_size", int), key("image_size", int), not key("patch_proj", bool)
    if whole % patch:
        raise MmtokError(f"{key.where}: patch_size {patch} must divide image_size {whole}")
    return EncoderConfig(
        size=size or (whole // patch if cells else whole),
        patch=1 if cells else patch,
        units=Units(values=values, channels=1 if classes else channels, classes=classes, resize="bicubic"),
        embedding=channels,
        network=_vit(key, tensors, "encoder", key("enc_type", str)),
        quantizer=VQConfig(
            size=key("codebook_size", int),
            latent=key("latent_dim", int),
            codes=key("num_codebooks", int),
            cosine=key("norm_codes", bool),
            # 4M's decoders were trained on the moving averages themselves, which have drifted below unit length
            raw=True,
            decay=key("ema_decay", float),
            dead=key("threshold_ema_dead_code", float),
            replacement=key.one_of("code_replacement_policy", REPLACEMENTS),
            commitment=key("commitment_weight", float),
            unit_latents=key("norm_latents", bool),
        ),
    )


def _values(key: "_Keys", channels: int) -> Values:
    """What the numbers mean, as far as the configuration says."""
    if key("n_labels", int, default=0):
        return "classes"
    if not key("patch_proj", bool):
        return "features"
    domain = key("domain", str, default="").partition("@")[0]
    if domain in DOMAINS:
        return DOMAINS[domain]
    if channels == 1:
        return "mask" if key("out_conv", bool) else "depth"
    return "uint8"


def _vit(key: "_Keys", tensors: Mapping[str, np.ndarray], side: str, name: str, *, refine: int = 0) -> ViTConfig:
    ending = {"encoder": "enc", "decoder": "dec"}[side]
    match = re.fullmatch(rf"vit_(\w)_{ending}", name)
    if match is None or match[1] not in VITS:
        raise key.fault(f"{ending}_type", name, [f"vit_{letter}_{ending}" for letter in VITS])
    width, depth, heads = VITS[match[1]]
    grid = _side(tensors, f"{side}.pos_emb", default=key("image_size", int) // key("patch_size", int))
    return ViTConfig(width=width, depth=depth, heads=heads, grid=grid, final_mlp=key("post_mlp", bool), refine=refine)


def _mlp(key: "_Keys", name: str) -> MLPConfig:
    text = key(name, str)
    match = re.fullmatch(r"BottleneckMLP/B_(\d+)-Wi_(\d+)(?:-E_(\d+))?", text)
    if match is None:
        raise key.fault(name, text, ["BottleneckMLP/B_6-Wi_1024"])
    depth, width, expansion = (int(number) if number else 4 for number in match.groups())
    return MLPConfig(depth=depth, width=width, expansion=expansion)


def _channels(key: "_Keys", tensors: Mapping[str, np.ndarray], name: str) -> int:
    tensor = tensors.get(name)
    return tensor.shape[1] if tensor is not None and tensor.ndim > 1 else key("n_channels", int)


def _side(tensors: Mapping[str, np.ndarray], name: str, *, default: int) -> int:
    tensor = tensors.get(name)
    square = tensor is not None and tensor.ndim == 4 and tensor.shape[2] == tensor.shape[3]
    return tensor.shape[2] if tensor is not None and square else default


def _decoder(tensors: Mapping[str, np.ndarray]) -> str:
    """The decoder that 4M assumes; only that of a VQVAE has a projection before it."""
    return "vit_b_dec" if "post_quant_proj.weight" in tensors else "unet_patched"


def _encoder_keys(config: EncoderConfig, name: str) -> dict[str, Any]:
    units, quantizer = config.units, config.quantizer
    if quantizer.cosine and not quantizer.raw:
        raise MmtokError(
            f"tokenizer '{name}': 4M hands out the moving averages of its codes, this one codes of unit length;"
            " only a tokenizer with quantizer setting `raw` can be exported"
        )
    return {
        "image_size": config.size,
        "image_size_enc": config.network.grid * config.patch,
        "n_channels": config.embedding if units.classes else units.channels,
        "n_labels": units.classes or None,
        "enc_type": f"vit_{_vit_letter(config.network, name)}_enc",
        "patch_proj": config.patch > 1,
        "post_mlp": config.network.final_mlp,
        "patch_size": config.patch,
        "quant_type": "lucid",
        "codebook_size": quantizer.size,
        "num_codebooks": quantizer.codes,
        "latent_dim": quantizer.latent,
        "norm_codes": quantizer.cosine,
        "norm_latents": quantizer.unit_latents,
        "ema_decay": quantizer.decay,
        "threshold_ema_dead_code": quantizer.dead,
        "code_replacement_policy": _inverse(REPLACEMENTS, quantizer.replacement),
        "commitment_weight": quantizer.commitment,
    }


def _decoder_keys(config: DiVAEConfig, name: str) -> dict[str, Any]:
    network, noise = config.network, config.noise
    plain = dataclasses.replace(network, condition="concat", grid=32) if isinstance(network, UViTConfig) else network
    types = [known for known, shape in (UNETS | UVITS).items() if shape == plain]
    if not types:
        raise MmtokError(f"tokenizer '{name}': 4M has no decoder of the shape {network}; it cannot be exported")
    shifted = noise.schedule == "shifted_cosine"
    return {
        "dec_type": types[0],
        "num_train_timesteps": noise.steps,
        "cls_free_guidance_dropout": config.drop,
        "scheduler": config.sampler.method,
        "beta_schedule": f"shifted_cosine:{noise.shift}" if shifted else _inverse(SCHEDULES, noise.schedule),
        "prediction_type": _inverse(PREDICTIONS, noise.prediction),
        "clip_sample": noise.clip,
        "thresholding": False,
        "conditioning": network.condition if isinstance(network, UViTConfig) else "concat",
        "zero_terminal_snr": noise.zero_terminal,
    }


def _vit_letter(config: ViTConfig, name: str) -> str:
    shape = (config.width, config.depth, config.heads)
    if shape not in VITS.values() or config.refine not in (0, REFINE):
        raise MmtokError(f"tokenizer '{name}': 4M has no ViT of the shape {config}; it cannot be exported")
    return _inverse(VITS, shape)


def _mlp_name(config: MLPConfig) -> str:
    return f"BottleneckMLP/B_{config.depth}-Wi_{config.width}-E_{config.expansion}"


def _inverse(table: Mapping[str, Any], value: Any) -> str:
    return next(theirs for theirs, ours in table.items() if ours == value)


class _Keys:
    """Looks keys up, checks their types and falls back to 4M's defaults."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self._config, self.where = config, where

    def __call__(self, name: str, kind: type, *, default: Any = None) -> Any:
        value = self._config.get(name)
        value = DEFAULTS.get(name) if value is None else value
        value = default if value is None else value
        if value is None:
            raise MmtokError(
                f"{self.where}: the configuration lacks the key '{name}'; copy it from where the file is from"
            )
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise MmtokError(f"{self.where}: '{name}' must be of type {kind.__name__}, it is {value!r}")
        if kind is int and (value < 0 or (value == 0 and default is None)):
            raise MmtokError(f"{self.where}: '{name}' must be positive, it is {value}")
        return value

    def one_of(self, name: str, options: Mapping[str, Any]) -> Any:
        """What one of our settings is for a value of 4M's."""
        value = self(name, str)
        if value not in options:
            raise self.fault(name, value, options)
        return options[value]

    def fault(self, name: str, value: str, options: Any) -> MmtokError:
        """The error for a value that is not supported."""
        return MmtokError(f"{self.where}: {name} '{value}' is not supported{suggest(value, options)}")

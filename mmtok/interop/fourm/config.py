"""Configurations of 4M's any-to-any models, read and written."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from mmtok.errors import MmtokError, suggest
from mmtok.interop.fourm.modalities import MODALITIES
from mmtok.modality import Modality
from mmtok.model import ModelConfig

ACTIVATIONS = {"SiLU": "silu", "GELU": "gelu"}
DEFAULTS: Mapping[str, Any] = {
    "dim": 768,
    "encoder_depth": 12,
    "decoder_depth": 12,
    "num_heads": 12,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
    "gated_mlp": False,
    "qk_norm": False,
    "decoder_causal_mask": False,
    "decoder_sep_mask": True,
    "num_register_tokens": 0,
    "share_modality_embeddings": True,
}
"""What 4M assumes for a key that a configuration lacks."""

NORM_EPS = 1e-6
POSITION_TEMPERATURE = 10_000.0
SAME_NAME = ("encoder_depth", "decoder_depth", "qkv_bias", "proj_bias", "mlp_bias", "norm_bias", "qk_norm")
"""Keys that both configurations name alike."""


def is_model(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of an any-to-any model (and not of a tokenizer)."""
    return "domains_in" in config or "domains_out" in config


def model_config(config: Mapping[str, Any], *, where: str) -> ModelConfig:
    """Returns the shape of a model with separate output heads; whether they are tied shows in the tensors only.

    Raises:
      MmtokError: a key is missing, of a wrong type, or asks for what is not supported.
    """
    key = _Keys(config, where)
    dim, heads, gated = key("dim", int), key("num_heads", int), key("gated_mlp", bool)
    if heads < 1 or dim % heads:
        raise MmtokError(f"{where}: the width 'dim' {dim} cannot be divided among 'num_heads' {heads} heads")
    if key("decoder_causal_mask", bool) or not key("decoder_sep_mask", bool):
        raise MmtokError(
            f"{where}: decoder_causal_mask=True or decoder_sep_mask=False was found; only the block-wise decoder"
            " attention of the released models is supported"
        )
    activation = key("act_layer", str)
    if activation not in ACTIVATIONS:
        raise MmtokError(f"{where}: act_layer is '{activation}', expected {' or '.join(ACTIVATIONS)}")
    return ModelConfig(
        dim=dim,
        heads=heads,
        head_dim=dim // heads,
        mlp_hidden=_hidden(dim, key("mlp_ratio", float), gated=gated),
        gated=gated,
        activation="silu" if activation == "SiLU" else "gelu",
        registers=key("num_register_tokens", int),
        decoder_modality=not key("share_modality_embeddings", bool),
        norm_eps=NORM_EPS,
        position_temperature=POSITION_TEMPERATURE,
        **{name: key(name, type(DEFAULTS.get(name, True))) for name in SAME_NAME},
    )


def modalities(config: Mapping[str, Any], *, where: str) -> tuple[Modality, ...]:
    """Returns the modalities of a model in the order of `domains_in`, then those that are only targets.

    Raises:
      MmtokError: a list of modalities is missing, or names one that 4M does not have.
    """
    key = _Keys(config, where)
    inputs, targets = key("domains_in", list), key("domains_out", list)
    for name in (*inputs, *targets):
        if name not in MODALITIES:
            raise MmtokError(f"{where}: unknown modality '{name}'{suggest(str(name), MODALITIES)}")
    result = []
    for name in dict.fromkeys((*inputs, *targets)):
        modality = MODALITIES[name]
        if name in targets and modality.kind == "continuous":
            raise MmtokError(f"{where}: domains_out lists '{name}', which is continuous and can only be read")
        if modality.kind != "continuous":
            role = "both" if name in inputs and name in targets else "input" if name in inputs else "target"
            modality = dataclasses.replace(modality, role=role)
        result.append(modality)
    return tuple(result)


def fourm_config(config: ModelConfig, items: tuple[Modality, ...]) -> dict[str, Any]:
    """Returns the 4M configuration of a model.

    Raises:
      MmtokError: 4M has no such models.
    """
    if config.heads * config.head_dim != config.dim or not math.isclose(config.norm_eps, NORM_EPS):
        raise MmtokError(
            f"4M models have heads x head_dim = dim and norm_eps {NORM_EPS:g}, this one has"
            f" {config.heads} x {config.head_dim}, {config.dim} and {config.norm_eps:g}; it cannot be exported"
        )
    if config.scaled_embeddings or config.position_temperature != POSITION_TEMPERATURE:
        raise MmtokError(
            f"4M models have position_temperature {POSITION_TEMPERATURE:g} and no scaled_embeddings, this one has"
            f" {config.position_temperature:g} and scaled_embeddings={config.scaled_embeddings}; it cannot be exported"
        )
    for item in items:
        if item.codes > 1:
            raise MmtokError(f"modality '{item.name}' has {item.codes} codes per position, 4M's have one each")
    return {
        "dim": config.dim,
        "num_heads": config.heads,
        "mlp_ratio": _ratio(config),
        "gated_mlp": config.gated,
        "act_layer": next(name for name, ours in ACTIVATIONS.items() if ours == config.activation),
        "num_register_tokens": config.registers,
        "share_modality_embeddings": not config.decoder_modality,
        **{name: getattr(config, name) for name in SAME_NAME},
        "image_size": 224,
        "patch_size": 16,
        "domains_in": [item.name for item in items if item.is_input],
        "domains_out": [item.name for item in items if item.is_target],
    }


def _ratio(config: ModelConfig) -> float:
    """The `mlp_ratio` that gives the hidden width, 4 where that does."""
    hidden = math.ceil(config.mlp_hidden * 1.5) if config.gated else config.mlp_hidden
    ratios = (4.0, hidden / config.dim, (hidden + 0.5) / config.dim)
    return next(ratio for ratio in ratios if _hidden(config.dim, ratio, gated=config.gated) == config.mlp_hidden)


def _hidden(dim: int, ratio: float, *, gated: bool) -> int:
    """The hidden width of an MLP; a gated one, which has three matrices, has two thirds of it."""
    hidden = int(dim * ratio)
    return int(2 * hidden / 3) if gated else hidden


class _Keys:
    """Looks keys up, checks their types and falls back to 4M's defaults."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self._config, self._where = config, where

    def __call__(self, name: str, kind: type) -> Any:
        value = self._config.get(name, DEFAULTS.get(name))
        if value is None:
            raise MmtokError(
                f"{self._where}: the configuration lacks the key '{name}'; copy it from where the file is from"
            )
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise MmtokError(f"{self._where}: '{name}' must be a {kind.__name__}, it is {value!r}")
        return value

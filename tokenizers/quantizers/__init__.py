"""Quantizers: continuous latents to ids and back."""

from mmtok.tokenizers.quantizers.fsq import FSQ
from mmtok.tokenizers.quantizers.memcodes import Memcodes, MemcodesConfig
from mmtok.tokenizers.quantizers.vq import VQ, VQConfig

__all__ = ["FSQ", "VQ", "Memcodes", "MemcodesConfig", "VQConfig"]

"""Quantizers: continuous latents to ids and back."""

from mmtok.tokenizers.quantizers.fsq import FSQ

__all__ = ["FSQ"]

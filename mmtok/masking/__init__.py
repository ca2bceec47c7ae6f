"""Masking: token samples to fixed-shape training batches, vectorised and pure in (seed, step, sample)."""

from mmtok.masking.config import Component, MaskingConfig, Role
from mmtok.masking.masker import Masker, fill_rates

__all__ = ["Component", "Masker", "MaskingConfig", "Role", "fill_rates"]

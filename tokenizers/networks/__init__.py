"""Encoders and decoders between images and grids of latents."""

from mmtok.tokenizers.networks.conv import ConvDecoder, ConvEncoder
from mmtok.tokenizers.networks.vit import ViTDecoder, ViTEncoder

NETWORKS = {"vit": (ViTEncoder, ViTDecoder), "conv": (ConvEncoder, ConvDecoder)}

__all__ = ["NETWORKS", "ConvDecoder", "ConvEncoder", "ViTDecoder", "ViTEncoder"]

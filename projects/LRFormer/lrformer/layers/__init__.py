"""LRFormer and its peers in plain PyTorch; nothing here imports detectron2."""

from .lrformer import (
    VARIANTS,
    FeedForward,
    LowResolutionSelfAttention,
    LRFormerBlock,
    LRFormerEncoder,
    PatchEmbed,
    Stem,
    pooled_shape,
    scaled_pyramid,
)
from .segformer import MIT_VARIANTS, MiTEncoder

__all__ = [
    "MIT_VARIANTS",
    "VARIANTS",
    "FeedForward",
    "LRFormerBlock",
    "LRFormerEncoder",
    "LowResolutionSelfAttention",
    "MiTEncoder",
    "PatchEmbed",
    "Stem",
    "pooled_shape",
    "scaled_pyramid",
]

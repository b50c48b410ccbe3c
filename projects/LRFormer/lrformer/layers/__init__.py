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
from .rtformer import RTFORMER_VARIANTS, RTFormerEncoder
from .segformer import MIT_VARIANTS, MiTEncoder

__all__ = [
    "MIT_VARIANTS",
    "RTFORMER_VARIANTS",
    "VARIANTS",
    "FeedForward",
    "LRFormerBlock",
    "LRFormerEncoder",
    "LowResolutionSelfAttention",
    "MiTEncoder",
    "PatchEmbed",
    "RTFormerEncoder",
    "Stem",
    "pooled_shape",
    "scaled_pyramid",
]

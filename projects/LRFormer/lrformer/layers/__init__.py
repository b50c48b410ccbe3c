"""The parts of LRFormer in plain PyTorch; nothing here imports detectron2."""

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

__all__ = [
    "VARIANTS",
    "FeedForward",
    "LRFormerBlock",
    "LRFormerEncoder",
    "LowResolutionSelfAttention",
    "PatchEmbed",
    "Stem",
    "pooled_shape",
    "scaled_pyramid",
]

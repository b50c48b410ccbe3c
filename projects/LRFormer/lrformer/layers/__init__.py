"""The parts of LRFormer in plain PyTorch; nothing here imports detectron2."""

from .block import FeedForward, LRFormerBlock
from .embed import PatchEmbed, Stem
from .encoder import LRFormerEncoder
from .lrsa import LowResolutionSelfAttention, pooled_shape, scaled_pyramid

__all__ = [
    "FeedForward",
    "LRFormerBlock",
    "LRFormerEncoder",
    "LowResolutionSelfAttention",
    "PatchEmbed",
    "Stem",
    "pooled_shape",
    "scaled_pyramid",
]

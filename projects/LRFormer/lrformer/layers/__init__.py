"""The parts of LRFormer in plain PyTorch; nothing here imports detectron2."""

from .block import LRFormerBlock
from .embed import PatchEmbed, Stem
from .encoder import LRFormerEncoder
from .feed_forward import FeedForward
from .lrsa import LowResolutionSelfAttention, scaled_pyramid
from .pooling import pooled_shape

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

"""Models as detectron2 builds them; importing this registers backbones and heads."""

from .backbone import LRFormer, MixVisionTransformer
from .build import build_model
from .heads import LRHead, SegFormerHead
from .mask2former import MaskFormer

__all__ = [
    "LRFormer",
    "LRHead",
    "MaskFormer",
    "MixVisionTransformer",
    "SegFormerHead",
    "build_model",
]

"""Models as detectron2 builds them; importing this registers backbones and heads."""

from .backbone import LRFormer, MixVisionTransformer, RTFormer
from .build import build_model
from .heads import CCHead, DAHead, LRHead, OCRHead, PPMHead, RTFormerHead, SegFormerHead
from .mask2former import MaskFormer

__all__ = [
    "CCHead",
    "DAHead",
    "LRFormer",
    "LRHead",
    "MaskFormer",
    "MixVisionTransformer",
    "OCRHead",
    "PPMHead",
    "RTFormer",
    "RTFormerHead",
    "SegFormerHead",
    "build_model",
]

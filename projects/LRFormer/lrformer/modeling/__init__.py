"""Models as detectron2 builds them; importing this registers the backbone and the heads."""

from .backbone import LRFormer
from .build import build_model
from .heads import LRHead
from .mask2former import MaskFormer

__all__ = ["LRFormer", "LRHead", "MaskFormer", "build_model"]

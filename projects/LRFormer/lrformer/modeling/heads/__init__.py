"""Heads that classify every pixel; importing this registers them with detectron2."""

from .lr_head import LRHead
from .per_pixel import PerPixelHead
from .segformer import SegFormerHead

__all__ = ["LRHead", "PerPixelHead", "SegFormerHead"]

"""Heads that classify every pixel; importing this registers them with detectron2."""

from .context import CCHead, DAHead, OCRHead, PPMHead
from .lr_head import LRHead
from .per_pixel import PerPixelHead
from .rtformer import RTFormerHead
from .segformer import SegFormerHead

__all__ = [
    "CCHead",
    "DAHead",
    "LRHead",
    "OCRHead",
    "PPMHead",
    "PerPixelHead",
    "RTFormerHead",
    "SegFormerHead",
]

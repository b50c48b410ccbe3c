"""Segmentation of what a phrase means: LISA on this project's backbones (paper, section 4.6)."""

from .model import LISA

__all__ = ["LISA"]

"""An exact rewrite of models for inference."""

from .rewrite import fuse

__all__ = ["fuse"]

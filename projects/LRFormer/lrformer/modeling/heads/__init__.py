from .lr_head import LRHead

__all__ = ["LRHead"]

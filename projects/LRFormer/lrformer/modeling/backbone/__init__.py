from .lrformer import LRFormer

__all__ = ["LRFormer"]

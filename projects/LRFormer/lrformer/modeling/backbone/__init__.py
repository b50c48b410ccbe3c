from .lrformer import LRFormer
from .mit import MixVisionTransformer

__all__ = ["LRFormer", "MixVisionTransformer"]

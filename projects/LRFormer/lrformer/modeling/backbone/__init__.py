from .lrformer import LRFormer
from .mit import MixVisionTransformer
from .rtformer import RTFormer

__all__ = ["LRFormer", "MixVisionTransformer", "RTFormer"]

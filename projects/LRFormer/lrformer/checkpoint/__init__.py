from .checkpointer import LRFormerCheckpointer
from .released import from_released, is_released

__all__ = ["LRFormerCheckpointer", "from_released", "is_released"]

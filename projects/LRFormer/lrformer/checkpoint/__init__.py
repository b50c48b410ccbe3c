import importlib.util

from .reading import WeightsError
from .released import from_released, is_released, to_released

__all__ = ["WeightsError", "from_released", "is_released", "to_released"]

if importlib.util.find_spec("detectron2") is not None:
    from .checkpointer import LRFormerCheckpointer

    __all__ += ["LRFormerCheckpointer"]

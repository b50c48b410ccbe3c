"""Weights in files: read safely, recognised, renamed, reported, loaded and converted."""

import importlib.util

from .names import from_released, is_released, to_released
from .reading import WeightsError, check_weights_exist

__all__ = ["WeightsError", "check_weights_exist", "from_released", "is_released", "to_released"]

if importlib.util.find_spec("detectron2") is not None:
    from .checkpointer import LRFormerCheckpointer

    __all__ += ["LRFormerCheckpointer"]

"""Inference on whole images, windows and augmented images; and the predictor."""

from .build import build_inference_model
from .fusion import fuse
from .options import RuntimeOptionError, RuntimeOptions, agreement, prepare_for_inference
from .predictor import Predictor
from .sliding_window import SlidingWindow
from .tasks import TASK_KEYS, TaskError, predicted_tasks
from .tta import SemanticTTA
from .wrapper import ClassMaps

__all__ = [
    "TASK_KEYS",
    "ClassMaps",
    "Predictor",
    "RuntimeOptionError",
    "RuntimeOptions",
    "SemanticTTA",
    "SlidingWindow",
    "TaskError",
    "agreement",
    "build_inference_model",
    "fuse",
    "predicted_tasks",
    "prepare_for_inference",
]

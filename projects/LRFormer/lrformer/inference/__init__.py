"""Inference on whole images, windows and augmented images; and the predictor."""

from .build import build_inference_model
from .predictor import Predictor
from .sliding_window import SlidingWindow
from .tasks import TASK_KEYS, TaskError, predicted_tasks
from .tta import SemanticTTA

__all__ = [
    "TASK_KEYS",
    "Predictor",
    "SemanticTTA",
    "SlidingWindow",
    "TaskError",
    "build_inference_model",
    "predicted_tasks",
]

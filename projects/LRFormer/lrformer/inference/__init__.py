"""Inference on whole images, windows and augmented images; and the predictor."""

from .predictor import Predictor
from .runtime import RuntimeOptions, build_inference_model, prepare_for_inference
from .sliding_window import SlidingWindow
from .tasks import predicted_tasks
from .tta import SemanticTTA
from .wrapper import ClassMaps

__all__ = [
    "ClassMaps",
    "Predictor",
    "RuntimeOptions",
    "SemanticTTA",
    "SlidingWindow",
    "build_inference_model",
    "predicted_tasks",
    "prepare_for_inference",
]

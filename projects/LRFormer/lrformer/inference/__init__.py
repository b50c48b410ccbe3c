"""Inference on whole images, windows and augmented images; and the predictor."""

from .exported import ExportedModel, load_exported
from .predictor import Predictor
from .runtime import RuntimeOptions, build_inference_model, prepare_for_inference
from .sliding_window import SlidingWindow
from .tasks import predicted_tasks
from .tta import SemanticTTA
from .wrapper import ClassMaps, ConfidentClassMaps

__all__ = [
    "ClassMaps",
    "ConfidentClassMaps",
    "ExportedModel",
    "Predictor",
    "RuntimeOptions",
    "SemanticTTA",
    "SlidingWindow",
    "build_inference_model",
    "load_exported",
    "predicted_tasks",
    "prepare_for_inference",
]

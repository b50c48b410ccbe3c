"""Inference on whole images, windows and augmented images; and the predictor."""

from .build import build_inference_model
from .predictor import Predictor
from .sliding_window import SlidingWindow
from .tta import SemanticTTA

__all__ = ["Predictor", "SemanticTTA", "SlidingWindow", "build_inference_model"]

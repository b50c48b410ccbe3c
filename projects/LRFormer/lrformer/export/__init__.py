"""Models as files that other programs run: ONNX, OpenVINO, and PyTorch's own exported programs."""

from .quantize import calibration_images
from .write import FORMATS, Check, ExportError, ExportOptions, export_model

__all__ = [
    "FORMATS",
    "Check",
    "ExportError",
    "ExportOptions",
    "calibration_images",
    "export_model",
]

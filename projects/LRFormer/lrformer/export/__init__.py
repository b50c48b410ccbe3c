"""Models as files that other programs run: ONNX, and PyTorch's own exported programs."""

from .onnx import ExportError
from .write import FORMATS, Check, ExportOptions, export_model

__all__ = ["FORMATS", "Check", "ExportError", "ExportOptions", "export_model"]

"""A page about an evaluation: scores with intervals, plots, images and suspicious labels."""

from .collect import ReportEvaluator
from .compare import compare
from .write import Report

__all__ = ["Report", "ReportEvaluator", "compare"]

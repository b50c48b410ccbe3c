"""Predictions of many images as files, by one process, a pool of them or a Ray cluster."""

from .job import ModelFiles, PredictJob
from .outputs import FORMATS

__all__ = ["FORMATS", "ModelFiles", "PredictJob"]

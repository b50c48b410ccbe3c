"""Scores of predictions on datasets."""

from .build import (
    BEST_METRICS,
    RESULTS_FILES,
    best_metric,
    build_evaluator,
    evaluated_tasks,
    output_folder,
)
from .sem_seg import PerClassSemSegEvaluator

__all__ = [
    "BEST_METRICS",
    "RESULTS_FILES",
    "PerClassSemSegEvaluator",
    "best_metric",
    "build_evaluator",
    "evaluated_tasks",
    "output_folder",
]

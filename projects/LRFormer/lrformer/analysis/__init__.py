"""How large a model is, what it computes, how fast it runs, and what the paper says of it."""

from .counting import (
    Counts,
    build_for_counting,
    count,
    count_activations,
    count_flops,
    count_parameters,
)
from .formats import FORMATS, render
from .measure import Measurement, measure
from .paper import TABLES
from .records import analyze_config, breakdown, paper_table, zoo
from .scaling import draw_scaling, scaling

__all__ = [
    "FORMATS",
    "TABLES",
    "Counts",
    "Measurement",
    "analyze_config",
    "breakdown",
    "build_for_counting",
    "count",
    "count_activations",
    "count_flops",
    "count_parameters",
    "draw_scaling",
    "measure",
    "paper_table",
    "render",
    "scaling",
    "zoo",
]

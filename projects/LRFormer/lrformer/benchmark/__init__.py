"""Speed of our models and of others, in turn in one process, beside what the machine can do."""

from .cases import OPTIONS, BenchmarkError, Case, build_case
from .peers import PEERS, build_peer
from .report import markdown, to_json
from .run import BenchmarkOptions, Result, Row, Spread, benchmark

__all__ = [
    "OPTIONS",
    "PEERS",
    "BenchmarkError",
    "BenchmarkOptions",
    "Case",
    "Result",
    "Row",
    "Spread",
    "benchmark",
    "build_case",
    "build_peer",
    "markdown",
    "to_json",
]

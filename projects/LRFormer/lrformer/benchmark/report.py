"""A run as a table for people, and as JSON for programs."""

import json
from dataclasses import asdict

from tabulate import tabulate

from .run import Result, Row, Spread

_REMARKS = """\
- Everything runs in turn in one process; figures are medians over the rounds, in brackets their
  quartiles. Ratios are formed in each round. Outputs were checked before.
- GFLOP: multiply-adds of one image, as fvcore counts them. Time / matmul time: against as many
  multiply-adds in a float32 matrix product; 1 is this machine's limit in float32.
- Error: relative to the same model, eager and in float32.
"""


def to_json(result: Result) -> str:
    """Seconds, operations and bytes a second."""
    return json.dumps(asdict(result), indent=2) + "\n"


def markdown(result: Result, command: str) -> str:
    """The run as a page of Markdown.

    Args:
        result: the run.
        command: that printed it.
    """
    named = {k: v for k, v in result.conditions.items() if v is not None}
    limits = [
        f"copy {spread_text(rate, 1e9, 1)} GB/s (read and written)"
        if name == "copy"
        else f"matrix product in {name} {spread_text(rate, 1e9, 0)} GFLOP/s (a multiply-add is two)"
        for name, rate in result.limits.items()
    ]
    baseline = str(result.conditions["baseline"])
    titles = [
        *("model", "variant", "parameters", "GFLOP", "latency", "images/s"),
        *("time / matmul time", f"time / that of {baseline}", "error"),
    ]
    return "\n".join(
        [
            f"Printed by `{command}`.\n",
            f"{', '.join(f'{name}: {value}' for name, value in named.items())}.\n",
            f"This machine, in the same run: {'; '.join(limits)}.\n",
            tabulate(
                [_cells(row) for row in result.rows],
                titles,
                tablefmt="pipe",
                colalign=["left"] * 2 + ["right"] * 7,
                disable_numparse=True,
            ),
            "",
            _REMARKS,
        ]
    )


def _cells(row: Row) -> list[str]:
    return [
        row.model,
        row.variant,
        f"{row.parameters / 1e6:.1f} M",
        f"{row.flops / 1e9:.1f}",
        f"{spread_text(row.seconds, 1e-3, 1)} ms",
        f"{row.images_per_second:.2f}",
        spread_text(row.matmul_ratio, 1, 2),
        spread_text(row.baseline_ratio, 1, 3),
        f"{row.error:.0e}",
    ]


def spread_text(spread: Spread, scale: float, digits: int) -> str:
    median, low, high = (
        f"{value / scale:.{digits}f}" for value in (spread.median, spread.p25, spread.p75)
    )
    return f"{median} ({low}–{high})"

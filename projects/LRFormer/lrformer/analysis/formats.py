"""Records as Markdown for people, as JSON and CSV for programs."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

FORMATS = ("markdown", "json", "csv")


@dataclass(frozen=True)
class _Quantity:
    """How Markdown shows a number: divided by ``scale``, with ``digits`` decimals and ``unit``."""

    title: str
    unit: str = ""
    scale: float = 1
    digits: int = 1

    def show(self, value: float | str | None) -> str:
        if value is None:
            return "–"
        if isinstance(value, str):
            return value
        value /= self.scale
        # Small figures keep three digits.
        digits = max(self.digits, 2) if 0 < abs(value) < 10 and self.digits else self.digits
        return f"{value:.{digits}f} {self.unit}".rstrip()


_QUANTITIES = {
    "model": _Quantity("model"),
    "module": _Quantity("module"),
    "parameters": _Quantity("parameters", "M", 1e6, 2),
    "flops": _Quantity("FLOPs", "G", 1e9),
    "flops_share": _Quantity("share", "%"),
    "attention_flops": _Quantity("attention FLOPs", "G", 1e9, 2),
    "quadratic_flops": _Quantity("FLOPs with quadratic attention", "G", 1e9),
    "ratio": _Quantity("ratio", "×"),
    "activations": _Quantity("activations", "M", 1e6),
    "device": _Quantity("device"),
    "dtype": _Quantity("dtype"),
    "threads": _Quantity("threads", digits=0),
    "batch": _Quantity("batch", digits=0),
    "latency": _Quantity("latency, median", "ms", 1e-3),
    "latency_p10": _Quantity("10 %", "ms", 1e-3),
    "latency_p90": _Quantity("90 %", "ms", 1e-3),
    "throughput": _Quantity("images/s"),
    "memory": _Quantity("peak memory", "GiB", 2**30, 2),
    "training_memory": _Quantity("training memory", "GiB", 2**30, 2),
}
_TEXT = ("model", "module", "input", "device", "dtype")


def render(records: Sequence[dict], style: str) -> str:
    """Records in one of the :data:`FORMATS`.

    JSON and CSV hold plain numbers: counts, seconds, bytes, percent. Markdown rounds and scales
    them, and puts the paper's figure and the difference beside ours.

    Raises:
        ValueError: there is no such format.
    """
    if style == "json":
        return json.dumps(list(records), indent=2) + "\n"
    if style == "csv":
        return _csv(records)
    if style == "markdown":
        return _markdown(records)
    raise ValueError(f"there is no format {style!r}, only {', '.join(FORMATS)}")


def _columns(records: Sequence[dict]) -> list[str]:
    """All keys, in the order in which they first come."""
    return list(dict.fromkeys(key for record in records for key in record))


def _csv(records: Sequence[dict]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, _columns(records), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def _markdown(records: Sequence[dict]) -> str:
    keys = set(_columns(records))
    columns: list[tuple[str, list[str]]] = []
    for name, quantity in _QUANTITIES.items():
        if name in keys:
            columns.append((quantity.title, [quantity.show(r.get(name)) for r in records]))
        if name == "model" and "height" in keys:
            columns.append(("input", [f"{r['height']} × {r['width']}" for r in records]))
        if f"{name}_paper" in keys:
            papers = [r.get(f"{name}_paper") for r in records]
            shown = ["–" if p is None else f"{p / quantity.scale:g}" for p in papers]
            columns.append(("paper", [f"{s} {quantity.unit}" if s != "–" else s for s in shown]))
            off = [r.get(f"{name}_difference") for r in records]
            columns.append(("off by", ["–" if d is None else f"{d:+.1f} %" for d in off]))
    rows = list(zip(*(cells for _, cells in columns), strict=True))
    titles = [title for title, _ in columns]
    sides = ["left" if t in _TEXT else "right" for t in titles]
    return tabulate(rows, titles, tablefmt="pipe", colalign=sides, disable_numparse=True) + "\n"


def put(text: str, file: Path | None) -> None:
    """Print a report, or write it to a file, in folders made for it."""
    if file is None:
        sys.stdout.write(text)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")

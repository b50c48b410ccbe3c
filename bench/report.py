"""What a command found, as Markdown for people, as JSON and CSV for programs."""

import csv
import io
import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tabulate import tabulate

Record = dict[str, str | int | float | None]


@dataclass(frozen=True)
class _Quantity:
    """How Markdown shows a number: divided by ``scale``, in a format, with a unit."""

    title: str
    unit: str = ""
    scale: float = 1
    format: str = ".1f"

    def show(self, value: float) -> str:
        value = value if self.scale == 1 else value / self.scale
        # Small figures keep three digits.
        small = self.format == ".1f" and 0 < abs(value) < 10
        return format(value, ".2f" if small else self.format)


_QUANTITIES = {
    "parameters": _Quantity("parameters", "M", 1e6, ".2f"),
    "flops": _Quantity("FLOPs", "G", 1e9),
    "attention_flops": _Quantity("attention FLOPs", "G", 1e9, ".2f"),
    "quadratic_flops": _Quantity("FLOPs with quadratic attention", "G", 1e9),
    "quadratic_ratio": _Quantity("ratio", "×"),
    "share": _Quantity("share", "%"),
    "miou": _Quantity("mIoU", "%"),
    "macc": _Quantity("mAcc", "%"),
    "time": _Quantity("time", "ms", 1e-3),
    "time_min": _Quantity("least", "ms", 1e-3),
    "images_per_second": _Quantity("images/s"),
    "batch": _Quantity("batch", format="d"),
    "minutes": _Quantity("minutes"),
    "images_seen": _Quantity("images seen", format="d"),
    "workers": _Quantity("workers", format="d"),
    "ratio": _Quantity("time / the first", format=".3f"),
    "error": _Quantity("error", format=".0e"),
    "loss": _Quantity("loss", format=".4f"),
    "memory": _Quantity("memory", "MiB", 2**20, ".0f"),
    "memory_ratio": _Quantity("memory / the first", format=".3f"),
    "total_memory": _Quantity("memory in all", "MiB", 2**20, ".0f"),
    "total_memory_ratio": _Quantity("in all / the first", format=".3f"),
}


@dataclass(frozen=True)
class Table:
    """Records of one kind, with a title above and remarks below them.

    Numbers are plain: counts, seconds, bytes, percent. Markdown scales and rounds them, and shows
    ``x_p25`` and ``x_p75`` in brackets after ``x``, ``x_paper`` and ``x_difference`` (percent)
    beside it, and ``height`` and ``width`` as one.
    """

    records: Sequence[Record]
    title: str = ""
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """Tables below an introduction; what figures depend on beside the command and the device."""

    tables: Sequence[Table]
    conditions: dict[str, object] = field(default_factory=dict)
    intro: str = ""
    device: str = "cpu"


def render(report: Report, style: str, command: str) -> str:
    """A report as "markdown", "json" or "csv"; the last holds the records alone."""
    conditions = {**report.conditions, **machine(report.device)}
    if style == "markdown":
        return _markdown(report, conditions, command)
    # A table's title goes with each of its records, so that one list holds them all.
    records = [
        {"table": table.title, **record} if table.title else record
        for table in report.tables
        for record in table.records
    ]
    if style == "json":
        found = {"command": command, "conditions": conditions, "records": records}
        return json.dumps(found, indent=2) + "\n"
    out = io.StringIO()
    writer = csv.DictWriter(out, _keys(records), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def machine(device: str) -> dict[str, object]:
    """What ``device`` calls itself, PyTorch's threads on a CPU, and versions."""
    used = [name for name in ("torch", "transformers") if name in sys.modules]
    versions = {name: str(sys.modules[name].__version__) for name in used}
    if torch.device(device).type == "cuda":
        return {"device": torch.cuda.get_device_name(device), **versions}
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = match.group(1) if match else platform.processor() or platform.machine()
    cpu = {"device": f"{name}, {os.cpu_count()} cores", "threads": torch.get_num_threads()}
    return cpu | versions


def _markdown(report: Report, conditions: dict[str, object], command: str) -> str:
    parts = [report.intro] if report.intro else []
    for table in report.tables:
        parts += [f"## {table.title}"] if table.title else []
        titles, sides, cells = zip(*_columns(table.records), strict=True)
        rows = list(zip(*cells, strict=True))
        parts.append(tabulate(rows, titles, "pipe", colalign=sides, disable_numparse=True))
        parts += ["\n".join(f"- {remark}" for remark in table.remarks)] if table.remarks else []
    known = ", ".join(f"{name}: {value}" for name, value in conditions.items())
    parts.append(f"Printed by `{command}`; {known}.")
    return "\n\n".join(parts) + "\n"


def _keys(records: Sequence[Record]) -> list[str]:
    """All keys, in the order in which they first come."""
    return list(dict.fromkeys(key for record in records for key in record))


def _columns(records: Sequence[Record]) -> Iterator[tuple[str, str, list[str]]]:
    """Title, side and cells of Markdown's columns."""
    keys = _keys(records)
    for name in keys:
        quantity = _QUANTITIES.get(name)
        if quantity is not None:
            yield quantity.title, "right", [_cell(record, name, quantity) for record in records]
        elif name == "height":
            sides = [(r.get("height"), r.get("width")) for r in records]
            yield "input", "left", [f"{h} × {w}" if h else "–" for h, w in sides]
        elif all(isinstance(record.get(name), str) for record in records):
            yield name, "left", [record[name] for record in records]
        if f"{name}_paper" in keys:
            papers = [record.get(f"{name}_paper") for record in records]
            units = [p and f"{p / quantity.scale:g} {quantity.unit}" for p in papers]
            yield "paper", "right", [text or "–" for text in units]
            off = [record.get(f"{name}_difference") for record in records]
            yield "off by", "right", ["–" if d is None else f"{d:+.1f} %" for d in off]


def _cell(record: Record, name: str, quantity: _Quantity) -> str:
    values = [record.get(key) for key in (name, f"{name}_p25", f"{name}_p75")]
    median, *quartiles = [quantity.show(value) for value in values if value is not None] or ["–"]
    spread = f" ({'–'.join(quartiles)})" if quartiles else ""
    unit = "" if median == "–" else quantity.unit
    return f"{median}{spread} {unit}".rstrip()

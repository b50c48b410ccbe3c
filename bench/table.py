"""The paper's tables: our counts, its figures, and the differences."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from .count import COUNTED, record
from .report import Record, Report, Table

PAPER = yaml.safe_load(Path(__file__).with_name("paper.yaml").read_text(encoding="utf-8"))
TABLES: dict[str, dict] = PAPER["tables"]
_QUOTED = ("classes", "miou", "macc", "training memory")
_TOLERANCE = 3.0  # percent; what is further off the paper's figure needs an explanation
_UNITS = {"parameters": 1e6, "flops": 1e9, "attention_flops": 1e9}
_INTRO = (
    "# Size and cost of LRFormer, and what the paper says\n\n"
    f'{COUNTED} "paper" is the paper\'s figure, "off by" our difference from it; the paper rounds, '
    "mostly to whole G and M."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    numbers = (*TABLES, "all")
    parser.add_argument("numbers", nargs="+", choices=numbers, metavar="N", help=", ".join(numbers))


def report(args: argparse.Namespace) -> Report:
    """Raises ValueError where a config key is given."""
    if args.opts:
        raise ValueError(f"table takes no KEY VALUE pairs; found {args.opts[0]}")
    numbers = TABLES if "all" in args.numbers else args.numbers
    return Report([paper_table(n) for n in numbers], intro=_INTRO)


def paper_rows(number: str) -> list[dict[str, Any]]:
    """The rows of a table as ``paper.yaml`` explains them."""
    table = TABLES[number]
    return [{**table.get("each", {}), **row} for row in table["rows"]]


def paper_table(number: str) -> Table:
    """A table of :data:`TABLES`, with what explains large differences."""
    rows = paper_rows(number)
    records = [_record(row) for row in rows]
    remarks = [TABLES[number].get("remark"), *_explanations(rows, records)]
    title = f"Table {number}: {TABLES[number]['title']}"
    return Table(records, title, [remark for remark in remarks if remark])


def _record(row: dict[str, Any]) -> Record:
    if "config" in row:
        opts = (row["key"], row["value"]) if "key" in row else ()
        found = record(row["config"], row["size"], opts, row.get("encoder", False))
        found["model"] = row["model"]
        if "attention_flops" not in row:
            del found["attention_flops"]
    else:
        counted = ("height", "width", "parameters", "flops") if "parameters" in row else ()
        found = {"model": row["model"], **dict.fromkeys(counted)}
    for name in _UNITS.keys() & row.keys():
        paper = row[name] * _UNITS[name]
        found[f"{name}_paper"] = paper
        if found.get(name):
            found[f"{name}_difference"] = 100 * (found[name] / paper - 1)
    return found | {name: row[name] for name in _QUOTED if name in row}


def _explanations(rows: Sequence[dict], records: Sequence[Record]) -> list[str]:
    """Why figures differ, rows with the same reason together."""
    reasons: dict[str, list[str]] = {}
    for row, found in zip(rows, records, strict=True):
        off = [
            f"{name.replace('_', ' ').replace('flops', 'FLOPs')} {found[key]:+.1f} %"
            for name in _UNITS
            if abs(found.get(key := f"{name}_difference", 0)) > _TOLERANCE
        ]
        if off:
            what = f"{row['model']} at {found['height']} × {found['width']} ({', '.join(off)})"
            reasons.setdefault(row.get("why", "unknown"), []).append(what)
    known = PAPER["reasons"]
    return [
        f"{'; '.join(rows)}: {known.get(why, 'not explained.')}" for why, rows in reasons.items()
    ]

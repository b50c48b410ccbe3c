"""Rows about models: our counts, the paper's figures, and the differences."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from detectron2.config import CfgNode
from torch import nn

from ..config import find_config, load_cfg
from .cases import counted, identity
from .counting import build_for_counting, count, count_activations, count_parameters
from .measure import MeasureOptions, measure
from .paper import TABLES, PaperRow, PaperTable

Record = dict[str, str | int | float | None]

# More than this (percent) off the paper's figure needs an explanation.
TOLERANCE = 3.0
_VARIANTS = ("t", "s", "b", "l", "xl")


@dataclass(frozen=True)
class Table:
    """Records under a title, with remarks and, for each record that needs one, an explanation."""

    title: str
    records: list[Record]
    remarks: list[str] = field(default_factory=list)


def zoo() -> list[str]:
    """The configs of every architecture, plain and +, small to large."""
    folder = find_config("models/lrformer_t.yaml").parent
    names = [f"lrformer_{plus}{v}.yaml" for plus in ("", "plus_") for v in _VARIANTS]
    return [str(folder / name) for name in names if (folder / name).is_file()]


def analyze_config(
    config: str | Path,
    size: tuple[int, int],
    *,
    opts: Sequence = (),
    backbone_only: bool = False,
    options: MeasureOptions | None = None,
) -> Record:
    """What a config's model costs at an input size, with the paper's figures where it has them.

    Args:
        config, opts: of :func:`lrformer.load_cfg`.
        size: (height, width) of the network's input.
        backbone_only: of the encoder, without the head.
        options: how to measure time and memory; None: only count.

    Raises:
        FileNotFoundError, ConfigError: of :func:`lrformer.load_cfg`.
    """
    cfg = load_cfg(config, opts)
    record = {"model": str(config), **_counts(cfg, size, backbone_only)}
    model = _part(build_for_counting(cfg), backbone_only)
    record["activations"] = int(count_activations(model, *size)[""])
    for name, value in _published(cfg, size, backbone_only).items():
        _compare(record, name, value)
    if options is not None:
        record.update(measure(cfg, size, options, backbone_only).record())
    return record


def breakdown(
    config: str | Path,
    size: tuple[int, int],
    depth: int,
    *,
    opts: Sequence = (),
    backbone_only: bool = False,
) -> list[Record]:
    """Parameters, FLOPs and activations of a config's modules, down to ``depth`` names deep.

    What a module computes between its sub-modules counts for it and those above it only.
    """
    model = _part(build_for_counting(load_cfg(config, opts)), backbone_only)
    flops = count(model, *size).by_module
    activations = count_activations(model, *size)
    records = []
    for name, module in model.named_modules():
        levels = name.count(".") + 1 if name else 0
        if levels > depth or name not in flops:
            continue
        records.append(
            {
                "module": name or "total",
                "parameters": count_parameters(module),
                "flops": int(flops[name]),
                "flops_share": 100 * flops[name] / flops[""],
                "activations": int(activations[name]),
            }
        )
    return [r for r in records if r["parameters"] or r["flops"]]


def paper_table(number: str, options: MeasureOptions | None = None) -> Table:
    """A table of the paper: our counts, its figures, and why they differ where they do.

    Args:
        number: "3", "4", …, of :data:`lrformer.analysis.TABLES`.
        options: how to measure time and memory, at each row's own batch; None: only count.

    Raises:
        ValueError: a table that is not there; the message names those that are.
    """
    if number not in TABLES:
        raise ValueError(
            f"there is no Table {number} here; those with parameters or FLOPs of LRFormer are "
            f"{', '.join(TABLES)} (or 'all')"
        )
    table = TABLES[number]
    records = [_row_record(row, options) for row in table.rows]
    return Table(f"Table {number}: {table.title}", records, _remarks(table, records))


def _row_record(row: PaperRow, options: MeasureOptions | None) -> Record:
    cfg = load_cfg(row.config, row.opts)
    record = {"model": row.model, **_counts(cfg, row.size, row.backbone_only)}
    if row.attention_flops is None:
        del record["attention_flops"]
    for name, value in _figures(row).items():
        _compare(record, name, value)
    if options is not None:
        options = options.with_batch(row.batch)
        record.update(measure(cfg, row.size, options, row.backbone_only).record())
        if row.training_memory is not None and record.get("training_memory") is not None:
            _compare(record, "training_memory", row.training_memory * 2**30)
    return record


def _remarks(table: PaperTable, records: list[Record]) -> list[str]:
    """The table's remark, then the explanations, rows with the same one together."""
    reasons: dict[str, list[str]] = {}
    for row, record in zip(table.rows, records, strict=True):
        off = [
            f"{name.replace('_', ' ').replace('flops', 'FLOPs')} {record[key]:+.1f} %"
            for name in ("parameters", "flops", "attention_flops")
            if abs(record.get(key := f"{name}_difference") or 0) > TOLERANCE
        ]
        if off:
            rows = reasons.setdefault(row.why or "not explained.", [])
            rows.append(f"{row.model} at {record['height']} × {record['width']} ({', '.join(off)})")
    explained = [f"{'; '.join(rows)}: {why}" for why, rows in reasons.items()]
    return [table.remark, *explained] if table.remark else explained


def _part(model: nn.Module, backbone_only: bool) -> nn.Module:
    return model.backbone if backbone_only else model


def _counts(cfg: CfgNode, size: tuple[int, int], backbone_only: bool) -> Record:
    parameters, counts = counted(cfg, size, backbone_only)
    return {
        "height": size[0],
        "width": size[1],
        "parameters": parameters,
        "flops": int(counts.total),
        "attention_flops": int(counts.attention),
    }


def _figures(row: PaperRow) -> dict[str, float]:
    figures = {
        "parameters": (row.parameters, 1e6),
        "flops": (row.flops, 1e9),
        "attention_flops": (row.attention_flops, 1e9),
    }
    return {name: value * unit for name, (value, unit) in figures.items() if value is not None}


def _published(cfg: CfgNode, size: tuple[int, int], backbone_only: bool) -> dict[str, float]:
    """The paper's figures of this model, those of its cost where it has them at this size."""
    key = identity(cfg)
    figures: dict[str, float] = {}
    for row in (row for table in TABLES.values() for row in table.rows):
        if row.backbone_only != backbone_only or _row_identity(row.config, row.opts) != key:
            continue
        for name, value in _figures(row).items():
            if row.size == tuple(size) or name == "parameters":
                figures.setdefault(name, value)
    return figures


@lru_cache(maxsize=64)
def _row_identity(config: str, opts: tuple) -> str:
    return identity(load_cfg(config, opts))


def _compare(record: Record, name: str, paper: float) -> None:
    """Add the paper's figure and our difference from it, in percent."""
    record[f"{name}_paper"] = paper
    record[f"{name}_difference"] = 100 * (record[name] / paper - 1)

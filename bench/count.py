"""Parameters and FLOPs of configs, by modules, or against the input's size."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lrformer import load_cfg
from lrformer.config import find_config

from .counting import count, count_parameters, counted
from .models import build_for_counting
from .options import add_size, positive
from .report import Record, Report, Table
from .scaling import scaling_table

COUNTED = "FLOPs are multiply-adds of one image, as fvcore counts them."
_VARIANTS = ("t", "s", "b", "l", "xl")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "configs", nargs="*", metavar="CONFIG", help="default: every architecture, plain and +"
    )
    add_size(parser)
    parser.add_argument("--backbone", action="store_true", help="the encoder alone")
    parser.add_argument("--depth", type=positive, metavar="N", help="modules, N names deep")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw the one CONFIG's FLOPs against input size, and with quadratic attention",
    )


def report(args: argparse.Namespace) -> Report:
    """Raises ValueError where arguments contradict each other, and those of ``load_cfg``."""
    configs, opts = args.configs or zoo(), tuple(args.opts)
    if args.plot:
        if len(configs) != 1 or args.backbone or args.depth is not None:
            raise ValueError("--plot takes one CONFIG, with its head and without --depth")
        tables = [scaling_table(configs[0], opts, args.plot)]
    elif args.depth is not None:
        where = f"at {args.size[0]} × {args.size[1]}, module by module"
        tables = [Table(_modules(config, args), f"{config} {where}") for config in configs]
    else:
        tables = [Table([record(config, args.size, opts, args.backbone) for config in configs])]
    return Report(tables, intro=COUNTED)


def zoo() -> list[str]:
    """The configs of every architecture, plain and +, small to large."""
    names = (f"models/lrformer_{plus}{v}.yaml" for plus in ("", "plus_") for v in _VARIANTS)
    return [name for name in names if find_config(name)]


def record(
    config: str, size: Sequence[int], opts: tuple = (), backbone_only: bool = False
) -> Record:
    """What a config's model costs at an input size."""
    counts = counted(config, tuple(size), opts, backbone_only)
    return {
        "model": config,
        "height": size[0],
        "width": size[1],
        "parameters": counts.parameters,
        "flops": int(counts.total),
        "attention_flops": int(counts.attention),
    }


def _modules(config: str, args: argparse.Namespace) -> list[Record]:
    """What a module computes between its sub-modules counts for it and those above it only."""
    model = build_for_counting(load_cfg(config, args.opts))
    model = model.backbone if args.backbone else model
    flops = count(model, *args.size).by_module
    return [
        {
            "module": name or "total",
            "parameters": count_parameters(module),
            "flops": int(flops[name]),
            "share": 100 * flops[name] / flops[""],
        }
        for name, module in model.named_modules()
        if flops[name] and (not name or name.count(".") < args.depth)
    ]

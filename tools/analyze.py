#!/usr/bin/env python3
"""Size and cost of models, and the paper's tables of them; ``--help`` shows how."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from lrformer.analysis import (
    FORMATS,
    TABLES,
    analyze_config,
    breakdown,
    draw_scaling,
    paper_table,
    render,
    scaling,
    zoo,
)
from lrformer.analysis.formats import put
from lrformer.analysis.measure import DTYPES, MeasureOptions
from lrformer.analysis.records import Table
from lrformer.analysis.scaling import SIZES, side_of_ratio

_EPILOG = r"""
examples:
  analyze.py configs/ade20k/lrformer_*.yaml                   # at 512 x 512
  analyze.py --zoo --size 640 640 --format csv --output zoo.csv
  analyze.py configs/ade20k/lrformer_s.yaml --depth 2         # module by module
  analyze.py --table 3                                        # of the paper; or: --table all
  analyze.py configs/ade20k/lrformer_s.yaml --measure --batch 2 --threads 2
  analyze.py --table 12 --measure --device cuda               # with training memory
  analyze.py --plot flops.png                                 # LRFormer-S, or the given config
"""

_COUNTED = (
    'FLOPs are multiply-adds of one image, as fvcore counts them. "paper" is the paper\'s figure, '
    '"off by" our difference from it; the paper rounds, mostly to whole G and M.'
)
_PLOT_CONFIG = "ade20k/lrformer_s.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (that of the process where it is None).

    Returns:
        The exit code: 0, or 2 for what cannot be analysed. Wrong arguments end the process with 2.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    args = _parse(argv)
    try:
        text = _report(args, argv)
        put(text, args.output)
    except (OSError, ValueError) as error:
        print(f"analyze.py: error: {error}", file=sys.stderr)
        return 2
    return 0


def _report(args: argparse.Namespace, argv: Sequence[str]) -> str:
    options = _measure_options(args)
    size = tuple(args.size)
    tables = []
    for number in TABLES if "all" in args.table else args.table:
        tables.append(paper_table(number, options))
    configs = [*args.configs, *args.config_file, *(zoo() if args.zoo else [])]
    analyzed = configs and (args.depth is not None or not args.plot)
    if analyzed and args.depth is not None:
        for config in configs:
            records = breakdown(
                config, size, args.depth, opts=args.opts, backbone_only=args.backbone
            )
            title = f"{config} at {size[0]} × {size[1]}, module by module"
            tables.append(Table(title, [{"config": config, **r} for r in records]))
    elif analyzed:
        records = [
            analyze_config(c, size, opts=args.opts, backbone_only=args.backbone, options=options)
            for c in configs
        ]
        tables.append(Table("", records))
    if args.plot:
        tables.append(_plot(args, configs))
    if args.format == "markdown":
        return _markdown(tables, argv)
    # A table's number goes with each of its records, so that one file holds them all.
    records = [
        {"table": table.title, **r} if table.title else r for table in tables for r in table.records
    ]
    return render(records, args.format)


def _plot(args: argparse.Namespace, configs: Sequence[str]) -> Table:
    config = configs[0] if configs else _PLOT_CONFIG
    name = "LRFormer-S" if not configs else Path(config).stem
    records = scaling(config, args.opts, args.plot_sizes)
    draw_scaling(records, args.plot, name)
    title = f"FLOPs against input size: {name}, and with quadratic attention"
    double = side_of_ratio(records, 2)
    remarks = [
        "Quadratic: queries, keys and values are all positions of each map, in the encoder and in "
        "the plain head; everything else is the same."
    ]
    if double is not None:
        remarks.append(f"Quadratic attention costs twice as much at about {double:.0f} pixels.")
    if args.output is not None:
        picture = Path(args.plot)
        if picture.resolve().parent == args.output.resolve().parent:
            remarks.append(f"![{title}]({picture.name})")
    return Table(title, records, remarks)


def _markdown(tables: Sequence[Table], argv: Sequence[str]) -> str:
    parts = []
    if len(tables) > 1:
        parts.append("# Size and cost of LRFormer, and what the paper says\n")
    parts.append(f"Printed by `python tools/analyze.py {shlex.join(argv)}`. {_COUNTED}\n")
    for table in tables:
        if table.title:
            parts.append(f"## {table.title}\n")
        parts.append(render(table.records, "markdown"))
        parts.extend(
            f"\n{remark}\n" if remark.startswith("!") else f"- {remark}" for remark in table.remarks
        )
        if table.remarks and not table.remarks[-1].startswith("!"):
            parts.append("")
    return "\n".join(parts)


def _measure_options(args: argparse.Namespace) -> MeasureOptions | None:
    if not args.measure:
        return None
    return MeasureOptions(
        device=args.device,
        dtype=args.dtype,
        batch=args.batch,
        threads=args.threads,
        warmup=args.warmup,
        iterations=args.iterations,
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what to analyse")
    what.add_argument(
        "configs", nargs="*", metavar="CONFIG", help="yaml files; paths, or below configs/"
    )
    what.add_argument(
        "--config-file", nargs="+", default=[], metavar="CONFIG", help="the same, by an option"
    )
    what.add_argument("--zoo", action="store_true", help="every architecture, plain and +")
    what.add_argument(
        "--table",
        nargs="+",
        default=[],
        metavar="N",
        help=f"tables of the paper: {', '.join(TABLES)}, or all",
    )
    what.add_argument(
        "--plot",
        metavar="FILE",
        help="draw FLOPs against input size, with LRSA and with quadratic attention",
    )
    what.add_argument(
        "--plot-sizes",
        nargs="+",
        type=_side,
        default=SIZES,
        metavar="SIDE",
        help=f"sides of the plot's inputs (default: {' '.join(map(str, SIZES))})",
    )
    how = parser.add_argument_group("of configs")
    how.add_argument(
        "--size",
        nargs=2,
        type=_side,
        default=(512, 512),
        metavar=("HEIGHT", "WIDTH"),
        help="of the network's input, multiples of 32 (default: 512 512)",
    )
    how.add_argument("--backbone", action="store_true", help="the encoder alone")
    how.add_argument("--depth", type=int, metavar="N", help="module by module, N names deep")
    how.add_argument("--opts", nargs="+", default=[], help="KEY VALUE pairs over the configs")
    out = parser.add_argument_group("output")
    out.add_argument("--format", choices=FORMATS, default="markdown")
    out.add_argument("--output", type=Path, metavar="FILE", help="default: print")
    time = parser.add_argument_group("time and memory")
    time.add_argument("--measure", action="store_true", help="measure them too")
    time.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: cpu)")
    time.add_argument("--dtype", choices=DTYPES, default="float32")
    time.add_argument("--batch", type=int, help="images at once (default: 1, or the paper's)")
    time.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    time.add_argument("--warmup", type=int, default=3, help="untimed passes (default: 3)")
    time.add_argument("--iterations", type=int, default=10, help="timed passes (default: 10)")
    args = parser.parse_args(argv)
    if not (args.configs or args.config_file or args.zoo or args.table or args.plot):
        parser.error("nothing to analyse: give CONFIG files, --zoo, --table or --plot")
    if args.depth is not None and args.depth < 0:
        parser.error(f"--depth cannot be negative: {args.depth}")
    return args


def _side(text: str) -> int:
    if not text.isdigit() or int(text) % 32 or int(text) == 0:
        raise argparse.ArgumentTypeError(f"a side must be a multiple of 32, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())

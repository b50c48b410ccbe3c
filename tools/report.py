#!/usr/bin/env python3
"""Put two reports of train_net.py --report side by side."""

import sys
from collections.abc import Sequence
from pathlib import Path

from lrformer import cli
from lrformer.report import compare

_EPILOG = """
example:
  train_net.py --config-file camvid/lrformer_t.yaml --eval-only --report t MODEL.WEIGHTS t.pth
  train_net.py --config-file camvid/lrformer_s.yaml --eval-only --report s MODEL.WEIGHTS s.pth
  report.py t s --output t_and_s.html
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (that of the process where it is None); the exit code."""
    parser = cli.parser(__doc__, _EPILOG)
    parser.add_argument("first", type=Path, help="folder of --report, or its report.json")
    parser.add_argument("second", type=Path, help="another one, about the same classes")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("comparison.html"),
        metavar="FILE",
        help="the page; differences as JSON beside it; default: comparison.html",
    )
    args = parser.parse_args(argv)
    if args.output.suffix != ".html":
        parser.error(f"--output {args.output}: expected a name that ends in .html")
    return cli.run(lambda: _compare(args.first, args.second, args.output))


def _compare(first: Path, second: Path, output: Path) -> None:
    difference = compare(first, second, output)["difference"]["mIoU"]
    low, high = difference.get("low"), difference.get("high")
    ends = "" if low is None else f" (95 % interval {low:+.2f} to {high:+.2f})"
    print(f"mIoU {difference['value']:+.2f}{ends}; the page: {output}")


if __name__ == "__main__":
    sys.exit(main())

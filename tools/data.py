#!/usr/bin/env python3
"""Look at a dataset of your own, before a model is trained on it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from lrformer import cli
from lrformer.data.own import find, load_spec, register
from lrformer.data.own.describe import describe, draw_samples, problems, scan
from lrformer.data.own.init import write_yaml

_EPILOG = """
examples:
  data.py init photos/ --output mine.yaml     write a yaml for a folder; change the names in it
  data.py describe mine.yaml                  images, sizes, how frequent classes are
  data.py check mine.yaml                     what is wrong, or looks so
  data.py show mine.yaml --output drawn       pictures of random images with their labels

Formats and the yaml's keys: docs/own_data.md. The exit code is 0; 1 if check found something; 2 if
the yaml, a file or the labels cannot be used.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (that of the process where it is None); the exit code."""
    args = _parse(argv)
    return cli.run(lambda: args.work(args))


def _init(args: argparse.Namespace) -> None:
    output = args.output or Path(f"{args.folder.resolve().name}.yaml")
    content = write_yaml(args.folder, output)
    print(yaml.safe_dump(content, sort_keys=False, default_flow_style=None), end="")
    print(f"written to {output}; next: tools/train_net.py --config-file lrformer_s --data {output}")


def _scanned(args: argparse.Namespace):
    found = find(load_spec(args.yaml))
    names = register(found, "semantic")
    return found, {split: scan(name) for split, name in names.items()}


def _describe(args: argparse.Namespace) -> None:
    print(describe(*_scanned(args)))


def _check(args: argparse.Namespace) -> int:
    found, scans = _scanned(args)
    lines = problems(found, scans)
    print(*lines, sep="\n")
    print(f"{len(lines)} problems in {sum(map(len, scans.values()))} images")
    return 1 if lines else 0


def _show(args: argparse.Namespace) -> None:
    names = register(find(load_spec(args.yaml)), "semantic")
    drawn = draw_samples(names.values(), args.output, args.limit, args.seed)
    print(f"drew {len(drawn)} images into {args.output}")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__, _EPILOG)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    init = commands.add_parser("init", help="write a yaml for a folder")
    init.add_argument("folder", type=Path)
    init.add_argument("--output", type=Path, metavar="FILE", help="default: <folder's name>.yaml")
    init.set_defaults(work=_init)
    for name, work, text in (
        ("describe", _describe, "images, sizes, how frequent classes are"),
        ("check", _check, "what is wrong, or looks so"),
        ("show", _show, "draw random images with their labels"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("yaml", type=Path, metavar="FILE.yaml")
        command.set_defaults(work=work)
    command.add_argument("--output", required=True, type=Path, metavar="DIR")
    command.add_argument("--limit", type=int, default=12, metavar="N", help="default: 12")
    command.add_argument("--seed", type=int, default=0, help="of the choice (default: 0)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())

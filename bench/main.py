"""The commands of ``tools/bench.py``."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from lrformer import cli
from lrformer.data.own import with_data

from . import count, curves, loading, referring, speed, table, training
from .report import render

COMMANDS = {
    "count": count,
    "table": table,
    "time": speed,
    "train": training,
    "load": loading,
    "curves": curves,
    "referring": referring,
}
_WITH_DATA = ("count", "train", "load")  # which take one CONFIG then
_STYLES = {".md": "markdown", ".json": "json", ".csv": "csv"}

_EPILOG = f"""
examples:
  bench.py count ade20k/lrformer_s.yaml --size 1024 2048 --depth 2
  bench.py count ade20k/lrformer_s.yaml --plot flops.png
  bench.py table 3 12
  bench.py time ade20k/lrformer_t.yaml segformer-b1 --variants eager accelerated --threads 2
  bench.py train ade20k/lrformer_s.yaml --variants float32 bfloat16 --against ../before
  bench.py load ade20k/lrformer_s.yaml --step-seconds 0.5
  bench.py load lrformer_s --data mine.yaml
  bench.py curves T=output/camvid_t B1=output/camvid_b1 --plot curves.png
{cli.OVERRIDES} The exit code is 0, or 2 for what cannot be measured.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (that of the process where it is None); the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = cli.parser("Count, time and compare models.", _EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        line = module.__doc__.splitlines()[0]
        own = commands.add_parser(name, help=line[0].lower() + line[1:-1], description=line)
        module.add_arguments(own)
        if name in _WITH_DATA:
            cli.add_data_option(own)
        own.add_argument(
            "--output", type=Path, metavar="FILE", help=".md, .json or .csv (default: print .md)"
        )
    args = cli.parse(parser, argv)
    return cli.run(lambda: _run(args, f"python tools/bench.py {shlex.join(argv)}"))


def _run(args, command: str) -> None:
    suffix = ".md" if args.output is None else args.output.suffix
    if suffix not in _STYLES:
        raise ValueError(f"--output {args.output}: the name must end in {', '.join(_STYLES)}")
    if getattr(args, "data", None):
        if len(args.configs) != 1:
            raise ValueError(f"--data takes one CONFIG; found {len(args.configs)}")
        args.config_file = args.configs[0]
        args.opts = with_data(args)
    text = render(COMMANDS[args.command].report(args), _STYLES[suffix], command)
    if args.output is None:
        sys.stdout.write(text)
    else:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(text, encoding="utf-8")

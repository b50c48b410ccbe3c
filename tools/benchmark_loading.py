#!/usr/bin/env python3
"""Images a second of a config's training mapper on one core; ``--help`` shows how."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from lrformer.analysis.formats import put
from lrformer.benchmark.loading import LoadingOptions, benchmark_loading, loading_markdown
from lrformer.benchmark.report import to_json

_EPILOG = r"""
Reading, augmenting and converting are timed step by step, on the config's dataset if it is on disk,
else on made-up scenes of its typical size.

examples:
  benchmark_loading.py --config-file ade20k/lrformer_s.yaml
  benchmark_loading.py --config-file cityscapes/lrformer_s.yaml --images 16 --rounds 3 \
      --step-seconds 0.5 --batch 8
  benchmark_loading.py --config-file camvid/lrformer_t.yaml --size-of-source 720 960
The exit code is 0, or 2 when something is wrong with the config, the dataset or the arguments.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (that of the process where it is None).

    Returns:
        The exit code, see above. Wrong arguments end the process with 2, as argparse does it.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    args = _parse(argv)
    try:
        options = LoadingOptions(
            images=args.images,
            rounds=args.rounds,
            size=None if args.size_of_source is None else tuple(args.size_of_source),
            step_seconds=args.step_seconds,
            batch=args.batch,
            opts=tuple(args.opts),
        )
        result = benchmark_loading(args.config_file, options)
        if args.format == "json":
            text = to_json(result)
        else:
            text = loading_markdown(result, f"python tools/benchmark_loading.py {shlex.join(argv)}")
        put(text, args.output)
    except (OSError, ValueError) as error:
        print(f"benchmark_loading.py: error: {error}", file=sys.stderr)
        return 2
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.partition(";")[0] + ".",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, metavar="CONFIG")
    parser.add_argument("--images", type=int, default=64, help="of a round (default: 64)")
    parser.add_argument("--rounds", type=int, default=5, help="timed (default: 5)")
    parser.add_argument(
        "--size-of-source",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="make images of this size up, whether or not the dataset is on disk",
    )
    parser.add_argument(
        "--step-seconds",
        type=float,
        metavar="SECONDS",
        help="of a training: say how many workers feed it",
    )
    parser.add_argument(
        "--batch", type=int, help="of that training (default: SOLVER.IMS_PER_BATCH of CONFIG)"
    )
    parser.add_argument("--format", choices=("markdown", "json"), default="markdown")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: print")
    parser.add_argument("--opts", nargs="+", default=[], help="KEY VALUE pairs over the config")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Time and memory of training steps, and where the time goes; ``--help`` shows how."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from lrformer.analysis.formats import put
from lrformer.analysis.training import VARIANTS, TrainingOptions, measure_training
from lrformer.analysis.training_report import markdown, to_json

_EPILOG = rf"""
A VARIANT is one or more of these, joined by "+":
{chr(10).join(f"  {name:16}{what}" for name, what in VARIANTS.items())}

examples:
  training_step.py ade20k/lrformer_s.yaml --threads 2 \
      --variants float32,bfloat16,checkpointing,bfloat16+checkpointing
  git worktree add ../before COMMIT
  training_step.py ade20k/lrformer_s.yaml --threads 2 --against ../before --profile
  training_step.py ade20k/lrformer_s.yaml --device cuda --batch 8 --size 1024 1024 \
      --variants float32,bfloat16 --output steps.json
The exit code is 0, or 2 for what cannot be measured.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (that of the process where it is None).

    Returns:
        The exit code, see above. Wrong arguments end the process with 2, as argparse does it.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    args = _parse(argv)
    try:
        if args.output is not None and args.output.suffix not in (".json", ".md"):
            raise ValueError(f"--output {args.output}: the name must end in .json or .md")
        options = TrainingOptions(
            size=tuple(args.size),
            batch=args.batch,
            device=args.device,
            threads=args.threads,
            rounds=args.rounds,
            repeats=args.repeats,
            release_memory=args.release_memory,
            opts=tuple(args.opts),
        )
        variants = args.variants.split(",")
        result = measure_training(args.configs, variants, options, args.against, args.profile)
        command = f"python tools/training_step.py {shlex.join(argv)}"
        as_json = args.output is not None and args.output.suffix == ".json"
        put((to_json if as_json else markdown)(result, command), args.output)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"training_step.py: error: {error}", file=sys.stderr)
        return 2
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.partition(";")[0] + ".",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="yaml file")
    parser.add_argument(
        "--variants",
        default="float32",
        metavar="VARIANT[,VARIANT ...]",
        help="see below; ratios are over the first (default: float32)",
    )
    parser.add_argument(
        "--against", metavar="DIR", help="checkout whose float32 step to measure as well"
    )
    parser.add_argument(
        "--profile", action="store_true", help="also say where the first variant's time goes"
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        default=(512, 512),
        metavar=("HEIGHT", "WIDTH"),
        help="of the images, multiples of 32 (default: 512 512)",
    )
    parser.add_argument("--batch", type=int, default=2, help="images of a step (default: 2)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: cpu)")
    parser.add_argument("--threads", type=int, help="on the CPU (default: PyTorch's choice)")
    parser.add_argument(
        "--rounds", type=int, default=7, help="timed steps of a process (default: 7)"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="processes of each row, in turn (default: 3)"
    )
    parser.add_argument(
        "--release-memory",
        action="store_true",
        help="let freed memory go back to the system, as training does not (CPUs)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help=".json or .md (default: print Markdown)"
    )
    parser.add_argument("--opts", nargs="+", default=[], help="KEY VALUE pairs over the configs")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())

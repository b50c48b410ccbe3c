#!/usr/bin/env python3
"""Speed of models and peers, in turn in one process; ``--help`` shows how."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from lrformer.analysis.formats import put
from lrformer.benchmark import OPTIONS, PEERS, BenchmarkOptions, benchmark, markdown, to_json
from lrformer.benchmark.cases import ENDS

_EPILOG = rf"""
A MODEL is a config or a peer, and may say its variants: MODEL:VARIANT[,VARIANT ...]; a VARIANT is
options joined by "+", of which there are
{chr(10).join(f"  {name:14}{what}" for name, what in OPTIONS.items())}
Peers, from Hugging Face's transformers (pip install 'lrformer[peers]'), randomly initialised:
  {", ".join(PEERS)}

examples:
  benchmark.py ade20k/lrformer_t.yaml:eager,fused+channels_last segformer-b1 --threads 2
  benchmark.py ade20k/lrformer_s.yaml segformer-b2 --variants eager channels_last+bf16 \
      --baseline segformer-b2:eager --format json --output speed.json
  benchmark.py ade20k/lrformer_s.yaml segformer-b2 --variants channels_last+bf16+cuda_graphs \
      --device cuda --batch 16
The exit code is 0, or 2 when something cannot be timed or computes something else.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (that of the process where it is None).

    Returns:
        The exit code, see above. Wrong arguments end the process with 2, as argparse does it.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    args = _parse(argv)
    try:
        options = BenchmarkOptions(
            size=tuple(args.size),
            batch=args.batch,
            device=args.device,
            threads=args.threads,
            warmup=args.warmup,
            rounds=args.rounds,
            end=args.end,
            num_classes=args.classes,
            keep_memory=not args.release_memory,
            opts=tuple(args.opts),
        )
        result = benchmark(_cases(args.models, args.variants), options, args.baseline)
        if args.format == "json":
            text = to_json(result)
        else:
            text = markdown(result, f"python tools/benchmark.py {shlex.join(argv)}")
        put(text, args.output)
    except (OSError, ValueError, ImportError) as error:
        print(f"benchmark.py: error: {error}", file=sys.stderr)
        return 2
    return 0


def _cases(models: Sequence[str], variants: Sequence[str]) -> list[tuple[str, str]]:
    cases = []
    for text in models:
        model, colon, own = text.rpartition(":")
        if colon:
            cases.extend((model, variant) for variant in own.split(","))
        else:
            # What only LRFormer has is left out for peers that are given it with the others.
            skipped = "fused" if text in PEERS else None
            cases.extend((text, v) for v in variants if skipped not in v.split("+"))
    return cases


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.partition(";")[0] + ".",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="see below")
    parser.add_argument(
        "--variants",
        nargs="+",
        default=["eager"],
        metavar="VARIANT",
        help="of every MODEL that does not say its own (default: eager)",
    )
    parser.add_argument(
        "--baseline", metavar="MODEL:VARIANT", help="to divide times by (default: the first)"
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        default=(512, 512),
        metavar=("HEIGHT", "WIDTH"),
        help="of the images, multiples of 32 (default: 512 512)",
    )
    parser.add_argument("--batch", type=int, default=1, help="images at once (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: cpu)")
    parser.add_argument("--threads", type=int, help="on the CPU (default: PyTorch's choice)")
    parser.add_argument("--warmup", type=int, default=2, help="untimed rounds (default: 2)")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds (default: 15)")
    parser.add_argument(
        "--end",
        choices=ENDS,
        default="logits",
        help="logits: what networks give, and what FLOPs are counted of; scores: of every class "
        "at the images' size (default: logits)",
    )
    parser.add_argument(
        "--release-memory",
        action="store_true",
        help="let freed memory go back to the system, as peers by themselves do (CPUs)",
    )
    parser.add_argument(
        "--classes", type=int, default=150, help="of peers; configs have theirs (default: 150)"
    )
    parser.add_argument("--format", choices=("markdown", "json"), default="markdown")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: print")
    parser.add_argument("--opts", nargs="+", default=[], help="KEY VALUE pairs over the configs")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())

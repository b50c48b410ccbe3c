#!/usr/bin/env python3
"""Time and memory of LRFormer+ before and after each of its optimisations; ``--help`` shows how."""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tabulate import tabulate

from lrformer.analysis.ablation import AblationRow, ablate, describe_machine
from lrformer.analysis.formats import put
from lrformer.analysis.measure import MeasureOptions
from lrformer.analysis.published import STEPS
from lrformer.modeling.build import inference_cfg

_EPILOG = r"""
examples:
  ablate_plus.py --config-file configs/ade20k/lrformer_plus_t.yaml --batch 2 --threads 2
  ablate_plus.py --config-file configs/ade20k/lrformer_plus_t.yaml --device cuda --dtype bfloat16 \
      --what training --pairs 30 --format json --output ablation.json

"before" is the formulation of the published Mask2Former, "after" is ours; both run in turn, in one
process. KEY VALUE pairs that override the config come last, after --opts.
"""

_REMARKS = """\
- Before: the published formulation of this part alone, or of all; after: ours. Times are medians;
  time after / before is the median of the ratios of neighbouring passes, with their quartiles.
- inference: images to class scores. training: forward, losses, backward; no optimizer's update.
- Memory: the peak of a step beyond the model and the inputs, {how}.
"""
_ON_GPU = "as PyTorch allocated it on the GPU"
_ON_CPU = "as the resident memory of a fresh process rose"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (that of the process where it is None).

    Returns:
        The exit code: 0, or 2 for what cannot be measured. Wrong arguments end the process with 2.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    args = _parse(argv)
    try:
        options = MeasureOptions(
            device=args.device,
            dtype=args.dtype,
            batch=args.batch,
            threads=args.threads,
            warmup=args.warmup,
            iterations=args.pairs,
        )
        cfg = inference_cfg(args.config_file, device=args.device, opts=args.opts)
        rows = ablate(cfg, tuple(args.size), options, args.what, args.instances)
        conditions = {
            "config": args.config_file,
            "height": args.size[0],
            "width": args.size[1],
            "batch": args.batch,
            "pairs": args.pairs,
            "instances": args.instances,
            **describe_machine(cfg, options),
        }
        text = (
            _json(rows, conditions) if args.format == "json" else _markdown(rows, conditions, argv)
        )
        put(text, args.output)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"ablate_plus.py: error: {error}", file=sys.stderr)
        return 2
    return 0


def _json(rows: Sequence[AblationRow], conditions: dict) -> str:
    """Seconds and bytes."""
    return (
        json.dumps({"conditions": conditions, "rows": [asdict(r) for r in rows]}, indent=2) + "\n"
    )


def _markdown(rows: Sequence[AblationRow], conditions: dict, argv: Sequence[str]) -> str:
    titles = [
        "step",
        "optimisation",
        *("time before", "after", "after / before (quartiles)"),
        *("memory before", "after", "after / before"),
    ]
    cells = [
        [
            row.step,
            row.optimisation,
            f"{row.time_before * 1e3:.1f} ms",
            f"{row.time_after * 1e3:.1f} ms",
            f"{row.time_ratio:.3f} ({row.time_ratio_p25:.3f}–{row.time_ratio_p75:.3f})",
            *(
                "–" if memory is None else f"{memory / 2**20:.0f} MiB"
                for memory in (row.memory_before, row.memory_after)
            ),
            "–" if row.memory_ratio is None else f"{row.memory_ratio:.3f}",
        ]
        for row in rows
    ]
    known = [
        f"{name.replace('_', ' ')}: {value}"
        for name, value in conditions.items()
        if value is not None
    ]
    return "\n".join(
        [
            f"Printed by `python tools/ablate_plus.py {shlex.join(argv)}`.\n",
            f"{', '.join(known)}.\n",
            tabulate(
                cells,
                titles,
                tablefmt="pipe",
                colalign=["left"] * 2 + ["right"] * 6,
                disable_numparse=True,
            ),
            "",
            _REMARKS.format(how=_ON_GPU if conditions["threads"] is None else _ON_CPU),
        ]
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0].partition(";")[0] + ".",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, help="yaml file of a semantic LRFormer+")
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        default=(512, 512),
        metavar=("HEIGHT", "WIDTH"),
        help="of the images (default: 512 512)",
    )
    parser.add_argument("--batch", type=int, default=1, help="images at once (default: 1)")
    parser.add_argument(
        "--pairs", type=_positive, default=10, help="timed passes of each of the two (default: 10)"
    )
    parser.add_argument(
        "--warmup", type=int, default=2, help="pairs before those, not timed (default: 2)"
    )
    parser.add_argument("--threads", type=int, help="of PyTorch on the CPU (default: its choice)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: cpu)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="bfloat16: under autocast (default: float32)",
    )
    parser.add_argument(
        "--what", nargs="+", choices=STEPS, default=STEPS, help="steps (default: both)"
    )
    parser.add_argument(
        "--instances", type=int, default=8, help="segments of a training image (default: 8)"
    )
    parser.add_argument("--format", choices=("markdown", "json"), default="markdown")
    parser.add_argument("--output", type=Path, help="file to write (default: standard output)")
    parser.add_argument("--opts", nargs="+", default=[], help="KEY VALUE pairs over the config")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())

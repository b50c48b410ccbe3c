#!/usr/bin/env python3
"""Export a model to ONNX or torch.export, for images of any size; ``--help`` shows how."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lrformer import build_model, cli
from lrformer.export import ExportOptions, export_model
from lrformer.export.onnx import OPSET
from lrformer.export.write import CHECK_SIZES, INPUTS, OUTPUTS
from lrformer.precision import DTYPES

_EPILOG = f"""
examples:
  export.py --config-file camvid/lrformer_t.yaml --weights model.pth --output model.onnx
  export.py --config-file ade20k/lrformer_plus_t.yaml --weights model.pth \\
      --result classes --output model.pt2

The file holds one function. "image" is a batch, N x 3 x H x W, of values 0 to 255 in the order of
INPUT.FORMAT (RGB in this project's configs); it is normalised, and padded to multiples of 32,
inside. "scores" are N x K x H x W, "classes" N x H x W. N, H and W may change from call to call.
What a test config does to an image before and after (INPUT.MIN_SIZE_TEST, INPUT.ALIGN_TEST,
TEST.SLIDING_WINDOW, TEST.AUG) is not in the file.

  onnxruntime.InferenceSession("model.onnx").run(None, {{"image": images}})    # NumPy
  torch.export.load("model.pt2").module()(images)                            # PyTorch

The file is run on images of two other sizes than it was made with, and its output compared with the
model's; where they differ nothing is written. ONNX needs pip install 'lrformer[export]'. The exit
code is 0, or 2 when something cannot be exported. {cli.OVERRIDES}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (that of the process where it is None); the exit code."""
    args = _parse(argv)
    return cli.run(lambda: _export(args))


def _export(args: argparse.Namespace) -> None:
    options = ExportOptions(args.result, args.image, args.dtype, args.opset)
    model = build_model(args.config_file, args.weights, args.device, args.opts)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    checks = export_model(model, args.output, options, args.check_size or CHECK_SIZES)
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")
    for check in checks:
        error = "" if check.error is None else f"relative error {check.error:.1e}, "
        print(
            f"checked at {check.size[0]} x {check.size[1]}: {error}the same class at "
            f"{100 * check.agreement:.3f} % of the pixels"
        )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__.partition(";")[0] + ".", _EPILOG)
    cli.add_model_options(parser)
    parser.set_defaults(device="cpu")
    parser.add_argument("--output", required=True, type=Path, help="FILE.onnx or FILE.pt2")
    parser.add_argument("--result", choices=OUTPUTS, default="scores", help="default: scores")
    parser.add_argument(
        "--image", choices=tuple(INPUTS), default="uint8", help="type of the images it takes"
    )
    parser.add_argument(
        "--dtype",
        choices=tuple(DTYPES),
        default="float32",
        help="to compute in; bfloat16 for .pt2 only (default: float32)",
    )
    parser.add_argument("--opset", type=int, default=OPSET, help=f"of ONNX (default: {OPSET})")
    parser.add_argument(
        "--check-size",
        nargs=2,
        type=int,
        action="append",
        metavar=("HEIGHT", "WIDTH"),
        help="check at this size instead; may be repeated",
    )
    return cli.parse(parser, argv)


if __name__ == "__main__":
    sys.exit(main())

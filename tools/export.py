#!/usr/bin/env python3
"""Export a model to ONNX, OpenVINO or torch.export, for images of any size; ``--help``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lrformer import cli
from lrformer.data.own import with_data
from lrformer.export import ExportOptions, calibration_images, export_model
from lrformer.export.graph import RESULTS
from lrformer.export.onnx import OPSET
from lrformer.export.write import CHECK_SIZES, EXPORT_DTYPES, IMAGES, check_file
from lrformer.modeling.build import inference_cfg, load_model

_EPILOG = f"""
examples:
  export.py --config-file camvid/lrformer_t.yaml --weights model.pth --output model.onnx
  export.py --config-file ade20k/lrformer_plus_t.yaml --weights model.pth \\
      --result classes --output model.pt2
  export.py --config-file camvid/lrformer_t.yaml --weights model.pth \\
      --dtype int8 --calibrate camvid_sem_seg_train --result logits --output model.xml

The suffix says the format: .onnx, .xml (OpenVINO, with the weights in a .bin beside it) or .pt2
(torch.export). The file holds one function. "image" is a batch, N x 3 x H x W, of values 0 to 255
in the order of INPUT.FORMAT (RGB in this project's configs); it is normalised, and padded to
multiples of 32, inside. "logits" are N x K x H/4 x W/4 of the padded image, "scores" N x K x H x W,
"classes" N x H x W. N, H and W may change from call to call. TEST.SLIDING_WINDOW and TEST.AUG are
not in the file; how test images are resized, and the classes' names and colours, are in its
metadata as JSON under "lrformer".

  visualize.py --weights model.onnx --input street.jpg --output drawn
  train_net.py --eval-only --config-file camvid/lrformer_t.yaml MODEL.WEIGHTS model.xml
  lrformer.Predictor.from_exported("model.xml")("street.jpg")
  onnxruntime.InferenceSession("model.onnx").run(None, {{"image": images}})    # NumPy
  torch.export.load("model.pt2").module()(images)                            # PyTorch

--dtype: float32; float16 (OpenVINO: of the weights; what to compute in is said when it is run, as
bfloat16 is); bfloat16 (.pt2); int8 (.onnx, .xml; quantized after training, by NNCF in OpenVINO and
by ONNX Runtime, with the images of --calibrate).
The file is run on images of two other sizes than it was made with, and its predictions compared
with the model's; where they differ nothing is written. It needs pip install 'lrformer[export]', but
for .pt2. The exit code is 0, or 2 when something cannot be exported. {cli.OVERRIDES}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (that of the process where it is None); the exit code."""
    args = _parse(argv)
    return cli.run(lambda: _export(args))


def _export(args: argparse.Namespace) -> None:
    options = ExportOptions(args.result, args.image, args.dtype, args.opset)
    check_file(args.output, options)
    cfg = inference_cfg(args.config_file, args.weights, args.device, with_data(args))
    images = []
    if args.calibrate is not None:
        images = calibration_images(cfg, args.calibrate, args.calibrate_images)
    sizes = args.check_size or CHECK_SIZES
    model = load_model(cfg)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    checks = export_model(cfg, model, args.output, options, sizes, images)
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
    parser.add_argument("--output", required=True, type=Path, help="FILE.onnx, .xml or .pt2")
    parser.add_argument("--result", choices=RESULTS, default="scores", help="default: scores")
    parser.add_argument(
        "--image", choices=tuple(IMAGES), default="uint8", help="type of the images it takes"
    )
    parser.add_argument(
        "--dtype", choices=EXPORT_DTYPES, default="float32", help="default: float32; see below"
    )
    parser.add_argument(
        "--calibrate", metavar="NAME", help="a dataset, or a folder of images, for --dtype int8"
    )
    parser.add_argument(
        "--calibrate-images", type=int, default=100, metavar="N", help="of them (default: 100)"
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
    args = cli.parse(parser, argv)
    if (args.dtype == "int8") != (args.calibrate is not None):
        parser.error("--dtype int8 and --calibrate NAME need each other")
    if args.calibrate_images < 1:
        parser.error(f"--calibrate-images is {args.calibrate_images}, expected at least 1")
    return args


if __name__ == "__main__":
    sys.exit(main())

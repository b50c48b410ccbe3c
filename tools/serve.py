"""Serve a trained model: a page in the browser, and an HTTP interface."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.utils.logger import setup_logger

from lrformer import cli
from lrformer.inference.exported import SUFFIXES
from lrformer.ops.host_memory import keep_freed_memory
from lrformer.predict import ModelFiles

_EPILOG = rf"""
examples:
  serve.py --config-file camvid/lrformer_t.yaml --weights output/camvid/model_best.pth
  serve.py --weights model.onnx --port 8080
  curl --data-binary @street.jpg http://127.0.0.1:8000/predict > labels.png

The page is at http://127.0.0.1:8000, the description of the HTTP interface at /docs.

{cli.OVERRIDES}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (that of the process where it is None); the exit code."""
    args = _parse(argv)
    return cli.run(lambda: _serve(args))


def _serve(args: argparse.Namespace) -> int:
    setup_logger(name="lrformer")
    try:
        import uvicorn

        from lrformer.serve.app import Limits, create_app
    except ImportError as error:
        raise ValueError(f"{error}; install what serves: pip install 'lrformer[serve]'") from error
    keep_freed_memory()
    files = [(args.config_file, args.weights)]
    if args.compare:
        *config_file, weights = args.compare
        exported = Path(weights).suffix in SUFFIXES
        files.append((*(config_file or [None if exported else args.config_file]), weights))
    predictors = {}
    for config_file, weights in files:
        name = "/".join(Path(weights or config_file).parts[-2:])
        model = ModelFiles(config_file, weights, args.device, tuple(args.opts))
        predictors[name] = model.open()
    limits = Limits(args.max_bytes, args.max_pixels, args.max_requests, args.max_seconds)
    app = create_app(predictors, limits, args.batch_size)
    uvicorn.run(app, host=args.host, port=args.port)
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__, _EPILOG)
    model = parser.add_argument_group("model")
    cli.add_model_options(model, config_required=False)
    model.add_argument(
        "--compare",
        nargs="+",
        metavar=("[CONFIG]", "WEIGHTS"),
        help="a second model, of the same config where none is given",
    )
    where = parser.add_argument_group("where and how much")
    where.add_argument(
        "--host", default="127.0.0.1", help="default: %(default)s, this machine only"
    )
    where.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    for option, default, text in (
        ("--batch-size", 1, "images of one size that go through a model at once"),
        ("--max-bytes", 20 * 2**20, "of an uploaded file"),
        ("--max-pixels", 4 * 2**20, "of an image"),
        ("--max-requests", 32, "at a time"),
        ("--max-seconds", 60, "for a request"),
    ):
        text = f"{text}; default: %(default)s"
        where.add_argument(option, type=int, default=default, metavar="N", help=text)
    args = cli.parse(parser, argv)
    cli.check_model_options(parser, args)
    if args.compare and len(args.compare) > 2:
        parser.error("--compare takes WEIGHTS, or CONFIG and WEIGHTS")
    for name in ("batch_size", "max_bytes", "max_pixels", "max_requests", "max_seconds"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}, expected 1 or more")
    return args


if __name__ == "__main__":
    sys.exit(main())

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
from lrformer.serve import Limits

_EPILOG = rf"""
examples:
  serve.py --config-file camvid/lrformer_t.yaml --weights output/camvid/model_best.pth
  serve.py --weights model.onnx --port 8080
  curl --data-binary @street.jpg http://127.0.0.1:8000/predict > labels.png

The page is at http://127.0.0.1:8000, the description of the HTTP interface at /docs.

{cli.OVERRIDES}
"""

_LIMITS = {
    "bytes": "of an uploaded file",
    "pixels": "of an image",
    "requests": "at a time",
    "seconds": "for a request",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (that of the process where it is None); the exit code."""
    args = _parse(argv)
    return cli.run(lambda: _serve(args))


def _serve(args: argparse.Namespace) -> int:
    setup_logger(name="lrformer")
    try:
        import uvicorn

        from lrformer.serve.app import create_app
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
        model = ModelFiles(config_file, weights, args.device, tuple(args.opts), args.data)
        predictors[name if name not in predictors else f"{name} (2)"] = model.open()
    limits = Limits(**{name: getattr(args, f"max_{name}") for name in _LIMITS})
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
    text = "images of one size that go through a model at once; default: 1"
    where.add_argument("--batch-size", type=int, default=1, metavar="N", help=text)
    for name, what in _LIMITS.items():
        default, text = getattr(Limits, name), f"{what}; default: %(default)s"
        where.add_argument(f"--max-{name}", type=int, default=default, metavar="N", help=text)
    args = cli.parse(parser, argv)
    cli.check_model_options(parser, args)
    if args.compare and len(args.compare) > 2:
        parser.error("--compare takes WEIGHTS, or CONFIG and WEIGHTS")
    for name in ("batch_size", *(f"max_{name}" for name in _LIMITS)):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}, expected 1 or more")
    return args


if __name__ == "__main__":
    sys.exit(main())

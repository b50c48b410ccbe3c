"""Write a trained model's predictions for many images: label maps, probabilities, COCO, GeoJSON."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from detectron2.utils.logger import setup_logger

from lrformer import cli
from lrformer.ops.host_memory import keep_freed_memory
from lrformer.predict import FORMATS, ModelFiles, PredictJob
from lrformer.predict.cluster import map_on_ray
from lrformer.visualization import collect, from_dataset

_EPILOG = rf"""
examples:
  predict.py --config-file camvid/lrformer_t.yaml --weights output/camvid/model_best.pth \
      --input photos/ "more/*.png" drive.mp4 shards/000.tar --output predicted --processes 4
  predict.py --weights model.onnx --input photos/ --format labels coco --output predicted
  predict.py --config-file ade20k/lrformer_s.yaml --weights model_best.pth --windows \
      --input tile.tif --format geojson --output predicted

An image's outputs are DIR/<format>/<name>, and COCO's json of all images is DIR/coco.json. Outputs
that are there already are kept, so that the same command goes on after a break.
{cli.OVERRIDES}
The exit code is 0 when every input was predicted, 1 when some were skipped, 2 when none was.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (that of the process where it is None); the exit code."""
    args = _parse(argv)
    return cli.run(lambda: _predict(args))


def _predict(args: argparse.Namespace) -> int:
    setup_logger(name="lrformer")
    if args.dataset:
        sources, missing = from_dataset(args.dataset), []
    else:
        sources, missing = collect(args.input, args.output)
    for problem in missing:
        print(f"skipped: {problem}", file=sys.stderr)
    if not sources:
        raise ValueError("nothing to predict")
    model = ModelFiles(args.config_file, args.weights, args.device, tuple(args.opts), args.data)
    job = PredictJob(model, args.output, tuple(args.format), args.windows)
    if not args.windows:
        keep_freed_memory()
    mapper = None
    if args.ray is not None:
        mapper = partial(map_on_ray, workers=args.processes, address=args.ray or None)
    skipped = job.run(sources, args.processes, mapper)
    predicted = len(sources) - len(skipped)
    print(f"predicted {predicted} of {len(sources) + len(missing)} inputs into {args.output}")
    if predicted == 0:
        return 2
    return 1 if missing or skipped else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__, _EPILOG)
    cli.add_model_options(parser.add_argument_group("model"), config_required=False)
    what = parser.add_argument_group("what to predict")
    inputs = what.add_mutually_exclusive_group(required=True)
    text = 'images, videos, folders, patterns ("**/*.jpg") or tar shards'
    inputs.add_argument("--input", nargs="+", metavar="PATH", help=text)
    inputs.add_argument("--dataset", metavar="NAME", help="a registered dataset's images")
    how = parser.add_argument_group("how to predict it")
    how.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write to")
    how.add_argument(
        "--format",
        nargs="+",
        choices=FORMATS,
        default=["labels"],
        help="labels: class indices as PNG files (default); probabilities, zarr: K x H x W float16 "
        "as npz or zarr files; coco: COCO's json with run-length encoded masks; geojson: polygons "
        "of georeferenced images",
    )
    how.add_argument(
        "--windows",
        action="store_true",
        help="predict images at their own size, however large, in sliding windows "
        "(TEST.SLIDING_WINDOW)",
    )
    text = "processes with a model each, on one machine; default: 1"
    how.add_argument("--processes", type=int, default=1, metavar="N", help=text)
    how.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="--processes workers on a Ray cluster; default: that of RAY_ADDRESS, or this machine",
    )
    args = cli.parse(parser, argv)
    cli.check_model_options(parser, args)
    if args.processes < 1:
        parser.error(f"--processes is {args.processes}, expected at least 1")
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"--output {args.output} is a file, expected a folder")
    return args


if __name__ == "__main__":
    sys.exit(main())

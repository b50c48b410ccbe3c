"""Draw a trained model's predictions on images or videos."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import get_cfg
from detectron2.utils.logger import setup_logger

from lrformer import Predictor
from lrformer.modeling.build import inference_cfg, load_model
from lrformer.visualization import (
    DrawJob,
    OutputError,
    Source,
    Style,
    collect,
    from_dataset,
    with_labels_from,
)

_EPILOG = r"""
examples:
  visualize.py --config-file camvid/lrformer_t.yaml --weights output/camvid/model_best.pth \
      --input street.jpg photos/ "more/*.png" drive.mp4 --output drawn
  visualize.py --config-file camvid/lrformer_t.yaml --weights output/camvid/model_best.pth \
      --dataset camvid_sem_seg_test --limit 20 --ground-truth --side-by-side --output drawn

KEY VALUE pairs that override the config come last, after another option than --input.
The exit code is 0 when every input was drawn, 1 when some were skipped, 2 when none was drawn.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (that of the process where it is None).

    Returns:
        The exit code, see above. Wrong arguments end the process with 2, as argparse does it.
    """
    args = _parse(argv)
    setup_logger(name="lrformer")
    try:
        cfg = inference_cfg(args.config_file, args.weights, args.device, args.opts)
        sources, problems = _sources(args)
    except (OSError, ValueError) as error:
        return _fail(error)
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    if not sources:
        print("nothing to draw", file=sys.stderr)
        return 2
    try:
        predictor = Predictor(cfg, load_model(cfg))
    except (OSError, ValueError) as error:
        return _fail(error)

    style = Style(
        alpha=args.alpha,
        names=not args.no_names,
        legend=not args.no_legend,
        scale=args.scale,
        side_by_side=args.side_by_side,
    )
    job = DrawJob(
        predict=predictor,
        metadata=predictor.metadata,
        output=args.output,
        style=style,
        suffix=f".{args.format}",
        label_maps=args.label_maps,
    )
    try:
        result = job.run(sources)
    except OutputError as error:
        return _fail(error)
    skipped = len(problems) + len(result.problems)
    print(f"drew {result.drawn} of {result.drawn + skipped} inputs into {args.output}")
    if result.drawn == 0:
        return 2
    return 1 if skipped else 0


def _sources(args: argparse.Namespace) -> tuple[list[Source], list[str]]:
    if args.dataset:
        labelled = args.ground_truth == ""
        sources, problems = from_dataset(args.dataset, ground_truth=labelled), []
    else:
        sources, problems = collect(args.input, args.output)
    sources = sources[: args.limit]
    if args.ground_truth:
        sources = with_labels_from(sources, Path(args.ground_truth))
    return sources, problems


def _fail(error: Exception) -> int:
    print(f"visualize.py: error: {error}", file=sys.stderr)
    return 2


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--config-file", required=True, metavar="FILE", help="a path, or one below configs/"
    )
    model.add_argument(
        "--weights", metavar="FILE", help="checkpoint; or MODEL.WEIGHTS FILE among the overrides"
    )
    model.add_argument("--device", help="cpu, cuda, cuda:1, …; default: a GPU if there is one")
    model.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the config"
    )
    what = parser.add_argument_group("what to draw")
    inputs = what.add_mutually_exclusive_group(required=True)
    inputs.add_argument(
        "--input",
        nargs="+",
        metavar="PATH",
        help='images, videos, folders (with their sub-folders) or patterns ("a/**/*.jpg")',
    )
    inputs.add_argument("--dataset", metavar="NAME", help="a registered dataset's images")
    what.add_argument("--limit", type=int, metavar="N", help="only the first N files")
    what.add_argument(
        "--ground-truth",
        nargs="?",
        const="",
        metavar="DIR",
        help="also draw the label maps: DIR/<name>.png for <name>.jpg; without DIR the dataset's",
    )
    how = parser.add_argument_group("how to draw it")
    how.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write to")
    how.add_argument("--format", choices=("png", "jpg"), default="png", help="of the pictures")
    how.add_argument(
        "--alpha", type=float, default=Style.alpha, help="opacity of the colours, %(default)s"
    )
    how.add_argument(
        "--scale", type=float, default=Style.scale, help="times the image's size, %(default)s"
    )
    how.add_argument(
        "--side-by-side", action="store_true", help="put the image beside its prediction"
    )
    how.add_argument("--no-names", action="store_true", help="no class names in the segments")
    how.add_argument("--no-legend", action="store_true", help="no legend below the picture")
    how.add_argument(
        "--label-maps", action="store_true", help="also write class indices to DIR/label_maps"
    )
    args = parser.parse_args(argv)
    _check(parser, args)
    return args


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    misplaced = [text for text in args.opts if text.startswith("--")]
    if misplaced:
        parser.error(f"{misplaced[0]} comes after KEY VALUE pairs; they come last")
    known = get_cfg()
    keys = [s for s in args.input or () if s.split(".")[0] in known and not Path(s).exists()]
    if keys:
        parser.error(
            f"{keys[0]} would be read as an --input; put another option before the overrides: "
            f"--input … --output … {keys[0]} …"
        )
    if not args.weights and "MODEL.WEIGHTS" not in args.opts[::2]:
        parser.error(
            "no weights: give --weights FILE; an untrained model's predictions are random, and "
            "MODEL.WEIGHTS in a config is usually what training started from"
        )
    if not 0 <= args.alpha <= 1:
        parser.error(f"--alpha is {args.alpha}, expected 0 (invisible) to 1 (opaque)")
    if args.scale <= 0:
        parser.error(f"--scale is {args.scale}, expected more than 0")
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit is {args.limit}, expected at least 1")
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"--output {args.output} is a file, expected a folder")
    if args.ground_truth == "" and not args.dataset:
        parser.error("--ground-truth without a folder takes the labels of a --dataset; give either")
    if args.ground_truth and not Path(args.ground_truth).is_dir():
        parser.error(f"--ground-truth {args.ground_truth} is not a folder")


if __name__ == "__main__":
    sys.exit(main())

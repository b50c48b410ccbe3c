"""Draw a trained model's predictions on images or videos."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import get_cfg
from detectron2.utils.logger import setup_logger

from lrformer import Predictor
from lrformer.inference import TASK_KEYS, TaskError, predicted_tasks
from lrformer.inference.options import DTYPES
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

Of what the model predicts, the first of panoptic, instance and semantic is drawn; --task chooses
another. What LRFormer+ predicts is set by SEMANTIC_ON, INSTANCE_ON and PANOPTIC_ON of
MODEL.MASK_FORMER.TEST.
KEY VALUE pairs that override the config come last, after another option than --input.
The exit code is 0 when every input was drawn, 1 when some were skipped, 2 when none was drawn.
"""

# The names on the command line and in a model's output; the first that is predicted is drawn.
_TASKS = {"panoptic": "panoptic_seg", "instance": "instances", "semantic": "sem_seg"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (that of the process where it is None).

    Returns:
        The exit code, see above. Wrong arguments end the process with 2, as argparse does it.
    """
    args = _parse(argv)
    setup_logger(name="lrformer")
    try:
        opts = [*args.opts, *_runtime(args)]
        cfg = inference_cfg(args.config_file, args.weights, args.device, opts)
        task = _task(args, predicted_tasks(cfg))
        sources, problems = _sources(args, task)
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
        score_threshold=args.score_threshold,
    )
    job = DrawJob(
        predict=predictor if task == "sem_seg" else lambda x: predictor.predict(x, task)[task],
        metadata=predictor.metadata,
        output=args.output,
        style=style,
        suffix=f".{args.format}",
        label_maps=args.label_maps,
        task=task,
    )
    try:
        result = job.run(sources)
    except (OutputError, TaskError) as error:
        return _fail(error)
    skipped = len(problems) + len(result.problems)
    print(f"drew {result.drawn} of {result.drawn + skipped} inputs into {args.output}")
    if result.drawn == 0:
        return 2
    return 1 if skipped else 0


def _runtime(args: argparse.Namespace) -> list[str]:
    """The overrides that --dtype and --compile stand for."""
    dtype = ["TEST.RUNTIME.DTYPE", args.dtype] if args.dtype else []
    return dtype + (["TEST.RUNTIME.COMPILE", "True"] if args.compile else [])


def _task(args: argparse.Namespace, predicted: tuple[str, ...] | None) -> str:
    """What to draw of what the model predicts (None: not known), as its output names it."""
    if args.task:
        task = _TASKS[args.task]
        if predicted is not None and task not in predicted:
            names = [name for name, predicted_task in _TASKS.items() if predicted_task in predicted]
            raise ValueError(
                f"--task {args.task}: the model predicts {' and '.join(names)} only. LRFormer+ "
                f"predicts it with {TASK_KEYS[task]} True among the overrides (its training has to "
                "have been for it); with TEST.SLIDING_WINDOW or TEST.AUG it predicts semantic only"
            )
        return task
    return next((task for task in _TASKS.values() if task in (predicted or ())), "sem_seg")


def _sources(args: argparse.Namespace, task: str) -> tuple[list[Source], list[str]]:
    if args.ground_truth and task != "sem_seg":
        raise ValueError(
            f"--ground-truth {args.ground_truth}: a folder holds label maps, which are ground "
            "truth of --task semantic only; that of other tasks is a --dataset's"
        )
    if args.dataset:
        truth = task if args.ground_truth == "" else None
        sources, problems = from_dataset(args.dataset, ground_truth=truth), []
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
        "--dtype",
        choices=DTYPES,
        help="what to compute in; auto: bfloat16 where the device has it, which is faster and "
        "rounds more; default: float32, or TEST.RUNTIME.DTYPE of the config",
    )
    model.add_argument(
        "--compile",
        action="store_true",
        help="with torch.compile: the first images take minutes, so for many images",
    )
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
        help="also draw the ground truth: of the dataset, or with DIR the label maps "
        "DIR/<name>.png of <name>.jpg",
    )
    what.add_argument(
        "--task", choices=_TASKS, help="which of the predictions to draw; default: see below"
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
        "--score-threshold",
        type=float,
        default=Style.score_threshold,
        metavar="SCORE",
        help="instances below it are not drawn, %(default)s",
    )
    how.add_argument(
        "--side-by-side", action="store_true", help="put the image beside its prediction"
    )
    how.add_argument("--no-names", action="store_true", help="no class names in the segments")
    how.add_argument("--no-legend", action="store_true", help="no legend below the picture")
    how.add_argument(
        "--label-maps",
        action="store_true",
        help="also write the predictions themselves to DIR/label_maps: class indices as PNG files; "
        "of instances, whatever their score, COCO's results as instances.json; of panoptic "
        "segments COCO's PNG files and panoptic.json",
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
    if not 0 <= args.score_threshold <= 1:
        parser.error(f"--score-threshold is {args.score_threshold}, expected 0 (all) to 1")
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

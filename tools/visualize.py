"""Draw a trained model's predictions on images or videos."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from detectron2.utils.logger import setup_logger

from lrformer import Predictor, cli
from lrformer.data.own import with_data
from lrformer.inference import load_exported, predicted_tasks
from lrformer.modeling.build import inference_cfg, load_model
from lrformer.ops.host_memory import keep_freed_memory
from lrformer.precision import NAMES
from lrformer.visualization import (
    DrawJob,
    Source,
    Style,
    collect,
    from_dataset,
    with_labels_from,
    with_phrases,
)

_EPILOG = rf"""
examples:
  visualize.py --config-file camvid/lrformer_t.yaml --weights output/camvid/model_best.pth \
      --input street.jpg photos/ "more/*.png" drive.mp4 --output drawn
  visualize.py --config-file camvid/lrformer_t.yaml --weights output/camvid/model_best.pth \
      --dataset camvid_sem_seg_test --limit 20 --ground-truth --side-by-side --output drawn
  visualize.py --weights model.onnx --input street.jpg --output drawn

Files of export.py (.onnx, .xml, .pt2) need no config and run on the CPU unless --device says where.
Of what the model predicts, the first of panoptic, instance and semantic is drawn; --task chooses
another. What LRFormer+ predicts is set by SEMANTIC_ON, INSTANCE_ON and PANOPTIC_ON of
MODEL.MASK_FORMER.TEST.
{cli.OVERRIDES}
The exit code is 0 when every input was drawn, 1 when some were skipped, 2 when none was drawn.
"""

# The names on the command line and in a model's output; the first that is predicted is drawn.
_TASKS = {
    "panoptic": "panoptic_seg",
    "instance": "instances",
    "semantic": "sem_seg",
    "referring": "referring",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (that of the process where it is None); the exit code."""
    args = _parse(argv)
    return cli.run(lambda: _draw(args))


def _draw(args: argparse.Namespace) -> int:
    setup_logger(name="lrformer")
    style = Style(**{field.name: getattr(args, field.name) for field in fields(Style)})
    opts = with_data(args) + (["TEST.RUNTIME.DTYPE", args.dtype] if args.dtype else [])
    opts += ["TEST.RUNTIME.COMPILE", True] if args.compile else []
    if args.config_file is None:
        cfg, model = load_exported(args.weights, args.device, opts)
    else:
        cfg, model = inference_cfg(args.config_file, args.weights, args.device, opts), None
    predicted = predicted_tasks(cfg) or ("sem_seg",)
    task = _TASKS.get(args.task) or next(task for task in _TASKS.values() if task in predicted)

    if args.dataset:
        truth = task if args.ground_truth == "" else None
        sources, missing = from_dataset(args.dataset, truth), []
    else:
        sources, missing = collect(args.input, args.output)
    if args.phrase:
        if task != "referring":
            raise ValueError(f"--phrase is for LISA; this model predicts {', '.join(predicted)}")
        sources = with_phrases(sources, [{"phrase": phrase} for phrase in args.phrase])
    sources = sources[: args.limit]
    if task == "referring":
        _check_phrases(args, sources)
    if args.ground_truth:
        if task != "sem_seg":
            raise ValueError("--ground-truth DIR: label maps are truth of --task semantic only")
        sources = with_labels_from(sources, Path(args.ground_truth))
    for problem in missing:
        print(f"skipped: {problem}", file=sys.stderr)
    if not sources:
        raise ValueError("nothing to draw")

    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    predictor = Predictor(cfg, model or load_model(cfg))
    job = DrawJob(predictor, args.output, task, style, f".{args.format}", args.label_maps)
    unread = job.run(sources)
    drawn = len(sources) - len(unread)
    print(f"drew {drawn} of {len(sources) + len(missing)} inputs into {args.output}")
    if drawn == 0:
        return 2
    return 1 if missing or unread else 0


def _check_phrases(args: argparse.Namespace, sources: Sequence[Source]) -> None:
    if args.label_maps:
        raise ValueError("--label-maps: there are none of phrases")
    if any(source.is_video for source in sources):
        raise ValueError("--task referring draws images, not videos")
    if any(source.phrase is None for source in sources):
        raise ValueError('--phrase "the red car": what is to be segmented is not given')


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__, _EPILOG)
    model = parser.add_argument_group("model")
    cli.add_model_options(model, config_required=False)
    model.add_argument(
        "--dtype", choices=NAMES, help="to compute in; default: TEST.RUNTIME.DTYPE of the config"
    )
    model.add_argument(
        "--compile", action="store_true", help="torch.compile it: minutes, so for many images"
    )
    what = parser.add_argument_group("what to draw")
    inputs = what.add_mutually_exclusive_group(required=True)
    text = 'images, videos, folders or patterns ("**/*.jpg")'
    inputs.add_argument("--input", nargs="+", metavar="PATH", help=text)
    inputs.add_argument("--dataset", metavar="NAME", help="a registered dataset's images")
    what.add_argument("--limit", type=int, metavar="N", help="only the first N files")
    what.add_argument(
        "--ground-truth",
        nargs="?",
        const="",
        metavar="DIR",
        help="also draw the ground truth: the dataset's, or the label maps DIR/<name>.png",
    )
    what.add_argument(
        "--phrase",
        nargs="+",
        metavar="TEXT",
        help='what to segment, for LISA: "the red car" "where may I walk?"; a picture each',
    )
    what.add_argument("--task", choices=_TASKS, help="which prediction to draw; default: see below")
    how = parser.add_argument_group("how to draw it")
    how.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write to")
    how.add_argument("--format", choices=("png", "jpg"), default="png", help="of the pictures")
    for option, default, text in (
        ("--alpha", Style.alpha, "opacity of the colours, 0 to 1"),
        ("--scale", Style.scale, "times the image's size"),
        ("--score-threshold", Style.score_threshold, "instances of a lower score are not drawn"),
    ):
        text = f"{text}; default: {default}"
        how.add_argument(option, type=float, default=default, metavar="X", help=text)
    how.add_argument("--side-by-side", action="store_true", help="the image beside its prediction")
    how.add_argument("--no-names", dest="names", action="store_false", help="no names in segments")
    how.add_argument("--no-legend", dest="legend", action="store_false", help="no legend below")
    how.add_argument(
        "--label-maps",
        action="store_true",
        help="also write the predictions to DIR/label_maps: class indices as PNG files, instances "
        "(whatever their score) as COCO's results, panoptic segments as COCO's PNG and json files",
    )
    args = cli.parse(parser, argv)
    cli.check_model_options(parser, args)
    if args.phrase and args.dataset:
        parser.error("--phrase is for --input; a --dataset has phrases of its own")
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit is {args.limit}, expected at least 1")
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"--output {args.output} is a file, expected a folder")
    if args.ground_truth == "" and not args.dataset:
        parser.error("--ground-truth without a folder takes the labels of a --dataset; give either")
    if args.ground_truth and not Path(args.ground_truth).is_dir():
        parser.error(f"--ground-truth {args.ground_truth} is not a folder")
    return args


if __name__ == "__main__":
    sys.exit(main())

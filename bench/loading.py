"""Images a second of configs' training mappers on one core, and workers that feed a step."""

import argparse
import logging
import math
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng

from lrformer import load_cfg
from lrformer.data import DatasetError, load_dataset
from lrformer.data.build import build_mapper, mapper_class

from .inputs import write_scenes
from .meters import spread, time_in_turn
from .options import positive
from .report import Record, Report, Table

logger = logging.getLogger(__name__)

# Height, width and kind of a dataset's images, by the beginning of its name.
_TYPICAL = {
    "ade20k": (512, 683, ".jpg"),
    "camvid": (360, 480, ".jpg"),
    "cityscapes": (1024, 2048, ".png"),
    "coco": (480, 640, ".jpg"),
    "demo_scenes": (192, 256, ".jpg"),
}
_SCENES = 8  # that are made up; with more images they repeat, each time cropped differently
_REMARKS = (
    "Reading, augmenting and converting, in one process with one thread, as in a worker of a data "
    "loader; files come from the system's cache. Times are an image's, medians over the rounds "
    "with quartiles; every round draws the same random numbers.",
    "Workers: each on a core of its own, so many bring the images of the steps.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("configs", nargs="+", metavar="CONFIG")
    parser.add_argument("--images", type=positive, default=64, help="of a round (default: 64)")
    parser.add_argument("--rounds", type=positive, default=5, help="default: 5")
    parser.add_argument(
        "--made-up",
        nargs=2,
        type=positive,
        metavar=("HEIGHT", "WIDTH"),
        help="make images of this size up; default: the dataset's, or such if it is not on disk",
    )
    parser.add_argument(
        "--step-seconds", type=float, metavar="SECONDS", help="say how many workers feed such steps"
    )
    parser.add_argument("--batch", type=positive, help="of a step; default: SOLVER.IMS_PER_BATCH")


def report(args: argparse.Namespace) -> Report:
    """Raises ValueError for arguments, a config or a dataset that cannot be used."""
    if args.step_seconds is not None and not 0 < args.step_seconds < math.inf:
        raise ValueError(f"--step-seconds must be above 0, not {args.step_seconds}")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    records = [_record(config, args) for config in args.configs]
    remarks = _REMARKS if args.step_seconds else _REMARKS[:1]
    conditions = {"images": args.images, "rounds": args.rounds}
    return Report([Table(records, remarks=remarks)], conditions)


def _record(config: str, args: argparse.Namespace) -> Record:
    cfg = load_cfg(config, args.opts)
    mapper = build_mapper(cfg, is_train=True)
    with tempfile.TemporaryDirectory() as folder:
        files, source = _files(cfg, args, Path(folder))

        def run() -> None:
            for seed, file in enumerate(files):
                seed_all_rng(seed)
                mapper(file)

        height, width = mapper(files[0])["image"].shape[1:]
        times = time_in_turn({config: run}, args.rounds, warmup=1)[config] / len(files)
        size_on_disk = np.mean([Path(file["file_name"]).stat().st_size for file in files])
    time = spread("time", times)
    record = {
        "config": config,
        "images": f"{source}, {size_on_disk / 1000:.0f} kB",
        "first sample": f"{height} × {width}",
        **time,
        "images_per_second": 1 / time["time"],
    }
    if args.step_seconds:
        batch = args.batch or cfg.SOLVER.IMS_PER_BATCH
        record["batch"] = batch
        record["workers"] = math.ceil(batch / args.step_seconds * time["time"])
    return record


def _files(cfg: CfgNode, args: argparse.Namespace, folder: Path) -> tuple[list[dict], str]:
    """Dataset dicts, and what they are."""
    names = cfg.DATASETS.TRAIN
    if args.made_up is None and names:
        try:
            records = [record for name in names for record in load_dataset(name)]
        except DatasetError as error:
            logger.warning(f"images are made up: {error}")
        else:
            step = max(1, len(records) // args.images)
            return records[::step][: args.images], f"of {', '.join(names)}"
    typical = [size for prefix, size in _TYPICAL.items() if "".join(names).startswith(prefix)]
    *size, suffix = (typical or [_TYPICAL["ade20k"]])[0]
    height, width = args.made_up or size
    kind = mapper_class(cfg.INPUT.DATASET_MAPPER_NAME).annotation
    count, classes = min(args.images, _SCENES), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    made = write_scenes(count, (height, width), classes, kind, folder, suffix)
    return [made[i % count] for i in range(args.images)], f"made up, {height} × {width} {suffix}"

"""What a dataset's yaml changes in a config: everything that follows from the data."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ...config import load_cfg
from ..reading import image_size
from ..tree import DatasetError
from .dataset import Found, default_ignore_label, find, register
from .spec import load_spec

_SIZED_IMAGES = 200  # that the typical size is found from
_SIDES = (128, 1024)  # the least and the largest short side that images are resized to
_EPOCHS = 150
_LEAST_ITERATIONS = 2000
_EVALUATIONS = 20


def with_data(args: argparse.Namespace) -> list:
    """The command line's KEY VALUE pairs, after those that ``--data`` leads to where it is given.

    The dataset is registered, and converted where it has to be, see :mod:`.dataset`.

    Raises:
        DatasetError: the yaml or the data cannot be used.
        ConfigError, FileNotFoundError: see :func:`~lrformer.config.load_cfg`.
    """
    if args.data is None:
        return args.opts
    opts = [*args.opts]
    if getattr(args, "weights", None):
        opts += ["MODEL.WEIGHTS", args.weights]
    return [*data_opts(load_cfg(args.config_file, opts), args.data), *args.opts]


def data_opts(cfg: CfgNode, file: str | Path) -> list[str]:
    """``[key, value, …]``, as on a command line, that fit ``cfg`` to a yaml's dataset.

    It is registered. They set the datasets, the number of classes and the ignore label; the task,
    where the model can learn several; sizes, from the median of the images'; the schedule, from
    their number; and where no weights are given the learning rates and layer scales that suit a
    training from scratch.
    """
    found, names = register_data(cfg, file)
    task = task_of(cfg, found)
    classes = found.classes.names if task == "semantic" else found.things
    opts: dict[str, Any] = {
        "DATASETS.TRAIN": (names["train"],) if "train" in names else (),
        "DATASETS.TEST": tuple(names[x] for x in ("val", "test") if x in names)[:1],
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": len(classes),
        "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": _ignore_label(names, len(classes)),
    }
    if cfg.MODEL.META_ARCHITECTURE == "MaskFormer":
        opts["INPUT.DATASET_MAPPER_NAME"] = f"mask_former_{task}"
        for other in ("semantic", "instance", "panoptic"):
            opts[f"MODEL.MASK_FORMER.TEST.{other.upper()}_ON"] = other == task
    files = [str(x) for images in found.images.values() for x in images.values()]
    opts |= _sizes(cfg, files)
    opts |= _schedule(cfg, len(found.images.get("train", ())))
    if not cfg.MODEL.WEIGHTS:
        opts |= _from_scratch(cfg)
    counts = ", ".join(f"{len(images)} of {split}" for split, images in found.images.items())
    print(f"{file}: {found.kind}, {task} segmentation, {len(classes)} classes; images: {counts}")
    return [str(x) for pair in opts.items() for x in pair]


def register_data(cfg: CfgNode, file: str | Path) -> tuple[Found, dict[str, str]]:
    """Register a yaml's dataset for what ``cfg``'s model learns; what was found, and the names."""
    found = find(load_spec(file))
    return found, register(found, task_of(cfg, found))


def task_of(cfg: CfgNode, found: Found) -> str:
    """What is learnt: what the yaml says, or the richest that labels and model are for."""
    if cfg.MODEL.META_ARCHITECTURE == "MaskFormer":
        return found.spec.task or found.tasks[0]
    if found.spec.task not in (None, "semantic"):
        raise DatasetError(
            f"{found.spec.file}: task is {found.spec.task}, which only LRFormer+ learns: "
            "--config-file lrformer_plus_s, for example."
        )
    return "semantic"


def _ignore_label(names: dict[str, str], num_classes: int) -> int:
    metadata = MetadataCatalog.get(next(iter(names.values())))
    return metadata.get("ignore_label", default_ignore_label(num_classes))


def _sizes(cfg: CfgNode, files: Sequence[str]) -> dict[str, Any]:
    """Sizes in proportion to the config's, so that images are seen at about their own size."""
    spread = np.linspace(0, len(files) - 1, min(len(files), _SIZED_IMAGES), dtype=int)
    sizes = np.sort([image_size(files[i]) for i in spread], axis=1)
    short, long = (int(side) for side in np.median(sizes, axis=0))
    side = int(np.clip(short, *_SIDES))
    factor = side / cfg.INPUT.MIN_SIZE_TEST
    shorts = tuple(round(factor * x) for x in cfg.INPUT.MIN_SIZE_TRAIN)
    crop = [min(x, -(-side // 32) * 32) for x in cfg.INPUT.CROP.SIZE]
    longest = round(long * side / short)
    return {
        "INPUT.MIN_SIZE_TRAIN": shorts,
        "INPUT.MAX_SIZE_TRAIN": round(longest * max(shorts) / side),
        "INPUT.MIN_SIZE_TEST": side,
        "INPUT.MAX_SIZE_TEST": longest,
        "INPUT.CROP.SIZE": crop,
        "INPUT.SIZE_DIVISIBILITY": max(crop),
        "TEST.AUG.MIN_SIZES": [round(factor * x) for x in cfg.TEST.AUG.MIN_SIZES],
        "TEST.AUG.MAX_SIZE": round(2 * longest),
    }


def _schedule(cfg: CfgNode, num_images: int) -> dict[str, Any]:
    solver = cfg.SOLVER
    wanted = max(_LEAST_ITERATIONS, _EPOCHS * num_images // solver.IMS_PER_BATCH)
    iterations = min(solver.MAX_ITER, wanted)
    period = max(1, iterations // _EVALUATIONS)
    return {
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.WARMUP_ITERS": min(solver.WARMUP_ITERS, period),
        "SOLVER.CHECKPOINT_PERIOD": period,
        "TEST.EVAL_PERIOD": period,
    }


def _from_scratch(cfg: CfgNode) -> dict[str, Any]:
    """As configs/camvid: the head's rate for all, layer scales that start at 0.1."""
    opts = {
        "SOLVER.BASE_LR": cfg.SOLVER.BASE_LR * cfg.SOLVER.HEAD_MULTIPLIER,
        "SOLVER.HEAD_MULTIPLIER": 1.0,
        "SOLVER.BACKBONE_MULTIPLIER": 1.0,
        "MODEL.SEM_SEG_HEAD.LAYER_SCALE_INIT": 0.1,
    }
    scales = cfg.MODEL.LRFORMER.LAYER_SCALE_INIT
    opts["MODEL.LRFORMER.LAYER_SCALE_INIT"] = [0.1 if scale else 0.0 for scale in scales]
    return opts

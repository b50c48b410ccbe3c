"""Images a second of a config's training mapper on one core, step by step."""

import logging
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from detectron2.utils.env import seed_all_rng
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from ..analysis.measure import device_name
from ..config import load_cfg
from ..data import DatasetError, load_dataset
from ..data.build import build_mapper, mapper_class
from ..data.demo_annotations import panoptic_image
from ..data.mappers import SegmentationMapper
from ..data.street_scene import MIN_SIDE, Scene, render_scene
from .cases import BenchmarkError
from .report import spread_text
from .run import Spread

logger = logging.getLogger(__name__)

# Height, width and kind of a dataset's images, by the beginning of its name.
_TYPICAL = {
    "ade20k": (512, 683, ".jpg"),
    "camvid": (360, 480, ".jpg"),
    "cityscapes": (1024, 2048, ".png"),
    "coco": (480, 640, ".jpg"),
    "demo_scenes": (192, 256, ".jpg"),
}
_OTHERS = (512, 683, ".jpg")
_READ_TRUTH = {
    "sem_seg_file_name": "read the label map",
    "annotations": "check the objects",
    "pan_seg_file_name": "read the panoptic map",
}
_JPEG_QUALITY = 93
_SCENES = 8  # that are made up; with more images they repeat, each time cropped differently

_REMARKS = """\
- One process with one thread, as a worker of a data loader; files come from the system's cache.
  Times are medians over the rounds, in brackets their quartiles; every round draws the same random
  numbers.
- Steps are those of the mapper. "The rest" is what lies between them: checks, padding and the
  image's tensor.
"""


@dataclass(frozen=True)
class LoadingOptions:
    """How to measure.

    Attributes:
        images: of a round.
        rounds: timed, after one that is not.
        size: (height, width) of made-up images; None: images of the config's dataset, if it is on
            disk, else made-up ones of its typical size.
        step_seconds: of a training that is to be fed; None: none is.
        batch: its images at once; None: SOLVER.IMS_PER_BATCH.
        opts: KEY, VALUE, … over the config.
    """

    images: int = 64
    rounds: int = 5
    size: tuple[int, int] | None = None
    step_seconds: float | None = None
    batch: int | None = None
    opts: tuple = ()

    def __post_init__(self):
        for name in ("images", "rounds", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BenchmarkError(f"{name} must be at least 1, not {value}")
        if self.size is not None and min(self.size) < MIN_SIDE:
            raise BenchmarkError(
                f"sides of made-up images must be at least {MIN_SIDE}, not "
                f"{self.size[0]} x {self.size[1]}"
            )
        if self.step_seconds is not None and not 0 < self.step_seconds < math.inf:
            raise BenchmarkError(f"step_seconds must be above 0, not {self.step_seconds}")
        if self.batch is not None and self.step_seconds is None:
            raise BenchmarkError("batch is of a training that is to be fed: give step_seconds too")


@dataclass(frozen=True)
class Step:
    """A step of the mapper.

    Attributes:
        name: what it does.
        seconds: an image, the mean of a round.
        share: of the mapper's time, of the medians.
    """

    name: str
    seconds: Spread
    share: float


@dataclass(frozen=True)
class Feeding:
    """What a training needs.

    Attributes:
        step_seconds, batch: of the training.
        images_per_second: that it takes.
        workers: that bring as many, each on a core of its own.
        configured: DATALOADER.NUM_WORKERS of the config, of each process.
    """

    step_seconds: float
    batch: int
    images_per_second: float
    workers: int
    configured: int


@dataclass(frozen=True)
class LoadingResult:
    """A run.

    Attributes:
        conditions: what the figures depend on.
        source: what images these are, and why.
        seconds: of the mapper an image, the mean of a round.
        images_per_second: at the median.
        steps: of the mapper, in its order; together all of its time.
        feeding: what a training needs, if one is given.
    """

    conditions: dict[str, object]
    source: str
    seconds: Spread
    images_per_second: float
    steps: list[Step]
    feeding: Feeding | None


def benchmark_loading(config_file: str | Path, options: LoadingOptions) -> LoadingResult:
    """Time the mapper that ``config_file`` is trained with.

    Raises:
        BenchmarkError: the images cannot be made up.
        FileNotFoundError, ConfigError: of the config.
        DatasetError: an image or its annotations are broken.
        ValueError: keys of the config contradict each other.
    """
    cfg = load_cfg(config_file, options.opts)
    mapper = build_mapper(cfg, is_train=True)
    threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    with tempfile.TemporaryDirectory() as folder:
        records, source = _records(cfg, options, Path(folder))
        try:
            torch.set_num_threads(1)
            cv2.setNumThreads(1)
            height, width = mapper(records[0])["image"].shape[1:]
            taken = _time(mapper, records, options.rounds)
        finally:
            torch.set_num_threads(threads)
            cv2.setNumThreads(cv2_threads)
        size_on_disk = np.mean([Path(record["file_name"]).stat().st_size for record in records])
    total = Spread.of(taken.pop("total"))
    medians = {name: float(np.median(seconds)) for name, seconds in taken.items()}
    steps = [
        Step(name, Spread.of(seconds), medians[name] / sum(medians.values()))
        for name, seconds in taken.items()
    ]
    conditions = {
        "device": device_name("cpu"),
        "threads": 1,
        "config": str(config_file),
        "mapper": cfg.INPUT.DATASET_MAPPER_NAME,
        "first sample": f"{height} x {width}",
        "images": len(records),
        "kB an image file": round(size_on_disk / 1000),
        "rounds": options.rounds,
    }
    return LoadingResult(
        conditions, source, total, 1 / total.median, steps, _feeding(cfg, options, 1 / total.median)
    )


def _feeding(cfg: CfgNode, options: LoadingOptions, images_per_second: float) -> Feeding | None:
    if options.step_seconds is None:
        return None
    batch = options.batch or cfg.SOLVER.IMS_PER_BATCH
    needed = batch / options.step_seconds
    return Feeding(
        options.step_seconds,
        batch,
        needed,
        math.ceil(needed / images_per_second),
        cfg.DATALOADER.NUM_WORKERS,
    )


class _Stopwatch:
    """Adds up the seconds of steps by name."""

    def __init__(self):
        self.seconds: Counter[str] = Counter()

    def timed(self, name: str, step: Callable) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return step(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - start

        return run


class _TimedAugmentation(T.Augmentation):
    def __init__(self, augmentation: T.Augmentation, stopwatch: _Stopwatch):
        super().__init__()
        # detectron2 wraps a transform that needs no decision.
        name = type(getattr(augmentation, "tfm", augmentation)).__name__
        self._run = stopwatch.timed(name, augmentation)

    def __call__(self, aug_input: T.AugInput) -> T.Transform:
        return self._run(aug_input)


def _time(
    mapper: SegmentationMapper, records: Sequence[dict], rounds: int
) -> dict[str, np.ndarray]:
    """Seconds an image in each round: of steps by name, of the rest, and the "total"."""
    watch = _Stopwatch()
    mapper.read_image = watch.timed("read the image", mapper.read_image)
    mapper.read_truth = watch.timed(_READ_TRUTH[mapper.annotation], mapper.read_truth)
    mapper.make_target = watch.timed("make the target", mapper.make_target)
    augmentations = [_TimedAugmentation(a, watch) for a in mapper.augmentations.augs]
    mapper.augmentations = T.AugmentationList(augmentations)
    run = watch.timed("total", mapper)
    found = []
    for i in tqdm(range(-1, rounds), "rounds", leave=False, disable=None):
        watch.seconds.clear()
        for seed, record in enumerate(records):
            seed_all_rng(seed)
            run(record)
        if i >= 0:
            found.append({name: s / len(records) for name, s in watch.seconds.items()})
    # A step is first seen when it ends, so the names are in the mapper's order.
    taken = {name: np.array([seconds[name] for seconds in found]) for name in found[0]}
    total = taken.pop("total")
    return taken | {"the rest": total - sum(taken.values()), "total": total}


def _records(cfg: CfgNode, options: LoadingOptions, folder: Path) -> tuple[list[dict], str]:
    """Dataset dicts, and what they are."""
    names = cfg.DATASETS.TRAIN
    if options.size is not None:
        reason = "as asked"
    elif not names:
        reason = "DATASETS.TRAIN is empty"
    else:
        try:
            records = [record for name in names for record in load_dataset(name)]
        except DatasetError as error:
            logger.warning(f"images are made up: {error}")
            reason = f"{', '.join(names)} could not be read"
        else:
            step = max(1, len(records) // options.images)
            return records[::step][: options.images], f"images of {', '.join(names)}"
    typical = (size for prefix, size in _TYPICAL.items() if names and names[0].startswith(prefix))
    height, width, suffix = next(typical, _OTHERS)
    if options.size is not None:
        height, width = options.size
    kind = mapper_class(cfg.INPUT.DATASET_MAPPER_NAME).annotation
    classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    number = min(options.images, _SCENES)
    scenes = tqdm(range(number), "making up images", leave=False, disable=None)
    records = [
        _make_up(render_scene(i, height, width), folder / str(i), suffix, kind, classes)
        for i in scenes
    ]
    source = f"made-up scenes of {height} x {width} as {suffix}, {number} of them ({reason})"
    return [records[i % number] for i in range(options.images)], source


def _make_up(scene: Scene, path: Path, suffix: str, kind: str, classes: int) -> dict[str, Any]:
    """Write a scene's files and list them with the annotations of the ``kind`` in a dict."""
    record: dict[str, Any] = {"file_name": f"{path}{suffix}"}
    options = {"quality": _JPEG_QUALITY} if suffix == ".jpg" else {}
    Image.fromarray(scene.image).save(record["file_name"], **options)
    if kind == "annotations":
        record[kind] = _objects(scene, classes)
        return record
    record[kind] = f"{path}_{kind}.png"
    if kind == "sem_seg_file_name":
        Image.fromarray(scene.semantic % classes).save(record[kind])
        return record
    panoptic = panoptic_image(scene)
    Image.fromarray(panoptic).save(record[kind])
    colors = np.unique(panoptic.reshape(-1, 3), axis=0).astype(int)
    record["segments_info"] = [
        {"id": red + 256 * green + 256**2 * blue, "category_id": (red - 1) % classes}
        for red, green, blue in colors.tolist()
        if red
    ]
    return record


def _objects(scene: Scene, classes: int) -> list[dict[str, Any]]:
    """The outlines of what can be counted, as polygons."""
    found = []
    for number in range(1, int(scene.instance.max()) + 1):
        mask = scene.instance == number
        outlines, _ = cv2.findContours(
            mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
        )
        polygons = [outline.ravel().tolist() for outline in outlines if len(outline) >= 3]
        if polygons:
            left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
            found.append(
                {
                    "category_id": int(scene.semantic[mask][0]) % classes,
                    "segmentation": polygons,
                    "bbox": [left, top, width, height],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "iscrowd": 0,
                }
            )
    return found


def loading_markdown(result: LoadingResult, command: str) -> str:
    """The run as a page of Markdown.

    Args:
        result: the run.
        command: that printed it.
    """
    rows = [
        (step.name, spread_text(step.seconds, 1e-3, 2), f"{100 * step.share:.0f} %")
        for step in result.steps
    ]
    rows.append(("all", spread_text(result.seconds, 1e-3, 2), "100 %"))
    lines = [
        f"Printed by `{command}`.\n",
        f"{', '.join(f'{name}: {value}' for name, value in result.conditions.items())}.\n",
        f"Images: {result.source}.\n",
        f"**{result.images_per_second:.1f} images/s on one core.**\n",
        tabulate(
            rows,
            ("step", "ms an image", "share"),
            tablefmt="pipe",
            colalign=("left", "right", "right"),
            disable_numparse=True,
        ),
        "",
    ]
    if result.feeding is not None:
        feeding = result.feeding
        lines.append(
            f"Steps of {feeding.batch} images in {feeding.step_seconds:g} s take "
            f"{feeding.images_per_second:.1f} images/s. Workers that bring as many, each on a core "
            f"of its own: {feeding.workers} (DATALOADER.NUM_WORKERS of the config, for each "
            f"process: {feeding.configured}).\n"
        )
    return "\n".join([*lines, _REMARKS])

"""The datasets that are known by name; importing this registers them with detectron2.

ADE20K and Cityscapes are detectron2's own; they are given the colours that their metadata lacks.
All are given the sizes of their classes.
"""

import os
from functools import partial
from typing import NamedTuple

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import load_coco_json
from detectron2.data.datasets.coco_panoptic import register_coco_panoptic

from ..referring import datasets as referring
from . import metadata
from .tree import SemSegTree, register_sem_seg

_TRAIN_VAL = {"train": ("train",), "val": ("val",)}


class RawLabels(NamedTuple):
    """Label maps as released: their folder, their ending, and the label of each raw id."""

    folder: str
    suffix: str
    table: np.ndarray


class KnownDataset(NamedTuple):
    """A dataset of label maps. In folders, relative to the root of all, {} is a part of it."""

    images: str
    labels: str
    prepare: str  # the command that makes the label maps
    colors: tuple
    classes: tuple[str, ...] | None = None  # None: detectron2 registers the dataset
    splits: dict[str, tuple[str, ...]] = _TRAIN_VAL  # the parts that make a split
    counts: dict[str, int] = {}  # images of the splits that ``prepare`` makes
    raw: RawLabels | None = None  # what it makes them from, where only labels change
    options: dict = {}  # of the tree


DATASETS = {
    "ade20k_sem_seg": KnownDataset(
        images="ADEChallengeData2016/images/{}",
        labels="ADEChallengeData2016/annotations_detectron2/{}",
        splits={"train": ("training",), "val": ("validation",)},
        prepare="python datasets/prepare_ade20k.py",
        colors=metadata.ADE20K_COLORS,
        counts={"train": 20210, "val": 2000},
        raw=RawLabels("ADEChallengeData2016/annotations/{}", ".png", metadata.ADE20K_RAW_IDS),
    ),
    "cityscapes_fine_sem_seg": KnownDataset(
        images="cityscapes/leftImg8bit/{}",
        labels="cityscapes/gtFine/{}",
        splits=_TRAIN_VAL | {"test": ("test",)},
        prepare="python datasets/prepare_cityscapes.py",
        colors=metadata.CITYSCAPES_COLORS,
        counts={"train": 2975, "val": 500},
        raw=RawLabels("cityscapes/gtFine/{}", "_gtFine_labelIds.png", metadata.CITYSCAPES_RAW_IDS),
        options={
            "image_suffixes": ("_leftImg8bit.png",),
            "label_suffix": "_gtFine_labelTrainIds.png",
            "nested": True,
        },
    ),
    "coco_stuff_sem_seg": KnownDataset(
        images="coco/{}",
        labels="coco/stuffthingmaps_detectron2/{}",
        splits={"train": ("train2017",), "val": ("val2017",)},
        prepare="python datasets/prepare_coco_stuff.py",
        colors=metadata.COCO_STUFF_COLORS,
        classes=metadata.COCO_STUFF_CLASSES,
        counts={"train": 118287, "val": 5000},
        raw=RawLabels("coco/stuffthingmaps/{}", ".png", metadata.COCO_STUFF_RAW_IDS),
    ),
    "coco_stuff_10k_sem_seg": KnownDataset(
        images="coco/coco_stuff_10k/images_detectron2/{}",
        labels="coco/coco_stuff_10k/annotations_detectron2/{}",
        splits={"train": ("train",), "test": ("test",)},
        prepare="python datasets/prepare_coco_stuff_10k.py",
        colors=metadata.COCO_STUFF_COLORS,
        classes=metadata.COCO_STUFF_CLASSES,
        counts={"train": 9000, "test": 1000},
    ),
    "camvid_sem_seg": KnownDataset(
        images="camvid/images/{}",
        labels="camvid/annotations/{}",
        splits=_TRAIN_VAL | {"test": ("test",), "trainval": ("train", "val")},
        prepare="python datasets/prepare_camvid.py --source <the release that you have>",
        colors=metadata.CAMVID_COLORS,
        classes=metadata.CAMVID_CLASSES,
        counts={"train": 367, "val": 101, "test": 233},
    ),
    "demo_scenes_sem_seg": KnownDataset(
        images="demo_scenes/images/{}",
        labels="demo_scenes/annotations/{}",
        prepare="python datasets/make_demo_scenes.py",
        colors=metadata.DEMO_COLORS,
        classes=metadata.DEMO_CLASSES,
    ),
}


def default_root() -> str:
    """The folder that datasets lie in: ``DETECTRON2_DATASETS``, or ``datasets``."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def dataset_tree(root: str, name: str, split: str) -> SemSegTree:
    """The tree below ``root`` of a split of one of ``DATASETS``."""
    data = DATASETS[name]
    parts = data.splits[split]
    folders = tuple((data.images.format(part), data.labels.format(part)) for part in parts)
    return SemSegTree(f"{name}_{split}", root, folders, data.prepare, **data.options)


def register_all(root: str) -> None:
    """Register every dataset of this project below ``root``, and complete detectron2's."""
    for name, data in DATASETS.items():
        for split in data.splits:
            meta = MetadataCatalog.get(f"{name}_{split}")
            if data.classes is not None:
                register_sem_seg(dataset_tree(root, name, split), data.classes, data.colors)
            elif not meta.get("stuff_colors"):
                meta.stuff_colors = [list(color) for color in data.colors]
            if not meta.get("stuff_sizes"):
                meta.stuff_sizes = metadata.class_sizes(meta.stuff_classes)
    for split in _TRAIN_VAL:
        _register_demo_objects(os.path.join(root, "demo_scenes"), split)
    referring.register_all(root)


def _register_demo_objects(base: str, split: str) -> None:
    """Register ``demo_scenes_instance_*``, and with the labels of "sem_seg" the panoptic sets."""
    instance, panoptic = f"demo_scenes_instance_{split}", f"demo_scenes_panoptic_{split}"
    if instance in DatasetCatalog:
        return
    classes, colors = list(metadata.DEMO_CLASSES), [list(color) for color in metadata.DEMO_COLORS]
    things = [classes.index(name) for name in metadata.DEMO_THINGS]
    contiguous = {label + 1: i for i, label in enumerate(things)}
    annotations, images = os.path.join(base, "annotations"), os.path.join(base, "images", split)
    objects = os.path.join(annotations, f"instances_{split}.json")
    DatasetCatalog.register(instance, partial(load_objects, objects, images, contiguous))
    MetadataCatalog.get(instance).set(
        json_file=objects,
        image_root=images,
        evaluator_type="coco",
        thing_classes=[classes[label] for label in things],
        thing_colors=[colors[label] for label in things],
        thing_dataset_id_to_contiguous_id=contiguous,
    )
    stuff = [label for label in range(len(classes)) if label not in things]
    meta = {}
    for kind, labels in (("thing", things), ("stuff", stuff)):
        meta |= {f"{kind}_classes": classes, f"{kind}_colors": colors}
        meta[f"{kind}_dataset_id_to_contiguous_id"] = {label + 1: label for label in labels}
    maps = os.path.join(base, "panoptic", split)
    segments = os.path.join(annotations, f"panoptic_{split}.json")
    register_coco_panoptic(panoptic, meta, images, maps, segments, objects)


def load_objects(json_file: str, image_root: str, contiguous: dict[int, int]) -> list[dict]:
    # With the dataset's name detectron2 would map the ids itself, and warn that 1 is not the first.
    records = load_coco_json(json_file, image_root)
    for record in records:
        for annotation in record["annotations"]:
            annotation["category_id"] = contiguous[annotation["category_id"]]
    return records


register_all(default_root())

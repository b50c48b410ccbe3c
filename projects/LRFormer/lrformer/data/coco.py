"""COCO-format datasets: the demo scenes' registrations, and what is missing of any on disk."""

import os
from functools import partial
from pathlib import Path

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data.datasets.coco import load_coco_json
from detectron2.data.datasets.coco_panoptic import register_coco_panoptic

from . import demo_scenes
from .tree import DatasetError, advice, whereabouts

_ADVICE = {
    "demo_scenes_": "python datasets/make_demo_scenes.py",
    "coco_20": "unpack the images and the annotations from https://cocodataset.org there",
}


def register_demo_scenes(root: str) -> None:
    """Register ``demo_scenes_instance_{train,val}`` and ``demo_scenes_panoptic_{train,val}``.

    The panoptic sets have the contiguous ids of ``demo_scenes_sem_seg``; the instance sets have
    one for each of the things.
    """
    classes, colors = list(demo_scenes.CLASSES), [list(color) for color in demo_scenes.COLORS]
    things = [label for label, name in enumerate(classes) if name in demo_scenes.THINGS]
    stuff = [label for label in range(len(classes)) if label not in things]
    base = os.path.join(root, demo_scenes.DIRECTORY)
    for split in demo_scenes.SPLITS:
        images = os.path.join(base, "images", split)
        objects = os.path.join(base, "annotations", f"instances_{split}.json")
        name = f"demo_scenes_instance_{split}"
        if name not in DatasetCatalog:
            contiguous = {label + 1: i for i, label in enumerate(things)}
            DatasetCatalog.register(name, partial(_load_instances, objects, images, contiguous))
            MetadataCatalog.get(name).set(
                json_file=objects,
                image_root=images,
                evaluator_type="coco",
                thing_classes=[classes[label] for label in things],
                thing_colors=[colors[label] for label in things],
                thing_dataset_id_to_contiguous_id=contiguous,
            )
        name = f"demo_scenes_panoptic_{split}"
        if name not in DatasetCatalog:
            meta = {
                "thing_classes": classes,
                "thing_colors": colors,
                "stuff_classes": classes,
                "stuff_colors": colors,
                "thing_dataset_id_to_contiguous_id": {label + 1: label for label in things},
                "stuff_dataset_id_to_contiguous_id": {label + 1: label for label in stuff},
            }
            maps = os.path.join(base, "panoptic", split)
            segments = os.path.join(base, "annotations", f"panoptic_{split}.json")
            register_coco_panoptic(name, meta, images, maps, segments, objects)


def _load_instances(json_file: str, image_root: str, contiguous: dict[int, int]) -> list[dict]:
    # With the dataset's name detectron2 would map the ids itself, and warn that 1 is not the first.
    records = load_coco_json(json_file, image_root)
    for record in records:
        for annotation in record["annotations"]:
            annotation["category_id"] = contiguous[annotation["category_id"]]
    return records


def check_coco_files(name: str) -> None:
    """Look for the folders and json files that the metadata of a COCO-format dataset names.

    Does nothing for other datasets.

    Raises:
        DatasetError: one is missing; the message says where it is expected and how to get it.
    """
    meta = MetadataCatalog.get(name)
    if not meta.get("image_root"):
        return
    expected = _expected(meta)
    for path, what in expected:
        if "://" in path or os.path.exists(path):
            continue
        message = f"{name}: there is no {what} {Path(path).absolute()}."
        how = next((text for prefix, text in _ADVICE.items() if name.startswith(prefix)), None)
        if how is not None:
            # All files of these datasets lie in one folder below the root.
            root = os.path.dirname(os.path.commonpath([path for path, _ in expected]))
            message += whereabouts(root, os.path.relpath(path, root)) + advice(root, how)
        raise DatasetError(message)


def _expected(meta: Metadata) -> list[tuple[str, str]]:
    """Paths that loading needs, and what each is."""
    if meta.get("panoptic_json"):
        annotations = [
            (meta.panoptic_root, "folder of panoptic maps (*.png)"),
            (meta.panoptic_json, "file of panoptic annotations"),
        ]
    elif meta.get("json_file"):
        annotations = [(meta.json_file, "file of COCO annotations")]
    else:
        return []
    expected = [(meta.image_root, "folder of images"), *annotations]
    return [(os.fspath(path), what) for path, what in expected]

"""From a dataset's yaml to datasets in detectron2's catalogs, converted where that is needed.

Conversions are kept in ``.lrformer`` below the dataset's root. They are made in parallel, can be
interrupted, and are made again where a label file is newer.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..builtin import load_objects
from ..masks import object_mask, read_segments
from ..metadata import IGNORE_LABEL
from ..prepare import make_files, save_label
from ..reading import image_size
from ..tree import DatasetError, some
from . import masks, objects
from .classes import MAX_CLASSES, Classes
from .spec import IGNORE, OwnData, Part

logger = logging.getLogger(__name__)

CACHE = ".lrformer"
# By task: a part of the names in the catalogs, as those of the datasets that are built in.
NAMES = {"semantic": "sem_seg", "instance": "instance", "panoptic": "panoptic"}
_OBJECTS = "objects.json"  # COCO's annotations of a split
_FEW = 64  # files that are converted in this process


@dataclass(frozen=True)
class Found:
    """What lies where a yaml says.

    Attributes:
        spec: the yaml.
        kind: "maps", "class files", or that of :func:`objects.kind_of`.
        classes: of label maps.
        things: names of the classes of objects; in panoptic data of all segments.
        images: by split, the labelled images by their path below their folder.
        labels: by split and image the label file, {class: file}, a list of
            :class:`~.objects.Object`, or COCO's panoptic annotation.
        unlabelled: by split, images without labels.
        table: what label maps are converted by; None where they are used as they are.
    """

    spec: OwnData
    kind: str
    classes: Classes
    things: tuple[str, ...]
    images: dict[str, dict[str, Path]]
    labels: dict[str, dict[str, Any]]
    unlabelled: dict[str, list[Path]]
    table: masks.Table | None

    @property
    def tasks(self) -> tuple[str, ...]:
        """What can be learnt, the richest first."""
        if self.kind in ("maps", "class files"):
            return ("semantic",)
        return ("panoptic", "semantic") if self.kind == "panoptic" else ("instance", "semantic")


def find(spec: OwnData) -> Found:
    """Look for images and labels, pair them, and find out the classes.

    Raises:
        DatasetError: labels are missing or not understood, or classes have to be named.
    """
    parts = spec.parts
    images = {split: masks.list_images(part.images) for split, part in parts.items()}
    for split, part in parts.items():
        if not images[split]:
            raise DatasetError(f"{spec.file}: splits.{split}: no images in {part.images}.")
    kinds = {objects.kind_of(part.labels) for part in parts.values()}
    if len(kinds) > 1:
        raise DatasetError(f"{spec.file}: the splits have labels of different kinds: {kinds}.")
    (kind,) = kinds
    names, labels = [], {}
    for split, part in parts.items():
        if kind is None:
            labels[split] = _pair(spec, part, images[split])
        else:
            read = _read_panoptic if kind == "panoptic" else objects.read_objects
            listed = read(part.labels, images[split])
            names += [name for name in listed.names if name not in names]
            labels[split] = listed.of
        if not labels[split]:
            raise DatasetError(
                f"{spec.file}: splits.{split}: none of the {len(images[split])} images in "
                f"{part.images} has labels in {part.labels}. Those of 0001.jpg are expected as "
                "0001.png, 0001_mask.png or the like, or in a JSON or XML file for all."
            )
    if kind is None:
        several = any(isinstance(x, dict) for files in labels.values() for x in files.values())
        kind = "class files" if several else "maps"
    unlabelled = {}
    for split, part in parts.items():
        chosen = part.choose([key for key in images[split] if key in labels[split]])
        if part.names is None and not part.held_out:
            used = set(_files(labels[split]))
            left = (x for key, x in images[split].items() if key not in labels[split])
            unlabelled[split] = [file for file in left if file not in used]
        images[split] = {key: images[split][key] for key in chosen}
        labels[split] = {key: labels[split][key] for key in chosen}
    classes, things, table = spec.classes or Classes(tuple(names)), (), None
    if kind == "maps":
        seen = masks.seen_values(file for of in labels.values() for file in _files(of))
        classes = spec.classes or masks.classes_of(seen, spec.file)
        table = masks.table_for(classes, spec.ignored, seen, spec.file)
    elif kind == "panoptic":
        things = classes.names
    else:
        things = tuple(name for name in classes.names if name != spec.unlabelled)
        if spec.unlabelled not in (IGNORE, *classes.names):
            values = ((), *classes.values) if classes.values else ()
            classes = replace(classes, names=(spec.unlabelled, *things), values=values)
    return Found(spec, kind, classes, things, images, labels, unlabelled, table)


def _pair(spec: OwnData, part: Part, images: Mapping[str, Path]) -> dict[str, Any]:
    if not part.labels.is_dir():
        raise DatasetError(
            f"{spec.file}: {part.labels} is neither a folder of label files nor the JSON or XML "
            "file of a tool that is known (COCO, Label Studio, CVAT)."
        )
    files = masks.list_images(part.labels, labels=True)
    if spec.classes is not None:
        by_class = masks.pair_by_class(images, files, spec.classes.names)
        if by_class:
            return by_class
    return masks.pair(images, files)


def _files(labels: Mapping[str, Any]) -> Iterable[Path]:
    for entry in labels.values():
        if isinstance(entry, Path):
            yield entry
        elif isinstance(entry, dict):
            yield from (file for file in entry.values() if isinstance(file, Path))


def _read_panoptic(file: Path, images: Mapping[str, Path]) -> objects.Objects:
    """Segments of each image instead of objects: COCO's annotation, with names for categories."""
    content = json.loads(file.read_text(encoding="utf-8"))
    categories = {x["id"]: {"isthing": 1} | x for x in content["categories"]}
    of = {}
    for annotation in content["annotations"]:
        key = str(Path(annotation["file_name"]).with_suffix(""))
        if key in images:
            segments = annotation["segments_info"]
            named = [x | {"name": categories[x["category_id"]]["name"]} for x in segments]
            of[key] = annotation | {"segments_info": named, "categories": categories.values()}
    return objects.Objects([categories[i]["name"] for i in sorted(categories)], of)


def register(found: Found, task: str) -> dict[str, str]:
    """Register the splits for a task, and convert what has to be; their names in the catalogs.

    Registering the same again is quick and changes nothing.

    Raises:
        DatasetError: a label file cannot be converted, or the data is not annotated for the task.
    """
    spec = found.spec
    if task not in found.tasks:
        raise DatasetError(
            f"{spec.file}: the labels ({found.kind}) are for {' or '.join(found.tasks)} "
            f"segmentation, not {task}."
        )
    for split, files in found.unlabelled.items():
        if files:
            logger.warning(
                f"{spec.file}: {len(files)} images of {split} have no labels and are left out: "
                f"{some(x.name for x in files)}"
            )
    names = {}
    for split in found.images:
        names[split] = f"{spec.name}_{NAMES[task]}_{split}"
        records, metadata = _REGISTER[task](found, split)
        for catalog in (DatasetCatalog, MetadataCatalog):
            if names[split] in catalog:
                catalog.remove(names[split])
        DatasetCatalog.register(names[split], partial(list, records))
        MetadataCatalog.get(names[split]).set(image_root=str(spec.parts[split].images), **metadata)
    return names


def _semantic(found: Found, split: str) -> tuple[list[dict], dict]:
    spec, names, labels = found.spec, found.classes.names, found.labels[split]
    folder = _cache(found, split)
    maps = {key: folder / "labels" / f"{key}.png" for key in labels}
    unlabelled = names.index(spec.unlabelled) if spec.unlabelled in names else IGNORE_LABEL
    ignore_label = IGNORE_LABEL
    if found.kind == "maps":
        table, items, sources = found.table, labels, labels
        if table is None:
            ignore_label = next(iter(spec.ignored), default_ignore_label(len(names)))
            maps = labels
        else:
            make = table.convert
    elif found.kind == "class files":
        items = {key: {names.index(x): file for x, file in labels[key].items()} for key in labels}
        sources = {k: max(x.values(), key=lambda f: f.stat().st_mtime) for k, x in labels.items()}
        make = partial(masks.merge_classes, unlabelled=unlabelled)
    else:
        records, _ = _REGISTER[found.tasks[0]](found, split)
        items = dict(zip(labels, records, strict=True))
        sources = dict.fromkeys(labels, folder / _OBJECTS)
        table = tuple(names.index(name) for name in found.things)
        make = partial(_draw, table=table, unlabelled=unlabelled)
    if maps is not labels:
        if len(names) > MAX_CLASSES:
            raise DatasetError(
                f"{spec.file}: {len(names)} classes; labels that have to be converted may have "
                f"{MAX_CLASSES}."
            )
        jobs = [(items[key], sources[key], maps[key]) for key in labels]
        _convert(jobs, make, f"{spec.name} {split} label maps")
    meta = {
        "evaluator_type": "sem_seg",
        "stuff_classes": list(names),
        "stuff_colors": [list(color) for color in found.classes.colors],
        "ignore_label": ignore_label,
    }
    images = found.images[split]
    return [{"file_name": str(images[k]), "sem_seg_file_name": str(maps[k])} for k in labels], meta


def default_ignore_label(num_classes: int) -> int:
    return IGNORE_LABEL if num_classes <= IGNORE_LABEL else 2**16 - 1


def _draw(record: dict, destination: Path, table: tuple[int, ...], unlabelled: int) -> None:
    """Draw the objects or segments of a dataset dict as a label map."""
    size = record["height"], record["width"]
    if "segments_info" in record:
        classes = [table[x["category_id"]] for x in record["segments_info"]]
        numbers = read_segments(record, size, len(table))
        label = np.array([IGNORE_LABEL, *classes], np.uint8)[numbers]
    else:
        label = np.full(size, unlabelled, np.uint8)
        for annotation in record["annotations"]:
            mask = object_mask(annotation, record["file_name"], size)
            label[mask.astype(bool)] = table[annotation["category_id"]]
    save_label(label, destination)


def _instance(found: Found, split: str) -> tuple[list[dict], dict]:
    images, root = found.images[split], found.spec.parts[split].images
    listed = objects.Objects([], found.labels[split])
    file = _cache(found, split) / _OBJECTS
    _write_json(objects.coco_dict(listed, images, root, found.things), file)
    ids = {i: i - 1 for i in range(1, len(found.things) + 1)}
    colors = dict(zip(found.classes.names, found.classes.colors, strict=True))
    meta = {
        "evaluator_type": "coco",
        "json_file": str(file),
        "thing_classes": list(found.things),
        "thing_colors": [list(colors[name]) for name in found.things],
        "thing_dataset_id_to_contiguous_id": ids,
    }
    return load_objects(str(file), str(root), ids), meta


def _panoptic(found: Found, split: str) -> tuple[list[dict], dict]:
    part, labels, names = found.spec.parts[split], found.labels[split], list(found.things)
    # As COCO's own: a folder beside the file, of the same name.
    maps = part.labels.with_suffix("")
    maps = maps if maps.is_dir() else part.labels.parent
    stuff = {x["name"] for of in labels.values() for x in of["categories"] if not x["isthing"]}
    categories = [{"id": i, "name": x, "isthing": int(x not in stuff)} for i, x in enumerate(names)]
    records, annotations = [], []
    for number, (key, image) in enumerate(found.images[split].items(), 1):
        segments = []
        for x in labels[key]["segments_info"]:
            if x["name"] not in names:
                raise DatasetError(f"{part.labels}: a segment is {x['name']!r}, no class.")
            label = names.index(x["name"])
            segments.append(x | {"category_id": label, "isthing": x["name"] not in stuff})
        height, width = image_size(str(image))
        file_name = labels[key]["file_name"]
        shared = {"image_id": number, "segments_info": segments}
        annotations.append(shared | {"file_name": file_name})
        place = {"file_name": str(image), "pan_seg_file_name": str(maps / file_name)}
        records.append(shared | place | {"height": height, "width": width})
    file = _cache(found, split) / _OBJECTS
    _write_json({"annotations": annotations, "categories": categories}, file)
    meta = {
        "evaluator_type": "coco_panoptic_seg",
        "panoptic_json": str(file),
        "panoptic_root": str(maps),
        "ignore_label": IGNORE_LABEL,
    }
    for kind in ("thing", "stuff"):
        ids = {i: i for i, name in enumerate(names) if (name in stuff) == (kind == "stuff")}
        meta[f"{kind}_classes"] = names
        meta[f"{kind}_colors"] = [list(color) for color in found.classes.colors]
        meta[f"{kind}_dataset_id_to_contiguous_id"] = ids
    return records, meta


_REGISTER: dict[str, Callable] = {
    "semantic": _semantic,
    "instance": _instance,
    "panoptic": _panoptic,
}


def _cache(found: Found, split: str) -> Path:
    """The folder of what is converted for a split, another one where the yaml says otherwise."""
    spec = found.spec
    said = spec.parts[split], found.classes, found.things, spec.ignored, spec.unlabelled
    digest = hashlib.sha1(repr(said).encode()).hexdigest()[:8]
    return spec.root / CACHE / f"{spec.name}_{split}_{digest}"


def _write_json(content: dict, file: Path) -> None:
    """Write a file, whole or not at all, where its content is another."""
    text = json.dumps(content)
    if file.is_file() and file.read_text(encoding="utf-8") == text:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, file)


def _convert(jobs: list[tuple[Any, Path, Path]], make: Callable, description: str) -> None:
    """:func:`make_files` of (item, source, destination), again where a source is newer."""
    for _, source, destination in jobs:
        if destination.exists() and destination.stat().st_mtime < source.stat().st_mtime:
            destination.unlink()
    pending = [(item, destination) for item, _, destination in jobs if not destination.exists()]
    if pending:
        workers = (os.cpu_count() or 1) if len(pending) > _FEW else 1
        make_files(pending, make, workers, description)

"""From a dataset's yaml to datasets in detectron2's catalogs, converted where that is needed.

Conversions are kept in ``.lrformer`` below the dataset's root. They are made in parallel, can be
interrupted, and are made again where a label file is newer.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..builtin import load_objects
from ..metadata import IGNORE_LABEL
from ..prepare import make_files
from ..tree import DatasetError, some
from . import masks, objects
from .classes import Classes
from .objects import Object
from .spec import IGNORE, OwnData, Part

logger = logging.getLogger(__name__)

_FEW = 64  # files that are converted in this process

# The label map of an image, or its objects in the order in which they are drawn.
Labels = Path | list[Object]


@dataclass(frozen=True)
class Found:
    """What lies where a yaml says.

    Attributes:
        spec: the yaml.
        kind: "maps", "class files", or that of :func:`objects.kind_of`.
        classes: of label maps.
        images, labels: by split, of each labelled image, by its path below its folder.
        unlabelled: by split, images without labels.
        table: what label maps are converted by; None where they are used as they are.
    """

    spec: OwnData
    kind: str
    classes: Classes
    images: dict[str, dict[str, Path]]
    labels: dict[str, dict[str, Labels]]
    unlabelled: dict[str, list[Path]]
    table: dict[int, int] | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """What can be learnt, the richest first."""
        no_objects = self.kind in ("maps", "class files", "panoptic")
        return ("semantic",) if no_objects else ("instance", "semantic")

    @property
    def things(self) -> tuple[str, ...]:
        """Names of the classes of objects."""
        return tuple(name for name in self.classes.names if name != self.spec.unlabelled)


def find(spec: OwnData) -> Found:
    """Look for images and labels, pair them, and find out the classes.

    Raises:
        DatasetError: labels are missing or not understood, or classes have to be named.
    """
    kinds = {objects.kind_of(part.labels) for part in spec.parts.values()}
    if len(kinds) > 1:
        raise DatasetError(f"{spec.file}: the splits have labels of different kinds: {kinds}.")
    (kind,) = kinds
    images, labels, unlabelled, read = {}, {}, {}, {}
    for split, part in spec.parts.items():
        place = part.images, part.labels
        if place not in read:  # once for both parts of a split that is drawn
            read[place] = _read(spec, split, part, kind)
        there, labelled, _ = read[place]
        chosen = part.choose([key for key in there if key in labelled])
        images[split] = {key: there[key] for key in chosen}
        labels[split] = {key: labelled[key] for key in chosen}
        if part.names is None and not part.held_out:
            used = {file for entry in labelled.values() for file in _files(entry)}
            unlabelled[split] = [
                x for key, x in there.items() if key not in labelled and x not in used
            ]
    entries = [entry for of in labels.values() for entry in of.values()]
    if isinstance(entries[0], Path):
        seen, are_maps = masks.seen_values(entries)
        classes = spec.classes or masks.classes_of(seen, spec.file)
        table = masks.table_for(spec, classes, seen, are_maps)
        return Found(spec, "maps", classes, images, labels, unlabelled, table)
    names = dict.fromkeys(name for *_, listed in read.values() for name in listed)
    classes = spec.classes or Classes(tuple(names))
    if unknown := [name for name in names if name not in classes.names]:
        raise DatasetError(
            f"{spec.file}: there are objects of the class {some(map(repr, unknown))}, which is not "
            f"one of the `classes`: {some(classes.names, 20)}."
        )
    if kind != "panoptic" and spec.unlabelled not in (IGNORE, *classes.names):
        values = ((0,), *classes.values) if classes.values else ()
        classes = replace(classes, names=(spec.unlabelled, *classes.names), values=values)
    return Found(spec, kind or "class files", classes, images, labels, unlabelled)


def _read(
    spec: OwnData, split: str, part: Part, kind: str | None
) -> tuple[dict[str, Path], dict[str, Labels], list[str]]:
    """All images of a folder, their labels, and the names of classes that the labels say."""
    images, names = masks.list_images(part.images), []
    if not images:
        raise DatasetError(f"{spec.file}: splits.{split}: no images in {part.images}.")
    if kind is not None:
        names, labels = objects.read_objects(part.labels, images)
    elif part.labels.is_dir():
        files = masks.list_images(part.labels, labels=True)
        known = spec.classes.names if spec.classes else ()
        labels = objects.pair_by_class(images, files, known) or masks.pair(images, files)
    else:
        raise DatasetError(
            f"{spec.file}: {part.labels} is neither a folder of label files nor the JSON or XML "
            "file of a tool that is known (COCO, Label Studio, CVAT)."
        )
    if not labels:
        raise DatasetError(
            f"{spec.file}: splits.{split}: none of the {len(images)} images in {part.images} has "
            f"labels in {part.labels}. Those of 0001.jpg are expected as 0001.png, 0001_mask.png "
            "or the like, or in a JSON or XML file for all."
        )
    return images, labels, names


def _files(entry: Labels) -> list[Path]:
    """The label files that an image has of its own."""
    given = [entry] if isinstance(entry, Path) else [x.segmentation for x in entry]
    return [x for x in given if isinstance(x, Path)]


def register(found: Found, task: str) -> dict[str, str]:
    """Register the splits for a task, and convert what has to be; their names in the catalogs.

    Registering the same again is quick and changes nothing.

    Args:
        found: see :func:`find`.
        task: "semantic" or "instance".

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
    for split, part in spec.parts.items():
        name = f"{spec.file.stem}_{'sem_seg' if task == 'semantic' else task}_{split}"
        # Another folder where the yaml says otherwise.
        said = repr((part, found.classes, spec.ignored, spec.unlabelled)).encode()
        folder = f"{spec.file.stem}_{split}_{hashlib.sha1(said).hexdigest()[:8]}"
        make = _semantic if task == "semantic" else _instance
        records, metadata = make(found, split, spec.root / ".lrformer" / folder)
        for catalog in (DatasetCatalog, MetadataCatalog):
            if name in catalog:
                catalog.remove(name)
        DatasetCatalog.register(name, partial(list, records))
        MetadataCatalog.get(name).set(image_root=str(part.images), **metadata)
        names[split] = name
    return names


def _semantic(found: Found, split: str, cache: Path) -> tuple[list[dict], dict]:
    spec, names, labels = found.spec, found.classes.names, found.labels[split]
    images, maps, ignore_label = found.images[split], labels, IGNORE_LABEL
    if found.kind == "maps" and found.table is None:
        ignore_label = next(iter(spec.ignored), default_ignore_label(len(names)))
    elif len(names) > IGNORE_LABEL:
        raise DatasetError(
            f"{spec.file}: {len(names)} classes; labels that have to be converted may have "
            f"{IGNORE_LABEL}."
        )
    else:
        if found.kind == "maps":
            make = partial(masks.convert_values, table=found.table, yaml_file=spec.file)
        else:
            other = names.index(spec.unlabelled) if spec.unlabelled in names else IGNORE_LABEL
            make = partial(objects.draw, names=names, unlabelled=other)
        maps = {key: cache / "labels" / f"{key}.png" for key in labels}
        items = {key: (images[key], entry) for key, entry in labels.items()}
        _convert(items, maps, found, split, make)
    meta = {
        "evaluator_type": "sem_seg",
        "stuff_classes": list(names),
        "stuff_colors": found.classes.colors,
        "ignore_label": ignore_label,
    }
    return [{"file_name": str(images[k]), "sem_seg_file_name": str(maps[k])} for k in labels], meta


def default_ignore_label(num_classes: int) -> int:
    return IGNORE_LABEL if num_classes <= IGNORE_LABEL else 2**16 - 1


def _instance(found: Found, split: str, cache: Path) -> tuple[list[dict], dict]:
    root, names, file = found.spec.parts[split].images, found.things, cache / "objects.json"

    def make(labels: dict, destination: Path) -> None:
        content = objects.coco_dict(labels, found.images[split], root, names)
        destination.write_text(json.dumps(content), encoding="utf-8")

    _convert({"": found.labels[split]}, {"": file}, found, split, make)
    ids = {i: i - 1 for i in range(1, len(names) + 1)}
    colors = dict(zip(found.classes.names, found.classes.colors, strict=True))
    meta = {
        "evaluator_type": "coco",
        "json_file": str(file),
        "thing_classes": list(names),
        "thing_colors": [colors[name] for name in names],
        "thing_dataset_id_to_contiguous_id": ids,
    }
    return load_objects(str(file), str(root), ids), meta


def _convert(items: dict, made: dict[str, Path], found: Found, split: str, make: Callable) -> None:
    """:func:`make_files`, again where a label file is newer."""

    def newest(files: Iterable[Path]) -> float:
        return max(file.stat().st_mtime for file in files)

    labels = found.spec.parts[split].labels
    shared = newest([labels] if labels.is_file() else masks.list_files(labels))
    for key, destination in made.items():
        files = _files(found.labels[split].get(key, []))
        since = newest(files) if files else shared
        if destination.exists() and destination.stat().st_mtime < since:
            destination.unlink()
    jobs = [(items[k], made[k]) for k in made if not made[k].exists()]
    if jobs:
        workers = (os.cpu_count() or 1) if len(jobs) > _FEW else 1
        make_files(jobs, make, workers, f"{found.spec.file.stem} {split} labels")

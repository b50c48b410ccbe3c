"""Checks of a dataset before the first iteration, so that a long run does not die on a bad file."""

import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from detectron2.data import Metadata, MetadataCatalog

from .build import MAPPERS, mapper_class
from .builtin import load_dataset
from .masks import check_category, number_segments, object_mask
from .metadata import IGNORE_LABEL
from .reading import (
    check_label,
    check_map_size,
    check_size,
    image_size,
    read_label,
    read_panoptic,
)
from .tree import DatasetError, some

logger = logging.getLogger(__name__)

_MAX_LABELS = 500
_THREADS = 8


class _Kind(NamedTuple):
    """What the images of a dataset are annotated with.

    Attributes:
        entry: of a dataset dict, that says so.
        task: what it is for.
        parts: entry that lists objects or segments with their classes, if any.
        holds: the annotations, in words.
        classes: the classes' names, by the dataset's metadata; None if it does not say.
        check: looks at one dataset dict closely.
    """

    entry: str
    parts: str
    task: str
    holds: str
    classes: Callable[[Metadata], list[str] | None]
    check: Callable[[dict, int, int], None]


def verify_dataset(name: str, num_classes: int, mapper: str | None = None) -> None:
    """Check a registered dataset, the number of classes and the choice of the mapper.

    It may have label maps, COCO's objects or COCO's panoptic segments. Every file is looked for,
    the class of every object and segment is checked. Maps are read and compared with their images'
    sizes, and masks are decoded: all of them if there are few, else those of a few hundred images
    spread evenly (the mappers check what they read).

    Args:
        name: the dataset's name in detectron2's catalogs.
        num_classes: ``MODEL.SEM_SEG_HEAD.NUM_CLASSES``.
        mapper: ``INPUT.DATASET_MAPPER_NAME`` for a dataset that is trained on. None: the dataset is
            checked for what it is.

    Raises:
        DatasetError: naming the key or the file at fault, what was expected and what was found.
        ValueError: there is no mapper of that name.
    """
    start = time.perf_counter()
    wanted = None if mapper is None else mapper_class(mapper).annotation
    records = load_dataset(name)
    kind = _kind(name, records, mapper, wanted)
    meta = MetadataCatalog.get(name)
    _check_num_classes(name, kind.classes(meta), num_classes)
    without = [record["file_name"] for record in records if record.get(kind.entry) is None]
    if without:
        raise DatasetError(
            f"{name}: {len(without)} of {len(records)} entries have no {kind.entry} "
            f"({some(without)}); it is no dataset for {kind.task} segmentation."
        )
    _check_files(name, records, kind.entry)
    for record in records:
        for part in record.get(kind.parts, ()):
            check_category(part["category_id"], record["file_name"], num_classes)
    spread = np.linspace(0, len(records) - 1, min(len(records), _MAX_LABELS))
    sample = [records[int(index)] for index in spread]
    ignore_label = meta.get("ignore_label", IGNORE_LABEL)
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(lambda record: kind.check(record, num_classes, ignore_label), sample):
            pass
    logger.info(
        f"{name}: {len(records)} images; {kind.holds} of {len(sample)} images checked in "
        f"{time.perf_counter() - start:.1f} s."
    )


def _check_label_map(record: dict, num_classes: int, ignore_label: int) -> None:
    label_file = record["sem_seg_file_name"]
    size = image_size(record["file_name"])
    check_label(read_label(label_file), label_file, num_classes, ignore_label, size)


def _check_objects(record: dict, num_classes: int, ignore_label: int) -> None:
    file_name = record["file_name"]
    size = image_size(file_name)
    check_size(file_name, size, record)
    for annotation in record["annotations"]:
        object_mask(annotation, file_name, size)
        box = annotation.get("bbox", (0, 0, 0, 0))
        if len(box) != 4 or not np.isfinite(np.asarray(box, dtype=float)).all():
            raise DatasetError(f"{file_name}: an object's bbox is {box}; expected 4 numbers.")


def _check_segments(record: dict, num_classes: int, ignore_label: int) -> None:
    map_file = record["pan_seg_file_name"]
    size = image_size(record["file_name"])
    check_size(record["file_name"], size, record)
    ids = read_panoptic(map_file)
    check_map_size(ids, map_file, size)
    number_segments(ids, record["segments_info"], map_file)


def _panoptic_classes(meta: Metadata) -> list[str] | None:
    """Names by contiguous id, where things and stuff share one range of ids."""
    ids = {
        *(meta.get("thing_dataset_id_to_contiguous_id") or {}).values(),
        *(meta.get("stuff_dataset_id_to_contiguous_id") or {}).values(),
    }
    names = meta.get("stuff_classes")
    if not ids or (names is not None and len(names) == len(ids)):
        return names
    return [str(i) for i in sorted(ids)]


# The richest first: a dataset may have several.
_KINDS = (
    _Kind(
        entry="pan_seg_file_name",
        parts="segments_info",
        task="panoptic",
        holds="panoptic maps",
        classes=_panoptic_classes,
        check=_check_segments,
    ),
    _Kind(
        entry="annotations",
        parts="annotations",
        task="instance",
        holds="objects",
        classes=lambda meta: meta.get("thing_classes"),
        check=_check_objects,
    ),
    _Kind(
        entry="sem_seg_file_name",
        parts="",
        task="semantic",
        holds="label maps",
        classes=lambda meta: meta.get("stuff_classes"),
        check=_check_label_map,
    ),
)


def _kind(name: str, records: list[dict], mapper: str | None, wanted: str | None) -> _Kind:
    """What to check the dataset for: what the mapper wants, or else what there is."""
    there = [kind for kind in _KINDS if kind.entry in records[0]]
    if wanted is None:
        return there[0] if there else _KINDS[-1]
    kind = next(kind for kind in _KINDS if kind.entry == wanted)
    if kind in there or not there:
        return kind
    fitting = [key for key, value in MAPPERS.items() if value.annotation == there[0].entry]
    raise DatasetError(
        f"INPUT.DATASET_MAPPER_NAME is {mapper}, which reads {kind.holds}, but {name} has "
        f"{' and '.join(k.holds for k in there)}. Set INPUT.DATASET_MAPPER_NAME to "
        f"{' or '.join(fitting)}, or choose another dataset in DATASETS.TRAIN."
    )


def _check_num_classes(name: str, classes: list[str] | None, num_classes: int) -> None:
    if classes is not None and len(classes) != num_classes:
        raise DatasetError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}, but {name} has {len(classes)} "
            f"classes ({some(classes)}). Set MODEL.SEM_SEG_HEAD.NUM_CLASSES {len(classes)}."
        )


def _check_files(name: str, records: list[dict], entry: str) -> None:
    keys = ["file_name"] + ([entry] if entry.endswith("file_name") else [])
    files = [record[key] for record in records for key in keys]

    def problem(file: str) -> str | None:
        try:
            return None if os.stat(file).st_size else f"{file} (empty)"
        except OSError as error:
            return f"{file} ({error.strerror})"

    with ThreadPoolExecutor(_THREADS) as pool:
        local = (file for file in files if "://" not in file)
        problems = [text for text in pool.map(problem, local, chunksize=64) if text]
    if problems:
        raise DatasetError(
            f"{name}: {len(problems)} of {len(files)} files cannot be used: {some(problems)}. "
            "Restore them, or prepare the dataset again (datasets/README.md)."
        )

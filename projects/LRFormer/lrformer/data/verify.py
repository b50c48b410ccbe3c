"""Checks of a dataset before the first iteration, so that a long run does not die on a bad file."""

import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from detectron2.data import Metadata, MetadataCatalog

from ..referring.datasets import read_phrases
from .build import MAPPERS, mapper_class
from .catalog import load_dataset
from .masks import check_category, object_mask, read_segments
from .metadata import IGNORE_LABEL, SIZES
from .reading import Size, check_image, check_size, image_size, read_checked_label, read_image
from .tree import DatasetError, some

logger = logging.getLogger(__name__)

_MAX_LABELS = 500
_THREADS = 8
_ENDS = {".png": b"IEND\xaeB`\x82", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}


def verify_dataset(name: str, num_classes: int, mapper: str | None = None) -> None:
    """Check a registered dataset, the number of classes and the choice of the mapper.

    It may have label maps, COCO's objects, COCO's panoptic segments or phrases. Every file is
    looked for, and whether it is cut off; the class of every object and segment is checked. Maps
    are read and compared with their images' sizes, and masks are decoded: all of them if there are
    few, else those of a few hundred images spread evenly (the mappers check what they read); of a
    dataset that is evaluated on, where none may be skipped, so are the images.

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
    records, meta = load_dataset(name), MetadataCatalog.get(name)
    entry = _entry(name, records[0], mapper, wanted)
    kind = _KINDS[entry]
    classes = kind.classes(meta)
    if classes is not None and len(classes) != num_classes:
        raise DatasetError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}, but {name} has {len(classes)} "
            f"classes ({some(classes)}). Set MODEL.SEM_SEG_HEAD.NUM_CLASSES {len(classes)}."
        )
    names, sizes = meta.get("stuff_classes", ()), meta.get("stuff_sizes")
    if sizes and (len(sizes) != len(names) or not set(sizes) <= set(SIZES)):
        raise DatasetError(
            f"{name}: stuff_sizes in its metadata has to name one of {', '.join(SIZES)} for each "
            f"of its {len(names)} stuff_classes; found {some(sizes, 5)}."
        )
    without = [record["file_name"] for record in records if record.get(entry) is None]
    if without:
        raise DatasetError(
            f"{name}: {len(without)} of {len(records)} entries have no {entry} ({some(without)})."
        )
    files = [record["file_name"] for record in records]
    if entry.endswith("file_name"):
        files += [record[entry] for record in records]
    _check_files(name, files)
    for record in records:
        for part in record.get(kind.parts, ()):
            check_category(part["category_id"], record["file_name"], num_classes)
    ignore_label = meta.get("ignore_label", IGNORE_LABEL)

    def check(index: float) -> None:
        record = records[int(index)]
        file_name = record["file_name"]
        size = image_size(file_name) if mapper else read_image(file_name).shape[:2]
        check_size(file_name, size, record)
        kind.check(record, size, num_classes, ignore_label)

    spread = np.linspace(0, len(records) - 1, min(len(records), _MAX_LABELS))
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(check, spread))
    logger.info(
        f"{name}: {len(records)} images; {kind.holds} of {len(spread)} images checked in "
        f"{time.perf_counter() - start:.1f} s."
    )


class _Kind(NamedTuple):
    """What the images of a dataset are annotated with."""

    holds: str  # in words
    parts: str  # the entry of a dataset dict that lists objects or segments, if any
    classes: Callable[[Metadata], list[str] | None]  # names; None: the metadata does not say
    check: Callable  # (dataset dict, image's size, number of classes, ignore label)


def _panoptic_classes(meta: Metadata) -> list[str] | None:
    """Names by contiguous id, where things and stuff share one range of ids."""
    known = (meta.get(f"{kind}_dataset_id_to_contiguous_id") for kind in ("thing", "stuff"))
    ids = {label for table in known for label in (table or {}).values()}
    names = meta.get("stuff_classes")
    return sorted(ids) if ids and len(ids) != len(names or ()) else names


def _draw_objects(record: dict, size: Size, *_: int) -> None:
    for annotation in record["annotations"]:
        object_mask(annotation, record["file_name"], size)


# By the entry of a dataset dict; the richest first, as a dataset may have several.
_KINDS = {
    "pan_seg_file_name": _Kind(
        "panoptic maps",
        "segments_info",
        _panoptic_classes,
        lambda record, size, num_classes, _: read_segments(record, size, num_classes),
    ),
    "annotations": _Kind(
        "objects", "annotations", lambda meta: meta.get("thing_classes"), _draw_objects
    ),
    "sem_seg_file_name": _Kind(
        "label maps", "", lambda meta: meta.get("stuff_classes"), read_checked_label
    ),
    "referring": _Kind(
        "phrases", "", lambda meta: None, lambda record, size, *_: read_phrases(record, size)
    ),
}


def _entry(name: str, record: dict, mapper: str | None, wanted: str | None) -> str:
    """The key of ``_KINDS`` to check: what the mapper wants, or else the richest that there is."""
    there = [entry for entry in _KINDS if entry in record]
    entry = wanted or next(iter(there), "sem_seg_file_name")
    if not there or entry in there:
        return entry
    fitting = [key for key, value in MAPPERS.items() if value.annotation == there[0]]
    raise DatasetError(
        f"INPUT.DATASET_MAPPER_NAME is {mapper}, which reads {_KINDS[entry].holds}, but {name} has "
        f"{' and '.join(_KINDS[e].holds for e in there)}. Set INPUT.DATASET_MAPPER_NAME to "
        f"{' or '.join(fitting)}, or choose another dataset in DATASETS.TRAIN."
    )


def _check_files(name: str, files: list[str]) -> None:
    def problem(file: str) -> str | None:
        try:
            if "://" in file or _is_ended(file):
                return None
            if os.stat(file).st_size == 0:
                return f"{file} (empty)"
            check_image(file)
        except DatasetError as error:
            return f"{file} (damaged: {error.__cause__})"
        except OSError as error:
            return f"{file} ({error.strerror})"
        return None

    with ThreadPoolExecutor(_THREADS) as pool:
        problems = [text for text in pool.map(problem, files, chunksize=64) if text]
    if problems:
        raise DatasetError(
            f"{name}: {len(problems)} of {len(files)} files cannot be used: {some(problems)}. "
            "Restore them, or prepare the dataset again (datasets/README.md)."
        )


def _is_ended(file: str) -> bool:
    """Whether a JPEG or PNG ends as it should; some whole ones have more behind it."""
    end = _ENDS.get(os.path.splitext(file)[1].lower(), b"")
    size = os.stat(file).st_size
    with open(file, "rb") as stream:
        stream.seek(max(0, size - len(end)))
        return size > 0 and stream.read() == end

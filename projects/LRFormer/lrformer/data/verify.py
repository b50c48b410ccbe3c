"""Checks of a dataset before the first iteration, so that a long run does not die on a bad file."""

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from detectron2.data import MetadataCatalog

from .builtin import load_dataset
from .metadata import IGNORE_LABEL
from .reading import check_label, image_size, read_label
from .tree import DatasetError, some

logger = logging.getLogger(__name__)

_MAX_LABELS = 500
_THREADS = 8


def verify_dataset(name: str, num_classes: int) -> None:
    """Check a registered semantic segmentation dataset and the number of classes.

    Every file is looked for. Label maps are read and compared with their images' sizes: all of
    them if there are few, else a few hundred spread evenly (the mapper checks each label that it
    reads).

    Args:
        name: the dataset's name in detectron2's catalogs.
        num_classes: ``MODEL.SEM_SEG_HEAD.NUM_CLASSES``.

    Raises:
        DatasetError: naming the key or the file at fault, what was expected and what was found.
    """
    start = time.perf_counter()
    _check_num_classes(name, num_classes)
    records = load_dataset(name)
    without = [r["file_name"] for r in records if "sem_seg_file_name" not in r]
    if without:
        raise DatasetError(
            f"{name}: {len(without)} of {len(records)} entries have no sem_seg_file_name "
            f"({some(without)}); it is no dataset for semantic segmentation."
        )
    _check_files(name, records)
    spread = np.linspace(0, len(records) - 1, min(len(records), _MAX_LABELS))
    sample = [records[int(index)] for index in spread]
    ignore_label = MetadataCatalog.get(name).get("ignore_label", IGNORE_LABEL)

    def check(record: dict) -> None:
        label_file = record["sem_seg_file_name"]
        size = image_size(record["file_name"])
        check_label(read_label(label_file), label_file, num_classes, ignore_label, size)

    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(check, sample):
            pass
    logger.info(
        f"{name}: {len(records)} images; {len(sample)} label maps checked in "
        f"{time.perf_counter() - start:.1f} s."
    )


def _check_num_classes(name: str, num_classes: int) -> None:
    classes = MetadataCatalog.get(name).get("stuff_classes")
    if classes is not None and len(classes) != num_classes:
        raise DatasetError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}, but {name} has {len(classes)} "
            f"classes ({some(classes)}). Set MODEL.SEM_SEG_HEAD.NUM_CLASSES {len(classes)}."
        )


def _check_files(name: str, records: list[dict]) -> None:
    files = [record[key] for record in records for key in ("file_name", "sem_seg_file_name")]

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

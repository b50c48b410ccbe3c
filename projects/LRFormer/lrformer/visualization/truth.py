"""Ground truth from files and dataset records, in the form that is drawn."""

from typing import Any

import numpy as np

from lrformer.data import DatasetError
from lrformer.data.masks import number_segments, object_mask
from lrformer.data.reading import check_label, check_map_size, check_size, read_label, read_panoptic

from .segments import Segment, segments_of_panoptic

# What a model can predict (its output's name), and where detectron2's records have its ground
# truth.
TRUTH_KEYS = {
    "sem_seg": "sem_seg_file_name",
    "instances": "annotations",
    "panoptic_seg": "pan_seg_file_name",
}


def read_truth(
    record: dict[str, Any], task: str, size: tuple[int, int], metadata: Any
) -> np.ndarray | list[Segment]:
    """The ground truth of one image.

    Args:
        record: in detectron2's dataset format.
        task: a key of ``TRUTH_KEYS``.
        size: height and width of the image.
        metadata: for the number of classes and the ignore label.

    Returns:
        H x W class map for "sem_seg", else segments.

    Raises:
        DatasetError: what the record names cannot be read, or does not fit the image.
    """
    if task == "sem_seg":
        return _read_label(record["sem_seg_file_name"], size, metadata)
    if task == "instances":
        check_size(record["file_name"], size, record)
        return _read_annotations(record["annotations"], record["file_name"], size)
    return _read_panoptic(record["pan_seg_file_name"], record.get("segments_info"), size)


def _read_label(file_name: str, size: tuple[int, int], metadata: Any) -> np.ndarray:
    label = read_label(file_name)
    num_classes = len(metadata.get("stuff_classes", ())) or 2**16
    check_label(label, file_name, num_classes, metadata.get("ignore_label", 255), size)
    return label


def _read_annotations(
    annotations: list[dict], file_name: str, size: tuple[int, int]
) -> list[Segment]:
    segments = []
    for annotation in annotations:
        if not annotation.get("segmentation"):  # a box alone
            continue
        mask = object_mask(annotation, file_name, size).astype(bool)
        if mask.any():
            crowd = bool(annotation.get("iscrowd", 0))
            segments.append(Segment(mask, annotation["category_id"], crowd=crowd))
    return segments


def _read_panoptic(
    file_name: str, segments_info: list[dict] | None, size: tuple[int, int]
) -> list[Segment]:
    if segments_info is None:
        raise DatasetError(f"{file_name}: no segments_info in the dataset dict of its image.")
    ids = read_panoptic(file_name)
    check_map_size(ids, file_name, size)
    number_segments(ids, segments_info, file_name)  # for its checks
    return segments_of_panoptic(ids, segments_info)

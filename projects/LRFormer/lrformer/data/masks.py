"""From COCO's annotations to masks: polygons and run lengths, and maps of segment ids."""

from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import transforms as T
from detectron2.structures.masks import polygons_to_bitmask

from .reading import Size, check_map_size, compare_sizes, read_panoptic
from .tree import DatasetError, some


def check_category(category: int, file_name: str, num_classes: int) -> None:
    """Raise DatasetError for the class of an object or a segment that is not below num_classes."""
    if not 0 <= category < num_classes:
        raise DatasetError(
            f"{file_name}: found category_id {category}; expected 0..{num_classes - 1} "
            f"(MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes})."
        )


def object_mask(
    annotation: dict[str, Any],
    file_name: str,
    size: Size,
    transforms: T.TransformList | None = None,
    new_size: Size | None = None,
) -> np.ndarray:
    """Draw the mask of an object after ``transforms``: an H×W array of ``new_size``, bool or uint8.

    Polygons are transformed before they are drawn, so that they are exact at any scale; run lengths
    are decoded and take the nearest pixel.

    Args:
        annotation: in detectron2's form; its "segmentation" is a list of polygons [x0, y0, x1, …]
            or COCO's run lengths, compressed or not.
        file_name, size: the image that it is of, and that image's height and width.

    Raises:
        DatasetError: the segmentation is missing, malformed or of another size.
    """
    segmentation = annotation.get("segmentation")
    transforms = T.TransformList([]) if transforms is None else transforms
    try:
        if isinstance(segmentation, dict):
            what = "an object's run lengths are for"
            compare_sizes(f"{file_name}: the image", size, what, tuple(segmentation["size"]))
            return transforms.apply_segmentation(_run_length_mask(segmentation, size))
        return _polygon_mask(segmentation, transforms, new_size or size)
    except DatasetError:
        raise
    # What NumPy and pycocotools raise for numbers and texts that are none of theirs.
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise DatasetError(
            f"{file_name}: the segmentation of an object (category_id "
            f"{annotation.get('category_id')}) cannot be drawn: {type(error).__name__}: {error}. "
            "Expected are polygons or run lengths; boxes alone cannot be trained on."
        ) from error


def _run_length_mask(rle: dict, size: Size) -> np.ndarray:
    counts = rle["counts"]
    total = sum(counts) if isinstance(counts, list) else _num_pixels(counts)
    if total != size[0] * size[1]:
        # pycocotools would leave the pixels that are missing as its memory happens to be.
        raise ValueError(f"its counts sum up to {total}, not {size[0] * size[1]}")
    return mask_util.decode(mask_util.frPyObjects(rle, *size) if isinstance(counts, list) else rle)


def _num_pixels(counts: str | bytes) -> int:
    """The number of pixels of compressed counts."""
    # Five bits a character, the lowest first, bit 5 set where more follow and bit 4 of the last one
    # the sign; from the fourth on a count is its difference to the one before the last.
    data = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, np.uint8)
    data = data.astype(np.int64) - 48
    if not len(data) or data[-1] & 0x20 or data.min() < 0 or data.max() > 0x3F:
        raise ValueError("its counts are no compressed run lengths")
    last = np.flatnonzero(data & 0x20 == 0)
    first = np.concatenate(([0], last[:-1] + 1))
    shift = 5 * (np.arange(len(data)) - np.repeat(first, last - first + 1))
    values = np.add.reduceat((data & 0x1F) << shift, first)
    values -= (data[last] & 0x10) << (shift[last] + 1)
    return int(values[0] + values[1::2].cumsum().sum() + values[2::2].cumsum().sum())


def _polygon_mask(polygons: list, transforms: T.TransformList, size: Size) -> np.ndarray:
    points = [np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in polygons]
    if not points or any(len(p) < 3 or not np.isfinite(p).all() for p in points):
        raise ValueError("a polygon needs three points or more, as numbers x0, y0, x1, …")
    # Not apply_polygons, which cuts them at a crop's borders: drawing does that by itself.
    points = [transforms.apply_coords(polygon) for polygon in points]
    height, width = size
    # Most of what a crop does not show needs no drawing.
    seen = [p for p in points if (p.max(0) > 0).all() and (p.min(0) < (width, height)).all()]
    if not seen:
        return np.zeros(size, dtype=bool)
    return polygons_to_bitmask([p.reshape(-1) for p in seen], height, width)


def read_segments(record: dict[str, Any], size: Size, num_classes: int) -> np.ndarray:
    """:func:`number_segments` of a dataset dict, checked against its image's size and the classes.

    Raises:
        DatasetError: the map cannot be read, or does not fit the image or "segments_info".
    """
    file_name = record["pan_seg_file_name"]
    if record.get("segments_info") is None:
        raise DatasetError(f"{file_name}: no segments_info in the dataset dict of its image.")
    ids = read_panoptic(file_name)
    check_map_size(ids, file_name, size)
    for segment in record["segments_info"]:
        check_category(segment["category_id"], file_name, num_classes)
    return number_segments(ids, record["segments_info"], file_name)


def number_segments(ids: np.ndarray, segments: list[dict], file_name: str) -> np.ndarray:
    """Number the segments of a map of ids in the order of COCO's "segments_info", from 1 on.

    Returns:
        H×W uint8, or int32 if there are more than 255; 0 where ``ids`` is.

    Raises:
        DatasetError: map and list do not hold the same ids.
    """
    flat = ids.ravel()
    # Neighbours mostly have the same id: looking up each run is cheaper than each pixel.
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    values = np.unique(flat[starts])
    found = values.tolist()
    listed = [segment["id"] for segment in segments]
    number_of = {segment: number for number, segment in enumerate(listed, 1)}
    for fault, which in (
        ("found segment {0}, which {1} does not list", set(found) - {0, *listed}),
        ("{1} lists segment {0}, of which the map has no pixel", set(listed) - set(found)),
        ("{1} lists segment {0} twice", {s for n, s in enumerate(listed, 1) if number_of[s] != n}),
    ):
        if which:
            message = fault.format(some(sorted(which)), "segments_info of its annotation")
            raise DatasetError(f"{file_name}: {message}.")
    dtype = np.uint8 if len(listed) <= 255 else np.int32
    numbers = np.array([number_of.get(segment, 0) for segment in found], dtype)
    numbers = numbers[np.searchsorted(values, flat[starts])]
    return np.repeat(numbers, np.diff(starts, append=flat.size)).reshape(ids.shape)


def transform_numbers(numbers: np.ndarray, transforms: T.TransformList) -> np.ndarray:
    """Apply ``transforms`` to a map of numbers below 2¹⁶, exactly: each takes the nearest pixel."""
    # detectron2 resizes 8-bit maps as it does images; in floating-point the nearest pixel is
    # another, half a pixel off.
    if numbers.dtype == np.uint8:
        return transforms.apply_segmentation(numbers)
    low, high = (transforms.apply_segmentation((numbers >> b).astype(np.uint8)) for b in (0, 8))
    return low.astype(np.int32) | high.astype(np.int32) << 8


def masks_of_values(values_map: np.ndarray, values: np.ndarray, size: Size) -> torch.Tensor:
    """A mask for each of T ``values`` of an h×w map, as T×H×W bool tensor of ``size`` (H, W).

    They are False on what ``size`` adds at the right and the bottom.
    """
    # NumPy all along: for arrays this small PyTorch's threads cost more than they gain.
    masks = np.zeros((len(values), *size), dtype=bool)
    height, width = values_map.shape
    values = values.astype(values_map.dtype)[:, None, None]
    np.equal(values_map, values, out=masks[:, :height, :width])
    return torch.from_numpy(masks)


def stack_masks(masks: list[np.ndarray], size: Size) -> torch.Tensor:
    """T masks h×w as one T×H×W bool tensor, False on what ``size`` adds."""
    stacked = np.zeros((len(masks), *size), dtype=bool)
    for target, mask in zip(stacked, masks, strict=True):
        height, width = mask.shape
        if mask.flags.f_contiguous:
            # As pycocotools draws; OpenCV transposes several times as fast as NumPy.
            mask = cv2.transpose(mask.T.view(np.uint8))
        np.not_equal(mask, 0, out=target[:height, :width])
    return torch.from_numpy(stacked)

"""From COCO's annotations to masks: polygons and run lengths, and maps of segment ids."""

from collections import Counter
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import transforms as T
from detectron2.structures.masks import polygons_to_bitmask

from .tree import DatasetError, some

Size = tuple[int, int]


def check_category(category: int, file_name: str, num_classes: int) -> None:
    """Check the class of an object or a segment.

    Raises:
        DatasetError: it is not in 0..num_classes-1.
    """
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
    """Draw the mask of an object.

    Polygons are transformed before they are drawn, so that they are exact at any scale; run lengths
    are decoded and take the nearest pixel.

    Args:
        annotation: in detectron2's form; its "segmentation" is a list of polygons [x0, y0, x1, …]
            or COCO's run lengths, compressed or not.
        file_name: of the image, for messages.
        size: height and width of the image that the annotation was made for.
        transforms: to apply to the mask.
        new_size: height and width after them.

    Returns:
        H×W array, bool or uint8.

    Raises:
        DatasetError: the segmentation is missing, malformed or of another size.
    """
    segmentation = annotation.get("segmentation")
    try:
        if isinstance(segmentation, dict):
            return _run_length_mask(segmentation, file_name, size, transforms)
        if isinstance(segmentation, list) and segmentation:
            return _polygon_mask(segmentation, size, transforms, new_size)
    except DatasetError:
        raise
    # What NumPy and pycocotools raise for numbers and texts that are none of theirs.
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise DatasetError(
            f"{file_name}: the segmentation of an object (category_id "
            f"{annotation.get('category_id')}) cannot be decoded: {error!r}."
        ) from error
    raise DatasetError(
        f"{file_name}: the segmentation of an object (category_id {annotation.get('category_id')}) "
        f"is {segmentation!r}; expected polygons or run lengths. Boxes alone cannot be trained on."
    )


def _run_length_mask(
    rle: dict, file_name: str, size: Size, transforms: T.TransformList | None
) -> np.ndarray:
    if tuple(rle["size"]) != tuple(size):
        raise DatasetError(
            f"{file_name}: the image is {size[1]}x{size[0]} but an object's run lengths are for "
            f"{rle['size'][1]}x{rle['size'][0]} (width x height); they have to agree."
        )
    counts = rle["counts"]
    total = sum(counts) if isinstance(counts, list) else _length(counts)
    if total != size[0] * size[1]:
        # pycocotools would leave the pixels that are missing as its memory happens to be.
        raise ValueError(f"its counts sum up to {total}, not {size[0] * size[1]}")
    if isinstance(counts, list):
        rle = mask_util.frPyObjects(rle, *size)
    mask = mask_util.decode(rle)
    return mask if transforms is None else transforms.apply_segmentation(mask)


def _length(counts: str | bytes) -> int:
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


def _polygon_mask(
    polygons: list, size: Size, transforms: T.TransformList | None, new_size: Size | None
) -> np.ndarray:
    points = [np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in polygons]
    if any(len(polygon) < 3 or not np.isfinite(polygon).all() for polygon in points):
        raise ValueError("a polygon needs three points or more, as numbers x0, y0, x1, …")
    if transforms is not None:
        # Not apply_polygons, which cuts them at a crop's borders: drawing does that by itself.
        points = [transforms.apply_coords(polygon) for polygon in points]
    height, width = new_size or size
    # Most of what a crop does not show needs no drawing.
    seen = [p for p in points if (p.max(0) > 0).all() and (p.min(0) < (width, height)).all()]
    if not seen:
        return np.zeros((height, width), dtype=bool)
    return polygons_to_bitmask([p.reshape(-1) for p in seen], height, width)


def number_segments(ids: np.ndarray, segments: list[dict], file_name: str) -> np.ndarray:
    """Number the segments of a panoptic map in the order of ``segments``, from 1 on.

    Args:
        ids: H×W segment ids, 0 where there is none.
        segments: COCO's "segments_info".
        file_name: of the map, for messages.

    Returns:
        H×W array of numbers, uint8, or int32 if there are more than 255.

    Raises:
        DatasetError: map and list do not hold the same ids.
    """
    listed = np.array([segment["id"] for segment in segments], dtype=np.int64)
    order = np.argsort(listed)
    # Neighbours mostly have the same id: looking up each run is cheaper than each pixel.
    flat = ids.ravel()
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    values = flat[starts]
    place = np.searchsorted(listed, values, sorter=order).clip(max=max(len(listed) - 1, 0))
    number = order[place] + 1 if len(listed) else np.zeros_like(values)
    known = listed[order[place]] == values if len(listed) else np.zeros(len(values), bool)
    number = np.where(known, number, 0)

    strange = np.unique(values[~known & (values != 0)])
    if len(strange):
        raise DatasetError(
            f"{file_name}: found segment {some(strange)}, which segments_info of its annotation "
            "does not list."
        )
    missing = np.setdiff1d(np.arange(1, len(listed) + 1), number)
    if len(missing):
        repeated = [i for i, count in Counter(listed.tolist()).items() if count > 1]
        if repeated:
            raise DatasetError(f"{file_name}: segments_info lists segment {some(repeated)} twice.")
        raise DatasetError(
            f"{file_name}: segments_info of its annotation lists segment "
            f"{some(listed[missing - 1])}, of which the map has no pixel."
        )
    number = number.astype(np.uint8 if len(listed) <= 255 else np.int32)
    lengths = np.diff(starts, append=flat.size)
    return np.repeat(number, lengths).reshape(ids.shape)


def transform_numbers(numbers: np.ndarray, transforms: T.TransformList) -> np.ndarray:
    """Apply ``transforms`` to a map of numbers below 2¹⁶, exactly: each takes the nearest pixel."""
    # detectron2 resizes 8-bit maps as it does images; in floating-point the nearest pixel is
    # another, half a pixel off.
    if numbers.dtype == np.uint8:
        return transforms.apply_segmentation(numbers)
    low, high = (transforms.apply_segmentation((numbers >> b).astype(np.uint8)) for b in (0, 8))
    return low.astype(np.int32) | high.astype(np.int32) << 8


def masks_of_values(values_map: np.ndarray, values: np.ndarray, size: Size) -> torch.Tensor:
    """A mask for each of ``values``, False on what ``size`` adds at the right and the bottom.

    Args:
        values_map: h×w.
        values: T, of values that ``values_map`` may have.
        size: (H, W), at least (h, w).

    Returns:
        T×H×W bool.
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

"""Text on pictures: how large it is, and where it fits."""

import cv2
import numpy as np

# Share of a text's box that may lie on things other than its own.
_MAX_COVERED = 0.1
# Pixels that stay free between text and the picture's edge.
_EDGE = 2

Point = tuple[float, float]


def font_size(height: int, width: int) -> int:
    """Size, in pixels, of the text in and around a picture of this size."""
    return int(np.clip((height * width) ** 0.5 / 32, 13, 36))


def box_around(center: Point, height: float, width: float) -> tuple[slice, slice]:
    """The pixels that a box touches whose centre, (x, y), is there; an index of H x W arrays."""
    (x, y), ends = center, np.array((-0.5, 0.5))
    (left, right), (top, bottom) = x + width * ends, y + height * ends
    return slice(int(top), int(np.ceil(bottom))), slice(int(left), int(np.ceil(right)))


def place_inside(mask: np.ndarray, height: float, width: float, step: float) -> Point | None:
    """The centre (x, y) of a box of this size in ``mask``, far from its boundary, or None.

    The search goes in steps of ``step`` pixels.
    """
    step = max(1, int(step))
    # Zeros around it: the picture's edge ends a segment.
    coarse = np.pad(mask[::step, ::step].astype(np.uint8), 1)
    kernel = np.ones((int(np.ceil(height / step)), int(np.ceil(width / step))), np.uint8)
    fits = cv2.erode(coarse, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    if not fits.any():
        return None
    openness = np.where(fits, cv2.distanceTransform(coarse, cv2.DIST_L2, 3), 0)
    # In a strip many places are equally open; of those take the middle one.
    places = np.argwhere(openness >= 0.9 * openness.max())
    y, x = places[np.square(places - places.mean(axis=0)).sum(axis=1).argmin()]
    return (x - 0.5) * step, (y - 0.5) * step


def place_beside(
    mask: np.ndarray, taken: np.ndarray, others: np.ndarray, height: float, width: float
) -> Point | None:
    """The centre (x, y) of a box of this size above, below or at a side of ``mask``.

    None where every one of them leaves the picture, touches text (in ``taken``, H x W bool), or
    hides too much of what should stay visible (``others``, H x W bool).
    """
    bottom_end, right_end = mask.shape[0] - height / 2, mask.shape[1] - width / 2
    left, top, w, h = cv2.boundingRect(mask.astype(np.uint8))
    # Pushed inside along the edge that it is beside.
    x = np.clip(left + w / 2, width / 2 + _EDGE, right_end - _EDGE)
    y = np.clip(top + h / 2, height / 2 + _EDGE, bottom_end - _EDGE)
    above, below = (x, top - height / 2), (x, top + h + height / 2)
    on_right, on_left = (left + w + width / 2, y), (left - width / 2, y)
    for center in (above, below, on_right, on_left):
        box = box_around(center, height, width)
        inside = width / 2 <= center[0] <= right_end and height / 2 <= center[1] <= bottom_end
        if inside and not taken[box].any() and others[box].mean() <= _MAX_COVERED:
            return center
    return None

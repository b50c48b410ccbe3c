"""Text on pictures: how large it is, and where it fits."""

from typing import NamedTuple

import cv2
import numpy as np

# Share of a text's box that may lie on things other than its own.
_MAX_COVERED = 0.1
# Pixels that stay free between text and the picture's edge.
_EDGE = 2


class Box(NamedTuple):
    """Pixels ``left`` to ``right`` and ``top`` to ``bottom``, the ends not included."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def center(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def cut(self, array: np.ndarray) -> np.ndarray:
        """The part of an H x W array that the box touches."""
        return array[
            int(np.floor(self.top)) : int(np.ceil(self.bottom)),
            int(np.floor(self.left)) : int(np.ceil(self.right)),
        ]


def font_size(height: int, width: int) -> int:
    """Size, in pixels, of the text in and around a picture of this size."""
    return int(np.clip((height * width) ** 0.5 / 32, 13, 36))


def place_inside(mask: np.ndarray, height: float, width: float, step: float) -> Box | None:
    """The box of this size in ``mask`` that is far from the mask's boundary.

    None where no box fits. The search goes in steps of ``step`` pixels.
    """
    step = max(1, int(step))
    # Zeros around it: the picture's edge ends a segment.
    coarse = np.pad(mask[::step, ::step].astype(np.uint8), 1)
    kernel = np.ones((int(np.ceil(height / step)), int(np.ceil(width / step))), np.uint8)
    if any(k > side for k, side in zip(kernel.shape, coarse.shape, strict=True)):
        return None
    fits = cv2.erode(coarse, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    if not fits.any():
        return None
    openness = np.where(fits, cv2.distanceTransform(coarse, cv2.DIST_L2, 3), 0)
    # In a strip many places are equally open; of those take the middle one.
    places = np.argwhere(openness >= 0.9 * openness.max())
    y, x = places[np.square(places - places.mean(axis=0)).sum(axis=1).argmin()]
    return _around((x - 0.5) * step, (y - 0.5) * step, height, width)


def place_beside(
    mask: np.ndarray, taken: np.ndarray, others: np.ndarray, height: float, width: float
) -> Box | None:
    """A box of this size above, below or at a side of ``mask``.

    None where every one of them leaves the picture, touches text, or hides too much of what is
    another's.

    Args:
        mask: H x W bool.
        taken: H x W bool, where text is already.
        others: H x W bool, what should stay visible.
        height, width: of the box.
    """
    picture_height, picture_width = mask.shape
    left, top, w, h = cv2.boundingRect(mask.astype(np.uint8))
    # Pushed inside along the edge that it is beside.
    x = _pushed_inside(left + w / 2, width, picture_width)
    y = _pushed_inside(top + h / 2, height, picture_height)
    for center in (
        (x, top - height / 2),
        (x, top + h + height / 2),
        (left + w + width / 2, y),
        (left - width / 2, y),
    ):
        box = _around(*center, height, width)
        inside = (
            box.left >= 0
            and box.top >= 0
            and box.right <= picture_width
            and box.bottom <= picture_height
        )
        if inside and not box.cut(taken).any() and box.cut(others).mean() <= _MAX_COVERED:
            return box
    return None


def _pushed_inside(center: float, length: float, picture: int) -> float:
    nearest = length / 2 + _EDGE
    return max(min(center, picture - nearest), nearest)


def _around(x: float, y: float, height: float, width: float) -> Box:
    return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)

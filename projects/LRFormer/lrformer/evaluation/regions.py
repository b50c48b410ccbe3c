"""Regions of a map of classes that have scores of their own: segments by size, and boundaries."""

import cv2
import numpy as np

# COCO's areas in pixels: a segment is small below the first, large from the second on.
_AREAS = (32**2, 96**2)


def segment_sizes(classes: np.ndarray) -> np.ndarray:
    """The size of the segment that each pixel lies in, as an index of ``SIZES``.

    A segment is a connected component of pixels of one class, where neighbours share an edge.

    Args:
        classes: H×W integers.

    Returns:
        H×W uint8.
    """
    segments = number_components(classes)
    areas = np.bincount(segments.ravel())
    return np.digitize(areas, _AREAS).astype(np.uint8)[segments]


def number_components(classes: np.ndarray) -> np.ndarray:
    """The segment that each pixel lies in, see :func:`segment_sizes`: H×W int32, from 1 on."""
    # Every other pixel of a map of twice the size; those in between link neighbours of one class.
    # So one pass finds the components of all classes.
    height, width = classes.shape
    links = np.ones((2 * height - 1, 2 * width - 1), np.uint8)
    links[1::2] = links[:, 1::2] = 0
    links[1::2, ::2] = classes[1:] == classes[:-1]
    links[::2, 1::2] = classes[:, 1:] == classes[:, :-1]
    return cv2.connectedComponents(links, connectivity=4)[1][::2, ::2]


def boundary(classes: np.ndarray, dilation_ratio: float) -> np.ndarray:
    """Where another class, or the image's edge, is near (Cheng et al., Boundary IoU, CVPR 2021).

    Within a class that is the G_d ∩ G of its mask G.

    Args:
        classes: H×W integers from 0 to 65534.
        dilation_ratio: the distance d, in steps to any of eight neighbours, as a share of the
            image's diagonal. It is a pixel at the least.

    Returns:
        H×W bool.
    """
    distance = max(1, round(dilation_ratio * np.hypot(*classes.shape)))
    window = np.ones((2 * distance + 1,) * 2, np.uint8)
    classes = classes.astype(np.uint16) + 1  # 0 is outside
    lowest = cv2.erode(classes, window, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return lowest != cv2.dilate(classes, window)

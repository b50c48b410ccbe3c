"""Augmentations that detectron2 lacks.

Crop, flip and photometric distortion are detectron2's own (:mod:`.fused_augmentation` computes them
with fewer operations): ``RandomCrop_CategoryAreaConstraint``
already takes the share among the labelled pixels only, asks for a second class, gives up after ten
draws and takes an image smaller than the crop whole; point_rend's ``ColorAugSSDTransform`` clips
where SSD does and wraps the hue around its circle.
"""

import sys

import numpy as np
from detectron2.data import transforms as T
from PIL import Image


class ResizeInRatioRange(T.Augmentation):
    """Resize, aspect kept, to fit ``(short_edge, long_edge)`` times a random ratio.

    The scale is the largest with which the short side is at most ``ratio * short_edge`` and the
    long side at most ``ratio * long_edge``: mmsegmentation's ``RandomResize``, with which LRFormer
    was trained, and its rounding.

    Args:
        short_edge, long_edge: bounds in pixels, at ratio 1.
        ratio_range: the ratio is drawn uniformly from [ratio_range[0], ratio_range[1]].
        interp: Pillow's interpolation for the image; label maps take the nearest pixel.
    """

    def __init__(
        self,
        short_edge: int,
        long_edge: int,
        ratio_range: tuple[float, float],
        interp: int = Image.BILINEAR,
    ):
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        ratio = self._rand_range(*self.ratio_range)
        scale = ratio * min(
            self.long_edge / max(height, width), self.short_edge / min(height, width)
        )
        new_height, new_width = (max(1, int(side * scale + 0.5)) for side in (height, width))
        return T.ResizeTransform(height, width, new_height, new_width, self.interp)


class ResizeAligned(T.Augmentation):
    """Resize as ``ResizeShortestEdge`` does, then stretch up to a multiple on each side.

    The "aligned resize" of the released models' test pipeline. There the image is interpolated
    twice; here both steps are one interpolation, which is sharper and cheaper.

    Args:
        short_edge: the short side in pixels; 0 keeps the image's size (but for the stretch).
        long_edge: upper bound of the long side, before the stretch.
        multiple: each side is rounded up to a multiple of this.
        interp: Pillow's interpolation.
    """

    def __init__(
        self,
        short_edge: int,
        long_edge: int = sys.maxsize,
        multiple: int = 32,
        interp: int = Image.BILINEAR,
    ):
        super().__init__()
        self._init(locals())
        self._resize = T.ResizeShortestEdge([short_edge], long_edge, "choice", interp)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        resize = self._resize.get_transform(image)
        if isinstance(resize, T.ResizeTransform):
            new_height, new_width = resize.new_h, resize.new_w
        else:
            new_height, new_width = height, width
        new_height, new_width = (
            -(-side // self.multiple) * self.multiple for side in (new_height, new_width)
        )
        return T.ResizeTransform(height, width, new_height, new_width, self.interp)

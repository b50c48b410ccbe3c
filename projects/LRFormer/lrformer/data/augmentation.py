"""What happens to an image and its annotations on their way to the model, by the ``INPUT`` keys.

The random numbers and the pixels of training are those of detectron2's own transforms (and of
point_rend's ``ColorAugSSDTransform``) one after the other; what stands here takes fewer operations.
"""

import math
import random
import sys

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from PIL import Image

_VALUES = np.arange(256, dtype=np.uint8)


def build_train_augmentation(
    cfg: CfgNode, large_scale_jitter: bool = False
) -> list[T.Augmentation | T.Transform]:
    """The training augmentations: resize, crop, flip, photometric distortion, in this order.

    Args:
        cfg: the config; its ``INPUT`` keys are read.
        large_scale_jitter: resize to fit a square of ``INPUT.IMAGE_SIZE`` times a factor drawn from
            [``INPUT.MIN_SCALE``, ``INPUT.MAX_SCALE``], then crop that square (arXiv 2012.07177).
            What is smaller has to be padded; ``FixedSizeCrop`` has one value for all channels.

    Raises:
        ValueError: keys of ``INPUT`` contradict each other; the message names them.
    """
    keys, flip = cfg.INPUT, cfg.INPUT.RANDOM_FLIP
    if flip not in ("none", "horizontal", "vertical"):
        raise ValueError(f"INPUT.RANDOM_FLIP must be none, horizontal or vertical; found {flip!r}.")
    if keys.COLOR_AUG_SSD and keys.FORMAT not in ("RGB", "BGR"):
        raise ValueError(f"INPUT.COLOR_AUG_SSD needs INPUT.FORMAT RGB or BGR, not {keys.FORMAT!r}.")
    if large_scale_jitter:
        crop = T.RandomCrop("absolute", (keys.IMAGE_SIZE, keys.IMAGE_SIZE))
        augmentations = [ResizeThenCrop(_jitter(cfg), crop)]
    elif keys.CROP.ENABLED:
        limit, ignored = keys.CROP.SINGLE_CATEGORY_MAX_AREA, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        crop = CropOfSeveralClasses(keys.CROP.TYPE, keys.CROP.SIZE, limit, ignored)
        augmentations = [ResizeThenCrop(_train_resize(cfg), crop)]
    else:
        augmentations = [_train_resize(cfg)]
    if flip != "none":
        horizontal = flip == "horizontal"
        augmentations.append(ContiguousFlip(horizontal=horizontal, vertical=not horizontal))
    if keys.COLOR_AUG_SSD:
        augmentations.append(PhotometricDistortion(keys.FORMAT))
    return augmentations


def _jitter(cfg: CfgNode) -> T.Augmentation:
    side, low, high = cfg.INPUT.IMAGE_SIZE, cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE
    if side < 1:
        raise ValueError(f"INPUT.IMAGE_SIZE must be 1 or more; found {side}.")
    if not 0 < low <= high:
        raise ValueError(
            "INPUT.MIN_SCALE and INPUT.MAX_SCALE must be 0 < MIN_SCALE <= MAX_SCALE; found "
            f"{low} and {high}."
        )
    return ResizeInRatioRange(side, side, (low, high))


def _train_resize(cfg: CfgNode) -> T.Augmentation:
    shorts, longest = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN
    ratios = list(cfg.INPUT.RESIZE_RATIO_RANGE)
    if not ratios:
        return ResizeShortestEdge(shorts, longest, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING)
    if len(shorts) != 1:
        raise ValueError(
            f"INPUT.RESIZE_RATIO_RANGE {ratios} scales one INPUT.MIN_SIZE_TRAIN; found "
            f"{len(shorts)} of them: {list(shorts)}. Give one, or empty the ratio range."
        )
    if len(ratios) != 2 or not 0 < ratios[0] <= ratios[1]:
        raise ValueError(f"INPUT.RESIZE_RATIO_RANGE must be [] or 0 < low <= high, not {ratios}.")
    return ResizeInRatioRange(shorts[0], longest, tuple(ratios))


def build_test_augmentation(cfg: CfgNode) -> list[T.Augmentation]:
    """How a test image is resized; not at all if test-time augmentation does it itself."""
    if cfg.TEST.AUG.ENABLED:
        return []
    short_edge, long_edge = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    if cfg.INPUT.ALIGN_TEST > 0:
        return [ResizeAligned(short_edge, long_edge, cfg.INPUT.ALIGN_TEST)]
    return [ResizeShortestEdge([short_edge], long_edge, "choice")]


class ResizeShortestEdge(T.ResizeShortestEdge):
    """detectron2's, but at least one pixel of a very long image's short side remains."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        resize = super().get_transform(image)
        if isinstance(resize, T.ResizeTransform):  # else the size is to be kept
            resize.new_h, resize.new_w = max(1, resize.new_h), max(1, resize.new_w)
        return resize


class ResizeInRatioRange(T.Augmentation):
    """Resize, aspect kept, to fit ``(short_edge, long_edge)`` times a ratio from ``ratio_range``.

    The scale is the largest with which the short side is at most ``ratio * short_edge`` and the
    long side at most ``ratio * long_edge``: mmsegmentation's ``RandomResize``, with which LRFormer
    was trained, and its rounding.
    """

    def __init__(self, short_edge: int, long_edge: int, ratio_range: tuple[float, float]):
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        ratio = self._rand_range(*self.ratio_range)
        scales = self.long_edge / max(height, width), self.short_edge / min(height, width)
        scale = ratio * min(scales)
        sides = (max(1, int(side * scale + 0.5)) for side in (height, width))
        return T.ResizeTransform(height, width, *sides, Image.BILINEAR)


class ResizeAligned(T.Augmentation):
    """Resize as ``ResizeShortestEdge`` does, then stretch up to a multiple on each side.

    The "aligned resize" of the released models' test pipeline. There the image is interpolated
    twice; here both steps are one interpolation, which is sharper and cheaper. A ``short_edge`` of
    0 leaves the stretch alone.
    """

    def __init__(self, short_edge: int, long_edge: int = sys.maxsize, multiple: int = 32):
        super().__init__()
        self._init(locals())
        self._resize = ResizeShortestEdge([short_edge], long_edge, "choice")

    def get_transform(self, image: np.ndarray) -> T.Transform:
        resize = _as_resize(self._resize.get_transform(image), image)
        sides = (-(-side // self.multiple) * self.multiple for side in (resize.new_h, resize.new_w))
        return T.ResizeTransform(resize.h, resize.w, *sides, Image.BILINEAR)


def _as_resize(transform: T.Transform, image: np.ndarray) -> T.ResizeTransform:
    """``transform``, or in the place of none the resize to the image's own size."""
    if isinstance(transform, T.ResizeTransform):
        return transform
    size = image.shape[:2]
    return T.ResizeTransform(*size, *size, Image.BILINEAR)


class ResizeThenCrop(T.Augmentation):
    """A resize and a crop, of which the image is computed only where the crop needs it.

    Args:
        resize: its transform must follow from the image's size alone.
        crop: its transform must follow from the image's size and the label map.
    """

    def __init__(self, resize: T.Augmentation, crop: T.Augmentation):
        super().__init__()
        self._init(locals())

    def __call__(self, aug_input: T.AugInput) -> T.TransformList:
        image, label = aug_input.image, aug_input.sem_seg
        resize = _as_resize(self.resize.get_transform(image), image)
        # The size of the resized image, without its pixels.
        shape = (resize.new_h, resize.new_w, *image.shape[2:])
        decided = T.AugInput(
            np.broadcast_to(np.zeros((), image.dtype), shape),
            sem_seg=None if label is None else resize.apply_segmentation(label),
        )
        crop = self.crop(decided)
        aug_input.image, aug_input.sem_seg = resize_and_crop(image, resize, crop), decided.sem_seg
        return T.TransformList([resize, crop])


def resize_and_crop(image: np.ndarray, resize: T.ResizeTransform, crop: T.Transform) -> np.ndarray:
    """What ``crop`` leaves of the image that ``resize`` gives, pixel for pixel.

    Pillow interpolates along rows, rounds to 8 bits and then interpolates along columns. A row of
    the first pass and a column of the second depend on no other, so those that the crop does not
    need are left out.
    """
    usual = image.dtype == np.uint8 and image.shape[2:] == (3,) and resize.interp == Image.BILINEAR
    if not usual or not isinstance(crop, T.CropTransform):
        return crop.apply_image(resize.apply_image(image))
    top, bottom, left, right = crop.y0, crop.y0 + crop.h, crop.x0, crop.x0 + crop.w
    height = image.shape[0]
    scale = height / resize.new_h
    reach = max(scale, 1) + 1  # of the triangle; one for rounding
    first = max(0, math.floor((top + 0.5) * scale - reach))
    last = min(height, math.ceil((bottom - 0.5) * scale + reach))
    rows = Image.fromarray(image[first:last]).resize((resize.new_w, last - first), resize.interp)
    # At the image's own height, so that Pillow comes to the same weights.
    columns = Image.new("RGB", (crop.w, height))
    columns.paste(rows.crop((left, 0, right, last - first)), (0, first))
    columns = columns.resize((crop.w, resize.new_h), resize.interp)
    return np.asarray(columns.crop((0, top, crop.w, bottom)))


class CropOfSeveralClasses(T.RandomCrop_CategoryAreaConstraint):
    """Its base, which sorts the pixels of a crop to count them; here 8-bit labels are counted.

    Without a label map the first crop is taken.
    """

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray | None) -> T.Transform:
        if sem_seg is None:
            return self.crop_aug.get_transform(image)
        if self.single_category_max_area >= 1 or sem_seg.dtype != np.uint8:
            return super().get_transform(image, sem_seg)
        for _ in range(10):
            crop = self.crop_aug.get_transform(sem_seg)
            counts = count_labels(crop.apply_segmentation(sem_seg))
            counts[self.ignored_category] = 0
            if counts.max() < counts.sum() * self.single_category_max_area:
                break
        return crop


def count_labels(label: np.ndarray) -> np.ndarray:
    """The number of pixels of each of the 256 labels of an 8-bit map (int64)."""
    return np.array(Image.fromarray(label).histogram(), dtype=np.int64)


class ContiguousFlip(T.RandomFlip):
    """detectron2's, but a flipped image lies in memory as any other, which is faster to read."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        flip = super().get_transform(image)
        return _HFlip(flip.width) if isinstance(flip, T.HFlipTransform) else flip


class _HFlip(T.HFlipTransform):
    def apply_image(self, img: np.ndarray) -> np.ndarray:
        if img.dtype == np.uint8 and img.strides[-1] == 1 and img.shape[2:] in ((), (3,)):
            return cv2.flip(img, 1)
        return super().apply_image(img)


class PhotometricDistortion(ColorAugSSDTransform):
    """point_rend's, by tables of the 256 values and without reordering "RGB" or "BGR" channels."""

    def __init__(self, img_format: str):
        super().__init__("BGR")  # the base reorders the channels of RGB only
        self._to_hsv = getattr(cv2, f"COLOR_{img_format}2HSV")
        self._from_hsv = getattr(cv2, f"COLOR_HSV2{img_format}")

    def convert(self, img: np.ndarray, alpha: float = 1, beta: float = 0) -> np.ndarray:
        return cv2.LUT(img, super().convert(_VALUES, alpha, beta))

    def saturation(self, img: np.ndarray) -> np.ndarray:
        if not random.randrange(2):
            return img
        factor = random.uniform(self.saturation_low, self.saturation_high)
        return self._in_hsv(img, 1, super().convert(_VALUES, alpha=factor))

    def hue(self, img: np.ndarray) -> np.ndarray:
        if not random.randrange(2):
            return img
        shift = random.randint(-self.hue_delta, self.hue_delta)
        # OpenCV's hue is in steps of two degrees.
        return self._in_hsv(img, 0, ((_VALUES.astype(int) + shift) % 180).astype(np.uint8))

    def _in_hsv(self, img: np.ndarray, channel: int, table: np.ndarray) -> np.ndarray:
        hsv = cv2.cvtColor(img, self._to_hsv)
        cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, channel), table), hsv, channel)
        return cv2.cvtColor(hsv, self._from_hsv)

"""detectron2's training augmentations with fewer operations: the same draws, the same pixels."""

import math
import random

import cv2
import numpy as np
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from PIL import Image

_VALUES = np.arange(256, dtype=np.uint8)


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
        image = aug_input.image
        resize = self.resize.get_transform(image)
        if not isinstance(resize, T.ResizeTransform):
            aug_input.transform(resize)
            return T.TransformList([resize, self.crop(aug_input)])
        # The size of the resized image, without its pixels.
        shape = (resize.new_h, resize.new_w, *image.shape[2:])
        label = aug_input.sem_seg
        decided = T.AugInput(
            np.broadcast_to(np.zeros((), image.dtype), shape),
            sem_seg=None if label is None else resize.apply_segmentation(label),
        )
        crop = self.crop(decided)
        aug_input.image = resize_and_crop(image, resize, crop)
        aug_input.sem_seg = decided.sem_seg
        transforms = T.TransformList([resize, crop])
        if aug_input.boxes is not None:
            aug_input.boxes = transforms.apply_box(aug_input.boxes)
        return transforms


def resize_and_crop(image: np.ndarray, resize: T.ResizeTransform, crop: T.Transform) -> np.ndarray:
    """What ``crop`` leaves of the image that ``resize`` gives, pixel for pixel.

    Pillow interpolates along rows, rounds to 8 bits and then interpolates along columns. A row of
    the first pass and a column of the second depend on no other, so those that the crop does not
    need are left out.
    """
    usual = image.dtype == np.uint8 and image.shape[2:] == (3,)
    if not usual or resize.interp != Image.BILINEAR or not isinstance(crop, T.CropTransform):
        return crop.apply_image(resize.apply_image(image))
    height, width = image.shape[:2]
    first, last = _needed(crop.y0, crop.y0 + crop.h, height, resize.new_h)
    left, right = crop.x0, crop.x0 + crop.w
    part = Image.fromarray(image[first:last])
    if resize.new_w != width:
        part = part.resize((resize.new_w, last - first), resize.interp)
    part = part.crop((left, 0, right, last - first))
    if resize.new_h == height:
        return np.asarray(part.crop((0, crop.y0 - first, crop.w, crop.y0 + crop.h - first)))
    # At the image's own height, so that Pillow comes to the same weights.
    columns = Image.new("RGB", (crop.w, height))
    columns.paste(part, (0, first))
    columns = columns.resize((crop.w, resize.new_h), resize.interp)
    return np.asarray(columns.crop((0, crop.y0, crop.w, crop.y0 + crop.h)))


def _needed(start: int, stop: int, old: int, new: int) -> tuple[int, int]:
    """The pixels that those from ``start`` to ``stop`` of a side made ``new`` are a mean of."""
    scale = old / new
    reach = max(scale, 1) + 1  # of the triangle; one for rounding
    first, last = (start + 0.5) * scale - reach, (stop - 0.5) * scale + reach
    return max(0, math.floor(first)), min(old, math.ceil(last))


class RandomCropOfSeveralClasses(T.RandomCrop_CategoryAreaConstraint):
    """Its base, which sorts the pixels of a crop to count them; here 8-bit labels are counted."""

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray) -> T.Transform:
        if self.single_category_max_area >= 1 or sem_seg.dtype != np.uint8:
            return super().get_transform(image, sem_seg)
        for _ in range(10):
            crop = self.crop_aug.get_transform(sem_seg)
            counts = count_labels(crop.apply_segmentation(sem_seg))
            if self.ignored_category is not None and 0 <= self.ignored_category < len(counts):
                counts[self.ignored_category] = 0
            most, total = counts.max(), counts.sum()
            # Not all of one class, which a largest share of just below 1 would let pass.
            if most < total and most < total * self.single_category_max_area:
                break
        return crop


def count_labels(label: np.ndarray) -> np.ndarray:
    """The number of pixels of each of the 256 labels of an 8-bit map (int64)."""
    return np.array(Image.fromarray(label).histogram(), dtype=np.int64)


class ContiguousFlip(T.RandomFlip):
    """detectron2's, but an image flipped lies in memory as one that is not.

    What comes after would copy it pixel by pixel.
    """

    def get_transform(self, image: np.ndarray) -> T.Transform:
        flip = super().get_transform(image)
        return _Flip(flip.width) if isinstance(flip, T.HFlipTransform) else flip


class _Flip(T.HFlipTransform):
    def apply_image(self, img: np.ndarray) -> np.ndarray:
        rows_whole = img.strides[-1] == img.itemsize
        if img.dtype == np.uint8 and img.ndim <= 3 and img.shape[2:] in ((), (3,)) and rows_whole:
            return cv2.flip(img, 1)
        return super().apply_image(img)


class PhotometricDistortion(ColorAugSSDTransform):
    """point_rend's, by tables of the 256 values and without reordering the channels.

    Args:
        img_format: "RGB" or "BGR".
    """

    def __init__(self, img_format: str):
        # The base reorders the channels of RGB only.
        super().__init__("BGR")
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

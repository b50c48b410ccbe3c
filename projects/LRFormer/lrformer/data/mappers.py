"""From a dataset dict to what the model takes; masks are made in :mod:`.mask_mappers`."""

import logging
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T

from .augmentation import build_test_augmentation, build_train_augmentation
from .reading import Size, check_size, read_checked_label, read_image
from .tree import DatasetError

logger = logging.getLogger(__name__)

# Entries of a dataset dict that say what is in the image.
_ANNOTATIONS = ("sem_seg_file_name", "annotations", "pan_seg_file_name", "segments_info")


class SegmentationMapper:
    """Read an image and its annotations, augment them, and turn them into tensors.

    A subclass says how annotations are read and what the model is given of them
    (:meth:`read_truth`, :meth:`make_target`); in testing all mappers do the same. Random numbers
    come from ``numpy.random`` and ``random``, which detectron2 seeds in every worker.

    Args:
        is_train: whether to read and augment the annotations.
        augmentations: applied in this order.
        image_format: "RGB" or "BGR", the order of the output's channels and of ``pixel_mean``.
        num_classes: labels above are an error.
        ignore_label: label of pixels that do not count, and of padding.
        pixel_mean: colour of padding, so that it is about 0 once the model has normalised it.
        min_side: images are padded at the right and the bottom to this side; -1 for not at all.
    """

    annotation: str  # the entry of a dataset dict that training needs
    large_scale_jitter = False  # whether it takes the place of the other training augmentations

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: list[T.Augmentation | T.Transform],
        image_format: str,
        num_classes: int,
        ignore_label: int,
        pixel_mean: list[float],
        min_side: int = -1,
    ):
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.pixel_mean = np.asarray(pixel_mean)
        self.min_side = min_side
        logger.info(f"Augmentations in {'training' if is_train else 'testing'}: {augmentations}")

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Read the ``INPUT`` keys; ``MODEL`` gives the classes, the ignore label and the mean."""
        augmentations, min_side = build_test_augmentation(cfg), -1
        if is_train:
            augmentations = build_train_augmentation(cfg, cls.large_scale_jitter)
            min_side = cfg.INPUT["IMAGE_SIZE" if cls.large_scale_jitter else "SIZE_DIVISIBILITY"]
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "ignore_label": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "min_side": min_side,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map one dataset dict.

        Returns:
            A copy with "image" (3×H×W uint8), "height" and "width" of the image file, and in
            training what :meth:`make_target` gives; without annotations.

        Raises:
            DatasetError: a file is missing or unreadable, image and annotations differ in size, or
                annotations are missing or out of range.
        """
        result = {key: value for key, value in dataset_dict.items() if key not in _ANNOTATIONS}
        file_name = result["file_name"]
        image = read_image(file_name, self.image_format)
        size = image.shape[:2]
        check_size(file_name, size, result)
        result["height"], result["width"] = size
        label = truth = None
        if self.is_train:
            if dataset_dict.get(self.annotation) is None:
                raise DatasetError(
                    f"{file_name}: no {self.annotation} in its dataset dict; this mapper "
                    f"({type(self).__name__}) is trained on a dataset that has them "
                    "(DATASETS.TRAIN, INPUT.DATASET_MAPPER_NAME)."
                )
            label, truth = self.read_truth(dataset_dict, size)
        inputs = T.AugInput(image, sem_seg=label)
        transforms = self.augmentations(inputs)
        # OpenCV takes channels apart several times as fast as NumPy transposes.
        image = np.stack(cv2.split(inputs.image))
        image = self._pad(image, np.rint(self.pixel_mean)[:, None, None])
        if self.is_train:
            result.update(self.make_target(truth, inputs, transforms, image.shape[1:]))
        result["image"] = torch.from_numpy(image)
        return result

    def read_truth(self, dataset_dict: dict[str, Any], size: Size) -> tuple[np.ndarray | None, Any]:
        """Read the annotations of an image of ``size``.

        Returns:
            A label map (H×W, uint8 or float32) for the augmentations, or None; and what
            :meth:`make_target` takes as ``truth``.
        """
        raise NotImplementedError

    def make_target(
        self, truth: Any, inputs: T.AugInput, transforms: T.TransformList, size: Size
    ) -> dict[str, Any]:
        """What the model is trained on, for an image that is padded to ``size``.

        ``transforms`` led to ``inputs``, the augmented image and label map before padding.
        """
        raise NotImplementedError

    def _augmentable(self, label: np.ndarray) -> np.ndarray:
        """``label`` in a data type that detectron2 can resize: 8 bits, or else floating-point."""
        small = max(self.num_classes - 1, self.ignore_label) <= 255
        return label.astype(np.uint8 if small else np.float32, copy=False)

    def _pad(self, array: np.ndarray, value: float | np.ndarray) -> np.ndarray:
        """Pad …×H×W to ``min_side`` with ``value``."""
        height, width = array.shape[-2:]
        size = (max(height, self.min_side), max(width, self.min_side))
        if size == (height, width):
            return array
        padded = np.full(array.shape[:-2] + size, value, dtype=array.dtype)
        padded[..., :height, :width] = array
        return padded


class SemSegMapper(SegmentationMapper):
    """From label maps to "sem_seg" (H×W int64, padded with the ignore label)."""

    annotation = "sem_seg_file_name"

    def read_truth(self, dataset_dict, size):
        label = read_checked_label(dataset_dict, size, self.num_classes, self.ignore_label)
        return self._augmentable(label), None

    def make_target(self, truth, inputs, transforms, size):
        label = self._pad(inputs.sem_seg, self.ignore_label)
        return {"sem_seg": torch.from_numpy(label.astype(np.int64))}

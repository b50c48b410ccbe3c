"""From a dataset dict to what the model takes."""

import logging
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform

from .augmentation import ResizeAligned, ResizeInRatioRange
from .reading import check_label, read_image, read_label
from .tree import DatasetError

logger = logging.getLogger(__name__)


def build_train_augmentation(cfg: CfgNode) -> list[T.Augmentation | T.Transform]:
    """The training augmentations: resize, crop, flip, photometric distortion, in this order.

    Raises:
        ValueError: keys of ``INPUT`` contradict each other; the message names them.
    """
    shorts = cfg.INPUT.MIN_SIZE_TRAIN
    ratios = cfg.INPUT.RESIZE_RATIO_RANGE
    if len(ratios) > 0:
        if len(shorts) != 1:
            raise ValueError(
                f"INPUT.RESIZE_RATIO_RANGE {list(ratios)} scales one INPUT.MIN_SIZE_TRAIN; found "
                f"{len(shorts)} of them: {list(shorts)}. Give one, or empty the ratio range."
            )
        if len(ratios) != 2 or not 0 < ratios[0] <= ratios[1]:
            raise ValueError(
                "INPUT.RESIZE_RATIO_RANGE must be empty or two ratios, 0 < low <= high; found "
                f"{list(ratios)}."
            )
        augmentations = [ResizeInRatioRange(shorts[0], cfg.INPUT.MAX_SIZE_TRAIN, tuple(ratios))]
    else:
        augmentations = [
            T.ResizeShortestEdge(
                shorts, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
            )
        ]
    if cfg.INPUT.CROP.ENABLED:
        augmentations.append(
            T.RandomCrop_CategoryAreaConstraint(
                cfg.INPUT.CROP.TYPE,
                cfg.INPUT.CROP.SIZE,
                cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA,
                cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            )
        )
    if cfg.INPUT.RANDOM_FLIP not in ("none", "horizontal", "vertical"):
        raise ValueError(
            "INPUT.RANDOM_FLIP must be none, horizontal or vertical; found "
            f"{cfg.INPUT.RANDOM_FLIP!r}."
        )
    if cfg.INPUT.RANDOM_FLIP != "none":
        horizontal = cfg.INPUT.RANDOM_FLIP == "horizontal"
        augmentations.append(T.RandomFlip(horizontal=horizontal, vertical=not horizontal))
    if cfg.INPUT.COLOR_AUG_SSD:
        if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
            raise ValueError(
                f"INPUT.COLOR_AUG_SSD needs INPUT.FORMAT RGB or BGR; found {cfg.INPUT.FORMAT!r}."
            )
        augmentations.append(ColorAugSSDTransform(img_format=cfg.INPUT.FORMAT))
    return augmentations


def build_test_augmentation(cfg: CfgNode) -> list[T.Augmentation]:
    """How a test image is resized; not at all if test-time augmentation does it itself."""
    if cfg.TEST.AUG.ENABLED:
        return []
    short_edge, long_edge = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    if cfg.INPUT.ALIGN_TEST > 0:
        return [ResizeAligned(short_edge, long_edge, cfg.INPUT.ALIGN_TEST)]
    return [T.ResizeShortestEdge([short_edge], long_edge, "choice")]


class SemSegMapper:
    """Read an image and its label map, augment them, and turn them into tensors.

    Random numbers come from ``numpy.random`` and ``random``, which detectron2 seeds in every
    worker.

    Args:
        is_train: whether to read and augment the label map.
        augmentations: applied in this order.
        image_format: "RGB" or "BGR", the order of the output's channels and of ``pixel_mean``.
        num_classes: labels above are an error.
        ignore_label: label of pixels that do not count, and of padding.
        pixel_mean: colour of padding, so that it is about 0 once the model has normalised it.
        min_side: training images are padded at the right and the bottom to at least this side;
            -1 for no padding.
    """

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
        mode = "training" if is_train else "testing"
        logger.info(f"Augmentations in {mode}: {augmentations}")

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Read the ``INPUT`` keys; ``MODEL`` gives the classes, the ignore label and the mean."""
        build_augmentation = build_train_augmentation if is_train else build_test_augmentation
        return {
            "is_train": is_train,
            "augmentations": build_augmentation(cfg),
            "image_format": cfg.INPUT.FORMAT,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "ignore_label": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "min_side": cfg.INPUT.SIZE_DIVISIBILITY,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map one dataset dict.

        Args:
            dataset_dict: with "file_name" and, for training, "sem_seg_file_name"; not changed.

        Returns:
            The dict with "image" (3×H×W uint8), in training "sem_seg" (H×W int64), and "height"
            and "width" of the image file. Other entries are kept.

        Raises:
            DatasetError: a file is missing or unreadable, image and label map differ in size, or a
                label is out of range.
        """
        result = dict(dataset_dict)
        file_name = result["file_name"]
        image = read_image(file_name, self.image_format)
        utils.check_image_size(result, image)
        label_file = result.pop("sem_seg_file_name", None)
        result.pop("annotations", None)
        if self.is_train and label_file is None:
            raise DatasetError(
                f"{file_name}: no sem_seg_file_name in its dataset dict; training needs a dataset "
                "of label maps (DATASETS.TRAIN)."
            )
        inputs = T.AugInput(image)
        if self.is_train:
            inputs.sem_seg = self._read_label(label_file, image.shape[:2])
        self.augmentations(inputs)
        image, label = inputs.image, inputs.sem_seg
        if self.is_train:
            image = self._pad(image, np.rint(self.pixel_mean))
            label = self._pad(label, self.ignore_label)
            result["sem_seg"] = torch.from_numpy(label.astype(np.int64))
        result["image"] = torch.from_numpy(image.transpose(2, 0, 1).copy())
        return result

    def _read_label(self, file_name: str, size: tuple[int, int]) -> np.ndarray:
        label = read_label(file_name)
        check_label(label, file_name, self.num_classes, self.ignore_label, size)
        # detectron2 resizes 8-bit arrays or floating-point ones; floats hold any label exactly.
        small = max(self.num_classes - 1, self.ignore_label) <= 255
        return label.astype(np.uint8 if small else np.float32, copy=False)

    def _pad(self, array: np.ndarray, value: float | np.ndarray) -> np.ndarray:
        height, width = array.shape[:2]
        size = (max(height, self.min_side), max(width, self.min_side))
        if size == (height, width):
            return array
        padded = np.empty(size + array.shape[2:], dtype=array.dtype)
        padded[:height, :width] = array
        padded[height:] = value
        padded[:height, width:] = value
        return padded

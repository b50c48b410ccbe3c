"""From a dataset dict to what the model takes."""

import logging
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T

from .augmentation import ResizeAligned, ResizeInRatioRange
from .fused_augmentation import (
    ContiguousFlip,
    PhotometricDistortion,
    RandomCropOfSeveralClasses,
    ResizeThenCrop,
)
from .reading import check_label, check_size, read_image, read_label
from .tree import DatasetError

logger = logging.getLogger(__name__)

# Entries of a dataset dict that say what is in the image.
_ANNOTATIONS = ("sem_seg_file_name", "annotations", "pan_seg_file_name", "segments_info")


def build_train_augmentation(
    cfg: CfgNode, label_map: bool = True
) -> list[T.Augmentation | T.Transform]:
    """The training augmentations: resize, crop, flip, photometric distortion, in this order.

    Args:
        cfg: the config; its ``INPUT`` keys are read.
        label_map: whether there is a label map for ``INPUT.CROP.SINGLE_CATEGORY_MAX_AREA``;
            without one the first crop is taken.

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
        resize = ResizeInRatioRange(shorts[0], cfg.INPUT.MAX_SIZE_TRAIN, tuple(ratios))
    else:
        resize = T.ResizeShortestEdge(
            shorts, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
        )
    if not cfg.INPUT.CROP.ENABLED:
        return [resize, *_flip_and_distortion(cfg)]
    kind, size = cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE
    if label_map:
        limit = cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA
        crop = RandomCropOfSeveralClasses(kind, size, limit, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)
    else:
        crop = T.RandomCrop(kind, size)
    return [ResizeThenCrop(resize, crop), *_flip_and_distortion(cfg)]


def build_lsj_augmentation(cfg: CfgNode) -> list[T.Augmentation | T.Transform]:
    """Large-scale jitter (arXiv 2012.07177): a wide range of scales, then a square crop.

    An image is resized, aspect kept, to fit a square of ``INPUT.IMAGE_SIZE`` times a factor drawn
    from [``INPUT.MIN_SCALE``, ``INPUT.MAX_SCALE``]. What is smaller than the square has to be
    padded. detectron2's ``FixedSizeCrop`` would do it, with one value for all channels.

    Raises:
        ValueError: keys of ``INPUT`` contradict each other; the message names them.
    """
    side, low, high = cfg.INPUT.IMAGE_SIZE, cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE
    if side < 1:
        raise ValueError(f"INPUT.IMAGE_SIZE must be 1 or more; found {side}.")
    if not 0 < low <= high:
        raise ValueError(
            "INPUT.MIN_SCALE and INPUT.MAX_SCALE must be 0 < MIN_SCALE <= MAX_SCALE; found "
            f"{low} and {high}."
        )
    resize = ResizeInRatioRange(side, side, (low, high))
    crop = T.RandomCrop("absolute", (side, side))
    return [ResizeThenCrop(resize, crop), *_flip_and_distortion(cfg)]


def _flip_and_distortion(cfg: CfgNode) -> list[T.Augmentation | T.Transform]:
    augmentations = []
    if cfg.INPUT.RANDOM_FLIP not in ("none", "horizontal", "vertical"):
        raise ValueError(
            "INPUT.RANDOM_FLIP must be none, horizontal or vertical; found "
            f"{cfg.INPUT.RANDOM_FLIP!r}."
        )
    if cfg.INPUT.RANDOM_FLIP != "none":
        horizontal = cfg.INPUT.RANDOM_FLIP == "horizontal"
        augmentations.append(ContiguousFlip(horizontal=horizontal, vertical=not horizontal))
    if cfg.INPUT.COLOR_AUG_SSD:
        if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
            raise ValueError(
                f"INPUT.COLOR_AUG_SSD needs INPUT.FORMAT RGB or BGR; found {cfg.INPUT.FORMAT!r}."
            )
        augmentations.append(PhotometricDistortion(cfg.INPUT.FORMAT))
    return augmentations


def build_test_augmentation(cfg: CfgNode) -> list[T.Augmentation]:
    """How a test image is resized; not at all if test-time augmentation does it itself."""
    if cfg.TEST.AUG.ENABLED:
        return []
    short_edge, long_edge = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    if cfg.INPUT.ALIGN_TEST > 0:
        return [ResizeAligned(short_edge, long_edge, cfg.INPUT.ALIGN_TEST)]
    return [T.ResizeShortestEdge([short_edge], long_edge, "choice")]


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
        min_side: training images are padded at the right and the bottom to at least this side;
            -1 for no padding.

    Attributes:
        annotation: the entry of a dataset dict that training needs.
    """

    annotation: str

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
        if is_train:
            augmentations, min_side = cls.train_augmentation(cfg)
        else:
            augmentations, min_side = build_test_augmentation(cfg), -1
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "ignore_label": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "min_side": min_side,
        }

    @classmethod
    def train_augmentation(cls, cfg: CfgNode) -> tuple[list[T.Augmentation | T.Transform], int]:
        """The training augmentations and ``min_side``."""
        return build_train_augmentation(cfg), cfg.INPUT.SIZE_DIVISIBILITY

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map one dataset dict.

        Args:
            dataset_dict: with "file_name" and, for training, annotations; not changed.

        Returns:
            The dict with "image" (3×H×W uint8), "height" and "width" of the image file, and in
            training what :meth:`make_target` gives. Annotations are taken out, other entries kept.

        Raises:
            DatasetError: a file is missing or unreadable, image and annotations differ in size, or
                annotations are missing or out of range.
        """
        result = {key: value for key, value in dataset_dict.items() if key not in _ANNOTATIONS}
        file_name = result["file_name"]
        image = self.read_image(file_name)
        size = image.shape[:2]
        check_size(file_name, size, result)
        result["height"], result["width"] = size
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
            image = self._pad(_planes(inputs.image), np.rint(self.pixel_mean)[:, None, None])
            result.update(self.make_target(truth, inputs, transforms, image.shape[1:]))
        else:
            inputs = T.AugInput(image)
            self.augmentations(inputs)
            image = _planes(inputs.image)
        result["image"] = torch.from_numpy(image)
        return result

    def read_image(self, file_name: str) -> np.ndarray:
        """The image as H×W×C uint8, upright."""
        return read_image(file_name, self.image_format)

    def read_truth(
        self, dataset_dict: dict[str, Any], size: tuple[int, int]
    ) -> tuple[np.ndarray | None, Any]:
        """Read the annotations of an image of ``size``.

        Returns:
            A label map (H×W, uint8 or float32), which is augmented with the image and which crops
            look at, or None; and whatever else :meth:`make_target` needs.
        """
        raise NotImplementedError

    def make_target(
        self,
        truth: Any,
        inputs: T.AugInput,
        transforms: T.TransformList,
        size: tuple[int, int],
    ) -> dict[str, Any]:
        """What the model is trained on.

        Args:
            truth: what :meth:`read_truth` gave.
            inputs: the augmented image and label map, not padded.
            transforms: that led to ``inputs``.
            size: height and width of the padded image.
        """
        raise NotImplementedError

    def _augmentable(self, label: np.ndarray) -> np.ndarray:
        """``label`` in a data type that detectron2 can resize: 8 bits, or else floating-point."""
        small = max(self.num_classes - 1, self.ignore_label) <= 255
        return label.astype(np.uint8 if small else np.float32, copy=False)

    def _pad(self, array: np.ndarray, value: float | np.ndarray) -> np.ndarray:
        height, width = array.shape[-2:]
        size = (max(height, self.min_side), max(width, self.min_side))
        if size == (height, width):
            return array
        padded = np.empty(array.shape[:-2] + size, dtype=array.dtype)
        padded[..., :height, :width] = array
        padded[..., height:, :] = value
        padded[..., :height, width:] = value
        return padded


def _planes(image: np.ndarray) -> np.ndarray:
    """H×W×C to C×H×W, copied."""
    # OpenCV takes channels apart several times as fast as NumPy transposes.
    return np.stack(cv2.split(image))


class SemSegMapper(SegmentationMapper):
    """From label maps to "sem_seg" (H×W int64, padded with the ignore label)."""

    annotation = "sem_seg_file_name"

    def read_truth(
        self, dataset_dict: dict[str, Any], size: tuple[int, int]
    ) -> tuple[np.ndarray, None]:
        file_name = dataset_dict["sem_seg_file_name"]
        label = read_label(file_name)
        check_label(label, file_name, self.num_classes, self.ignore_label, size)
        return self._augmentable(label), None

    def make_target(
        self, truth: None, inputs: T.AugInput, transforms: T.TransformList, size: tuple[int, int]
    ) -> dict[str, Any]:
        label = self._pad(inputs.sem_seg, self.ignore_label)
        return {"sem_seg": torch.from_numpy(label.astype(np.int64))}

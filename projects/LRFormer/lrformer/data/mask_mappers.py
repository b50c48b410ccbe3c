"""From dataset dicts to the masks that LRFormer+ is trained on."""

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Instances

from .fused_augmentation import count_labels
from .mappers import (
    SegmentationMapper,
    SemSegMapper,
    build_lsj_augmentation,
    build_train_augmentation,
)
from .masks import (
    check_category,
    masks_of_values,
    number_segments,
    object_mask,
    stack_masks,
    transform_numbers,
)
from .reading import check_map_size, read_panoptic
from .tree import DatasetError


def _target(masks: torch.Tensor, classes: list[int] | np.ndarray) -> dict[str, Instances]:
    """{"instances"} of the masks' size, with ``gt_classes`` (T int64), ``gt_masks`` (T×H×W)."""
    classes = torch.as_tensor(classes, dtype=torch.int64)
    size = tuple(masks.shape[1:])
    return {"instances": Instances(size, gt_classes=classes, gt_masks=BitMasks(masks))}


def _present(values_map: np.ndarray) -> np.ndarray:
    """The values of a map, sorted."""
    if values_map.dtype == np.uint8:
        return np.flatnonzero(count_labels(values_map))
    return np.unique(values_map)


class MaskFormerSemanticMapper(SemSegMapper):
    """From label maps to "instances": a mask for each class that occurs; ignored pixels in none."""

    def make_target(
        self, truth: None, inputs: T.AugInput, transforms: T.TransformList, size: tuple[int, int]
    ) -> dict[str, Any]:
        label = inputs.sem_seg
        classes = _present(label)
        classes = classes[classes != self.ignore_label]
        return _target(masks_of_values(label, classes, size), classes.astype(np.int64))


class MaskFormerInstanceMapper(SegmentationMapper):
    """From COCO's "annotations" to "instances": a mask for each object that is left in the crop.

    Crowds are left out. There is no label map, so ``INPUT.CROP.SINGLE_CATEGORY_MAX_AREA`` has no
    effect.
    """

    annotation = "annotations"

    @classmethod
    def train_augmentation(cls, cfg: CfgNode) -> tuple[list[T.Augmentation | T.Transform], int]:
        return build_train_augmentation(cfg, label_map=False), cfg.INPUT.SIZE_DIVISIBILITY

    def read_truth(
        self, dataset_dict: dict[str, Any], size: tuple[int, int]
    ) -> tuple[None, tuple[str, tuple[int, int], list[dict]]]:
        file_name = dataset_dict["file_name"]
        objects = [a for a in dataset_dict["annotations"] if not a.get("iscrowd", 0)]
        for annotation in objects:
            check_category(annotation["category_id"], file_name, self.num_classes)
        return None, (file_name, size, objects)

    def make_target(
        self,
        truth: tuple[str, tuple[int, int], list[dict]],
        inputs: T.AugInput,
        transforms: T.TransformList,
        size: tuple[int, int],
    ) -> dict[str, Any]:
        file_name, old_size, objects = truth
        new_size = inputs.image.shape[:2]
        masks, classes = [], []
        for annotation in objects:
            mask = object_mask(annotation, file_name, old_size, transforms, new_size)
            if mask.any():
                masks.append(mask)
                classes.append(annotation["category_id"])
        return _target(stack_masks(masks, size), classes)


class MaskFormerPanopticMapper(SegmentationMapper):
    """From COCO's panoptic maps to "instances": a mask for each segment, stuff or thing.

    Crowds and pixels of no segment are in no mask. Crops look at a label map made of the segments'
    classes (``INPUT.CROP.SINGLE_CATEGORY_MAX_AREA``).
    """

    annotation = "pan_seg_file_name"

    def read_truth(
        self, dataset_dict: dict[str, Any], size: tuple[int, int]
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        file_name = dataset_dict["pan_seg_file_name"]
        segments = dataset_dict.get("segments_info")
        if segments is None:
            raise DatasetError(f"{file_name}: no segments_info in the dataset dict of its image.")
        ids = read_panoptic(file_name)
        check_map_size(ids, file_name, size)
        for segment in segments:
            check_category(segment["category_id"], file_name, self.num_classes)
        numbers = number_segments(ids, segments, file_name)
        classes = np.array(
            [self.ignore_label]
            + [
                self.ignore_label if segment.get("iscrowd", 0) else segment["category_id"]
                for segment in segments
            ]
        )
        return self._augmentable(classes)[numbers], (numbers, classes)

    def make_target(
        self,
        truth: tuple[np.ndarray, np.ndarray],
        inputs: T.AugInput,
        transforms: T.TransformList,
        size: tuple[int, int],
    ) -> dict[str, Any]:
        numbers, classes = truth
        numbers = transform_numbers(numbers, transforms)
        present = _present(numbers)
        present = present[classes[present] != self.ignore_label]
        return _target(masks_of_values(numbers, present, size), classes[present])


class _LargeScaleJitter:
    """Large-scale jitter in the place of the other training augmentations."""

    @classmethod
    def train_augmentation(cls, cfg: CfgNode) -> tuple[list[T.Augmentation | T.Transform], int]:
        return build_lsj_augmentation(cfg), cfg.INPUT.IMAGE_SIZE


class COCOInstanceLSJMapper(_LargeScaleJitter, MaskFormerInstanceMapper):
    """As its base, with large-scale jitter."""


class COCOPanopticLSJMapper(_LargeScaleJitter, MaskFormerPanopticMapper):
    """As its base, with large-scale jitter."""

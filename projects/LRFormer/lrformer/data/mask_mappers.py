"""From dataset dicts to the masks that LRFormer+ is trained on."""

import numpy as np
import torch
from detectron2.structures import BitMasks, Instances

from .augmentation import count_labels
from .mappers import SegmentationMapper, SemSegMapper
from .masks import (
    check_category,
    masks_of_values,
    object_mask,
    read_segments,
    stack_masks,
    transform_numbers,
)


def _target(masks: torch.Tensor, classes: list[int] | np.ndarray) -> dict[str, Instances]:
    """{"instances"} of the masks' size, with ``gt_classes`` (T int64), ``gt_masks`` (T×H×W)."""
    classes, size = torch.as_tensor(classes, dtype=torch.int64), tuple(masks.shape[1:])
    return {"instances": Instances(size, gt_classes=classes, gt_masks=BitMasks(masks))}


def _present(values_map: np.ndarray) -> np.ndarray:
    """The values of a map, sorted."""
    if values_map.dtype == np.uint8:
        return np.flatnonzero(count_labels(values_map))
    return np.unique(values_map)


class MaskFormerSemanticMapper(SemSegMapper):
    """From label maps to "instances": a mask for each class that occurs; ignored pixels in none."""

    def make_target(self, truth, inputs, transforms, size):
        classes = _present(inputs.sem_seg)
        classes = classes[classes != self.ignore_label]
        return _target(masks_of_values(inputs.sem_seg, classes, size), classes.astype(np.int64))


class MaskFormerInstanceMapper(SegmentationMapper):
    """From COCO's "annotations" to "instances": a mask for each object that is left in the crop.

    Crowds are left out. There is no label map, so ``INPUT.CROP.SINGLE_CATEGORY_MAX_AREA`` has no
    effect.
    """

    annotation = "annotations"

    def read_truth(self, dataset_dict, size):
        file_name = dataset_dict["file_name"]
        objects = [a for a in dataset_dict["annotations"] if not a.get("iscrowd", 0)]
        for annotation in objects:
            check_category(annotation["category_id"], file_name, self.num_classes)
        return None, (file_name, size, objects)

    def make_target(self, truth, inputs, transforms, size):
        file_name, old_size, objects = truth
        new_size = inputs.image.shape[:2]
        masks = [object_mask(a, file_name, old_size, transforms, new_size) for a in objects]
        seen = [i for i, mask in enumerate(masks) if mask.any()]
        classes = [objects[i]["category_id"] for i in seen]
        return _target(stack_masks([masks[i] for i in seen], size), classes)


class MaskFormerPanopticMapper(SegmentationMapper):
    """From COCO's panoptic maps to "instances": a mask for each segment, stuff or thing.

    Crowds and pixels of no segment are in no mask. Crops look at a label map made of the segments'
    classes (``INPUT.CROP.SINGLE_CATEGORY_MAX_AREA``).
    """

    annotation = "pan_seg_file_name"

    def read_truth(self, dataset_dict, size):
        numbers = read_segments(dataset_dict, size, self.num_classes)
        # By number: 0 is no segment.
        segments = [{"iscrowd": 1}, *dataset_dict["segments_info"]]
        ignored = self.ignore_label
        classes = [ignored if s.get("iscrowd", 0) else s["category_id"] for s in segments]
        classes = np.array(classes)
        return self._augmentable(classes)[numbers], (numbers, classes)

    def make_target(self, truth, inputs, transforms, size):
        numbers, classes = truth
        numbers = transform_numbers(numbers, transforms)
        present = _present(numbers)
        present = present[classes[present] != self.ignore_label]
        return _target(masks_of_values(numbers, present, size), classes[present])


class COCOInstanceLSJMapper(MaskFormerInstanceMapper):
    """As its base, with large-scale jitter."""

    large_scale_jitter = True


class COCOPanopticLSJMapper(MaskFormerPanopticMapper):
    """As its base, with large-scale jitter."""

    large_scale_jitter = True

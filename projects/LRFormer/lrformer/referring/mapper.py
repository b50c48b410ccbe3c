"""From dataset dicts of phrases to what LISA is trained on."""

from typing import Any

import numpy as np
from detectron2.config import CfgNode, configurable

from ..data.mappers import SegmentationMapper
from ..data.masks import stack_masks
from ..data.tree import DatasetError
from .datasets import read_phrases


class ReferringMapper(SegmentationMapper):
    """From "referring" to some phrases of an image, drawn at random, and their "gt_masks".

    As published, pixels that do not count in testing count in training as not meant. In testing
    all phrases are handed on.
    """

    annotation = "referring"

    @configurable
    def __init__(self, is_train: bool, *, phrases_per_image: int, **options: Any):
        """As its base; ``phrases_per_image`` is how many at most."""
        super().__init__(is_train, **options)
        self.phrases_per_image = phrases_per_image

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """ValueError where the augmentation would make phrases wrong."""
        keys = cfg.INPUT
        if is_train and (keys.RANDOM_FLIP != "none" or keys.CROP.ENABLED):
            raise ValueError(
                f"INPUT.RANDOM_FLIP is {keys.RANDOM_FLIP} and INPUT.CROP.ENABLED "
                f"{keys.CROP.ENABLED}: neither fits phrases such as 'left of the person'; set them "
                "to none and False"
            )
        options = super().from_config(cfg, is_train)
        return {**options, "phrases_per_image": keys.PHRASES_PER_IMAGE}

    def read_truth(self, dataset_dict, size):
        phrases = read_phrases(dataset_dict, size, self.phrases_per_image)
        if not phrases:
            raise DatasetError(f"{dataset_dict['file_name']}: there is no phrase about it")
        return None, phrases

    def make_target(self, truth, inputs, transforms, size):
        drawn = [transforms.apply_segmentation(x) for _, x in truth if x is not None]
        masks = stack_masks([np.equal(target, 1) for target in drawn], size)
        return {"referring": [phrase for phrase, _ in truth], "gt_masks": masks}

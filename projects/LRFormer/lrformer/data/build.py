"""Mappers by name, and detectron2's loaders with them."""

import cv2
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader

from .builtin import load_dataset
from .mappers import SegmentationMapper, SemSegMapper
from .mask_mappers import (
    COCOInstanceLSJMapper,
    COCOPanopticLSJMapper,
    MaskFormerInstanceMapper,
    MaskFormerPanopticMapper,
    MaskFormerSemanticMapper,
)
from .tree import DatasetError

# What INPUT.DATASET_MAPPER_NAME may be; all but the first are the published Mask2Former's names.
MAPPERS = {
    "sem_seg": SemSegMapper,
    "mask_former_semantic": MaskFormerSemanticMapper,
    "mask_former_instance": MaskFormerInstanceMapper,
    "mask_former_panoptic": MaskFormerPanopticMapper,
    "coco_instance_lsj": COCOInstanceLSJMapper,
    "coco_panoptic_lsj": COCOPanopticLSJMapper,
}


def mapper_class(name: str) -> type[SegmentationMapper]:
    """The mapper that ``INPUT.DATASET_MAPPER_NAME`` names.

    Raises:
        ValueError: there is no mapper of that name.
    """
    if name not in MAPPERS:
        raise ValueError(
            f"INPUT.DATASET_MAPPER_NAME: there is no mapper {name!r}; there are: "
            f"{', '.join(MAPPERS)}."
        )
    return MAPPERS[name]


def build_mapper(cfg: CfgNode, is_train: bool) -> SegmentationMapper:
    """Build the dataset mapper that ``INPUT.DATASET_MAPPER_NAME`` names.

    Raises:
        ValueError: there is no mapper of that name, or keys of ``INPUT`` contradict each other.
    """
    return mapper_class(cfg.INPUT.DATASET_MAPPER_NAME)(cfg, is_train=is_train)


def build_train_loader(cfg: CfgNode) -> torch.utils.data.DataLoader:
    """detectron2's training loader over ``DATASETS.TRAIN`` with our mapper.

    Raises:
        DatasetError: a dataset is unknown or its files are not where they should be.
    """
    if not cfg.DATASETS.TRAIN:
        raise DatasetError("DATASETS.TRAIN is empty; name at least one dataset.")
    dataset = [record for name in cfg.DATASETS.TRAIN for record in load_dataset(name)]
    mapper = build_mapper(cfg, is_train=True)
    if cfg.DATALOADER.NUM_WORKERS > 0:
        # Here and not in the workers: they are copies of this process, and each would start threads
        # for all cores; told so when OpenCV has threads already, they would wait for those forever.
        cv2.setNumThreads(1)
    return build_detection_train_loader(cfg, mapper=mapper, dataset=dataset)


def build_test_loader(cfg: CfgNode, dataset_name: str) -> torch.utils.data.DataLoader:
    """detectron2's test loader (one image a batch) over ``dataset_name`` with our mapper.

    Raises:
        DatasetError: the dataset is unknown or its files are not where they should be.
    """
    return build_detection_test_loader(
        dataset=load_dataset(dataset_name),
        mapper=build_mapper(cfg, is_train=False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )

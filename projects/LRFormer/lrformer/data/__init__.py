"""Datasets, augmentation and loaders. Importing it registers the datasets."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader

from .builtin import load_dataset, register_sem_seg
from .mappers import SemSegMapper
from .tree import DatasetError, SemSegTree
from .verify import verify_dataset

__all__ = [
    "DatasetError",
    "SemSegMapper",
    "SemSegTree",
    "build_mapper",
    "build_test_loader",
    "build_train_loader",
    "load_dataset",
    "register_sem_seg",
    "verify_dataset",
]

MAPPERS = {"sem_seg": SemSegMapper}


def build_mapper(cfg: CfgNode, is_train: bool) -> Any:
    """Build the dataset mapper that ``INPUT.DATASET_MAPPER_NAME`` names.

    Raises:
        ValueError: there is no mapper of that name.
    """
    name = cfg.INPUT.DATASET_MAPPER_NAME
    if name not in MAPPERS:
        raise ValueError(
            f"INPUT.DATASET_MAPPER_NAME: there is no mapper {name!r}; there are: "
            f"{', '.join(sorted(MAPPERS))}."
        )
    return MAPPERS[name](cfg, is_train=is_train)


def build_train_loader(cfg: CfgNode) -> torch.utils.data.DataLoader:
    """detectron2's training loader over ``DATASETS.TRAIN`` with our mapper.

    Raises:
        DatasetError: a dataset is unknown or its files are not where they should be.
    """
    if not cfg.DATASETS.TRAIN:
        raise DatasetError("DATASETS.TRAIN is empty; name at least one dataset.")
    dataset = [record for name in cfg.DATASETS.TRAIN for record in load_dataset(name)]
    mapper = build_mapper(cfg, is_train=True)
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

"""Mappers by name, and detectron2's loaders with them."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.data.samplers import RepeatFactorTrainingSampler
from torch.utils.data import DataLoader

from ..referring.mapper import ReferringMapper
from . import mask_mappers
from .catalog import load_dataset
from .mappers import SegmentationMapper, SemSegMapper
from .reading import read_label
from .tree import DatasetError

logger = logging.getLogger(__name__)

# By each process that reads images: more are no accident.
_MAX_SKIPPED = 10

# What INPUT.DATASET_MAPPER_NAME may be; those of masks are the published Mask2Former's names.
MAPPERS = {
    "sem_seg": SemSegMapper,
    "mask_former_semantic": mask_mappers.MaskFormerSemanticMapper,
    "mask_former_instance": mask_mappers.MaskFormerInstanceMapper,
    "mask_former_panoptic": mask_mappers.MaskFormerPanopticMapper,
    "coco_instance_lsj": mask_mappers.COCOInstanceLSJMapper,
    "coco_panoptic_lsj": mask_mappers.COCOPanopticLSJMapper,
    "referring": ReferringMapper,
}


def mapper_class(name: str) -> type[SegmentationMapper]:
    """The mapper that ``INPUT.DATASET_MAPPER_NAME`` names; ValueError if there is none."""
    if name not in MAPPERS:
        names = ", ".join(MAPPERS)
        raise ValueError(f"INPUT.DATASET_MAPPER_NAME: no mapper {name!r}; there are: {names}.")
    return MAPPERS[name]


def build_mapper(cfg: CfgNode, is_train: bool) -> SegmentationMapper:
    """The mapper of ``INPUT.DATASET_MAPPER_NAME``; ValueError if keys of ``INPUT`` contradict."""
    return mapper_class(cfg.INPUT.DATASET_MAPPER_NAME)(cfg, is_train=is_train)


def build_train_loader(cfg: CfgNode) -> DataLoader:
    """detectron2's training loader over ``DATASETS.TRAIN`` with our mapper.

    An image that cannot be used is skipped with a warning; its process may skip ten.

    Raises:
        DatasetError: a dataset is unknown or its files are not where they should be.
    """
    if not cfg.DATASETS.TRAIN:
        raise DatasetError("DATASETS.TRAIN is empty; name a dataset, or give your own with --data.")
    datasets = [load_dataset(name) for name in cfg.DATASETS.TRAIN]
    dataset = [record for records in datasets for record in records]
    mapper, sampler = _Skipping(build_mapper(cfg, is_train=True), dataset), None
    if cfg.DATASETS.TRAIN_WEIGHTS:
        sampler = _weighted_sampler([len(records) for records in datasets], cfg)
    elif cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler":
        sampler = _balanced_sampler(dataset, cfg)
    loader = build_detection_train_loader(cfg, mapper=mapper, dataset=dataset, sampler=sampler)
    return _one_thread_a_worker(loader)


def _weighted_sampler(sizes: Sequence[int], cfg: CfgNode) -> RepeatFactorTrainingSampler:
    """Draws from datasets of these sizes in the proportion of their weights."""
    weights = cfg.DATASETS.TRAIN_WEIGHTS
    if len(weights) != len(sizes):
        raise ValueError(
            f"DATASETS.TRAIN_WEIGHTS has {len(weights)} numbers for {len(sizes)} DATASETS.TRAIN"
        )
    pairs = zip(weights, sizes, strict=True)
    factors = [torch.full((size,), sum(sizes) / sum(weights) * w / size) for w, size in pairs]
    return RepeatFactorTrainingSampler(torch.cat(factors))


def _balanced_sampler(dataset: list[dict], cfg: CfgNode) -> RepeatFactorTrainingSampler:
    """detectron2's, which draws images with rare classes more often; by label maps as well."""

    def classes(record: dict) -> dict:
        if "sem_seg_file_name" not in record:
            return {"annotations": record.get("annotations") or record["segments_info"]}
        labels = np.unique(read_label(record["sem_seg_file_name"])).tolist()
        ignored = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        return {"annotations": [{"category_id": label} for label in labels if label != ignored]}

    with ThreadPoolExecutor() as pool:
        present = list(pool.map(classes, dataset))
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        present, cfg.DATALOADER.REPEAT_THRESHOLD
    )
    return RepeatFactorTrainingSampler(factors)


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """detectron2's test loader (one image a batch) over ``dataset_name``; or DatasetError."""
    loader = build_detection_test_loader(
        dataset=load_dataset(dataset_name),
        mapper=build_mapper(cfg, is_train=False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    return _one_thread_a_worker(loader)


class _Skipping:
    """A mapper that takes another image in the place of one that cannot be read.

    detectron2 does so where a mapper gives None, but fails there from Python 3.11 on.
    """

    def __init__(self, mapper: Callable[[dict], dict], dataset: Sequence[dict]):
        self._mapper = mapper
        self._spares = dataset[: _MAX_SKIPPED + 1]
        self._skipped: set[str] = set()

    def __call__(self, record: dict) -> dict:
        for candidate in (record, *self._spares):
            try:
                return self._mapper(candidate)
            except DatasetError as error:
                self._skip(candidate["file_name"], error)
        raise DatasetError("no image of the training data can be used")

    def _skip(self, file_name: str, error: DatasetError) -> None:
        if file_name in self._skipped:
            return
        if len(self._skipped) == _MAX_SKIPPED:
            raise DatasetError(f"after {_MAX_SKIPPED} others that were skipped: {error}") from error
        self._skipped.add(file_name)
        logger.warning(f"skipped, another image takes its place: {error}")


def _one_thread_a_worker(loader: DataLoader) -> DataLoader:
    """``loader``, with workers that leave OpenCV's threads to each other."""
    inner = loader
    while not isinstance(inner, DataLoader):  # detectron2 may group its batches by aspect
        inner = inner.dataset
    inner.worker_init_fn = partial(_start_worker, inner.worker_init_fn)
    return loader


def _start_worker(init: Callable[[int], None] | None, worker: int) -> None:
    # 0 is no threads, too, but does not wait for those that this process is a copy without.
    cv2.setNumThreads(0)
    if init is not None:
        init(worker)

"""Datasets, augmentation and loaders. Importing it registers the datasets."""

from .build import MAPPERS, build_mapper, build_test_loader, build_train_loader
from .builtin import load_dataset, register_sem_seg
from .mappers import SemSegMapper
from .tree import DatasetError, SemSegTree
from .verify import verify_dataset

__all__ = [
    "MAPPERS",
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

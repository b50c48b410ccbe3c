"""Datasets, augmentation and loaders. Importing it registers the datasets."""

from .build import MAPPERS, build_mapper, build_test_loader, build_train_loader
from .catalog import load_dataset, metadata_of, things_of
from .mappers import SemSegMapper
from .tree import DatasetError, SemSegTree, register_sem_seg
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
    "metadata_of",
    "register_sem_seg",
    "things_of",
    "verify_dataset",
]

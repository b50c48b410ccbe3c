"""Datasets by name: loading them, and what a config's model is about by their metadata."""

import dataclasses
import os
from difflib import get_close_matches
from itertools import combinations, zip_longest

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from .builtin import DATASETS, dataset_tree
from .tree import DatasetError

_NAMES = ("stuff_classes", "thing_classes")


def load_dataset(name: str) -> list[dict]:
    """Load a registered dataset as detectron2 dataset dicts.

    Raises:
        DatasetError: the name is unknown, or the files are not where they should be.
    """
    if name not in DatasetCatalog:
        near = get_close_matches(name, DatasetCatalog.list(), n=6, cutoff=0)
        raise DatasetError(
            f"DATASETS.TRAIN / DATASETS.TEST: there is no dataset named {name!r}. Names like it "
            f"are {', '.join(near)}; datasets/README.md lists all."
        )
    try:
        _check_tree(name)
        records = DatasetCatalog.get(name)
    except DatasetError:
        raise
    except (AssertionError, OSError, KeyError, TypeError, ValueError) as error:
        meta = MetadataCatalog.get(name)
        source = meta.get("panoptic_json") or meta.get("json_file")
        raise DatasetError(
            f"{name}: the dataset could not be loaded{f' from {source}' if source else ''}: "
            f"{type(error).__name__}: {error}. datasets/README.md says where the files of datasets "
            "belong and how they are made."
        ) from error
    if not records:
        raise DatasetError(f"{name}: the dataset is empty.")
    return records


def _check_tree(name: str) -> None:
    """Load the tree of ADE20K or Cityscapes for its errors: detectron2's own say little."""
    prefix, _, split = name.rpartition("_")
    if prefix in DATASETS and DATASETS[prefix].classes is None:
        # Where detectron2 looks: it read the root when it was imported.
        meta = MetadataCatalog.get(name)
        images = os.path.abspath(meta.get("image_root") or meta.image_dir)
        tree = dataset_tree("", prefix, split)
        dataclasses.replace(tree, root=images.removesuffix(tree.folders[0][0])).load()


def metadata_of(cfg: CfgNode) -> Metadata | None:
    """The metadata of what a config's model predicts: names, colours and which classes are things.

    Of the datasets in ``DATASETS.TEST`` and then ``DATASETS.TRAIN`` it is the first that says which
    classes are things, or else the first that names classes, or else the first. What only loading
    a dataset tells (of those registered by ``register_coco_instances``) is known, and compared,
    once it has been loaded.

    Returns:
        None if the config names no dataset that has metadata.

    Raises:
        DatasetError: two of the datasets name other classes or other things. It is a ValueError.
    """
    names = dict.fromkeys((*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN))
    found = [MetadataCatalog.get(name) for name in names if name in MetadataCatalog]
    for one, other in combinations(found, 2):
        difference = _difference(one, other)
        if difference:
            raise DatasetError(
                f"{one.name} and {other.name} (DATASETS.TEST, DATASETS.TRAIN) differ in "
                f"{difference}. A model is about one set of classes: name datasets of the same, or "
                "leave DATASETS.TEST or DATASETS.TRAIN empty, ()."
            )
    return max(found, key=_says, default=None)


def things_of(metadata: Metadata | None) -> frozenset[int] | None:
    """Contiguous ids of a dataset's things; None where its metadata does not say."""
    ids = None if metadata is None else metadata.get("thing_dataset_id_to_contiguous_id")
    return None if ids is None else frozenset(ids.values())


def _says(metadata: Metadata) -> tuple[bool, bool]:
    return things_of(metadata) is not None, any(metadata.get(key) for key in _NAMES)


def _difference(one: Metadata, other: Metadata) -> str:
    """What both say and say differently, in words."""
    for key in _NAMES:
        if one.get(key) and other.get(key):
            for label, (mine, yours) in enumerate(zip_longest(one.get(key), other.get(key))):
                if mine != yours:
                    return f"{key}: {label} is {mine!r} and {yours!r}"
    mine, yours = things_of(one), things_of(other)
    if mine is None or yours is None or mine == yours:
        return ""
    return f"which classes are things: {sorted(mine)} and {sorted(yours)}"

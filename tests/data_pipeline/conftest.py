"""Small datasets on disk."""

from pathlib import Path

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from lrformer.config import load_cfg
from lrformer.data import SemSegTree, register_sem_seg


def save(path: Path, array: np.ndarray, **options) -> str:
    """Write an array as an image and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return str(path)


@pytest.fixture(name="save")
def save_fixture():
    return save


@pytest.fixture
def scenes(tmp_path):
    """The folder, with images/ and labels/, of "scenes": six images with 4-class label maps."""
    rng = np.random.default_rng(0)
    for index in range(6):
        label = rng.integers(0, 4, (6, 8), dtype=np.uint8).repeat(20, axis=0).repeat(20, axis=1)
        save(tmp_path / "images" / f"{index}.png", np.stack([label * 60] * 3, axis=-1))
        save(tmp_path / "labels" / f"{index}.png", label)
    tree = SemSegTree("scenes", str(tmp_path), (("images", "labels"),), prepare="make it")
    register_sem_seg(tree, ("a", "b", "c", "d"), ((0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3)))
    yield tmp_path
    DatasetCatalog.remove("scenes")
    MetadataCatalog.remove("scenes")


@pytest.fixture
def cfg() -> CfgNode:
    """ADE20K's recipe for "scenes", with 64×64 crops and without changes of colour."""
    cfg = load_cfg("ade20k/lrformer_t.yaml")
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("scenes",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    cfg.INPUT.COLOR_AUG_SSD = False
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (64,), 256
    cfg.INPUT.CROP.SIZE, cfg.INPUT.SIZE_DIVISIBILITY = [64, 64], 64
    cfg.INPUT.MIN_SIZE_TEST = 90
    return cfg

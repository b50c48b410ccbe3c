"""Small datasets on disk."""

from pathlib import Path

import numpy as np
import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from lrformer.config import add_lrformer_config
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
    """Six images with 4-class label maps; the image's grey value is 60 times the label.

    Registered as "scenes"; the value is the folder that holds images/ and labels/.
    """
    rng = np.random.default_rng(0)
    for index in range(6):
        coarse = rng.integers(0, 4, (6, 8), dtype=np.uint8)
        label = coarse.repeat(20, axis=0).repeat(20, axis=1)
        save(tmp_path / "images" / f"{index}.png", np.stack([label * 60] * 3, axis=-1))
        save(tmp_path / "labels" / f"{index}.png", label)
    tree = SemSegTree("scenes", str(tmp_path), (("images", "labels"),), prepare="make it")
    register_sem_seg(tree, ("a", "b", "c", "d"), ((0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3)))
    yield tmp_path
    DatasetCatalog.remove("scenes")
    MetadataCatalog.remove("scenes")


@pytest.fixture
def cfg() -> CfgNode:
    """FACTS' plain recipe for "scenes", with 64×64 crops."""
    cfg = get_cfg()
    add_lrformer_config(cfg)
    cfg.DATASETS.TRAIN = ("scenes",)
    cfg.DATASETS.TEST = ("scenes",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 255
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.RESIZE_RATIO_RANGE = [0.5, 2.0]
    cfg.INPUT.MIN_SIZE_TRAIN = (64,)
    cfg.INPUT.MAX_SIZE_TRAIN = 256
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [64, 64]
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 0.75
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    cfg.INPUT.SIZE_DIVISIBILITY = 64
    cfg.INPUT.MIN_SIZE_TEST = 90
    cfg.INPUT.MAX_SIZE_TEST = 2048
    cfg.INPUT.ALIGN_TEST = 32
    return cfg

"""A dataset of six pictures and a model of two layers, so that a training takes a second."""

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from PIL import Image
from torch import nn

from lrformer import add_lrformer_config

COLORS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]], dtype=np.uint8)


@META_ARCH_REGISTRY.register()
class TinySegmentor(nn.Module):
    """Classifies each pixel by its colour."""

    def __init__(self, cfg):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.predictor = nn.Conv2d(8, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, 1)
        self.to(cfg.MODEL.DEVICE)
        self.batches = []

    def forward(self, inputs):
        device = self.predictor.weight.device
        images = torch.stack([x["image"].to(device).float() / 255 for x in inputs])
        logits = self.predictor(self.backbone(images))
        if self.training:
            self.batches.append([x["file_name"] for x in inputs])
            labels = torch.stack([x["sem_seg"].to(device) for x in inputs])
            return {"loss_sem_seg": F.cross_entropy(logits.float(), labels, ignore_index=255)}
        return [{"sem_seg": scores} for scores in logits]


def register_tiny(folder: Path) -> str:
    """Write and register a dataset of 16x16 pixels and three classes, each with its colour."""
    random = np.random.default_rng(0)
    records = []
    for number in range(6):
        label = random.integers(0, 3, (4, 4)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
        image = COLORS[label] + random.integers(-30, 30, (16, 16, 3))
        record = {
            "file_name": str(folder / f"{number}.png"),
            "sem_seg_file_name": str(folder / f"{number}_label.png"),
            "height": 16,
            "width": 16,
        }
        Image.fromarray(image.astype(np.uint8)).save(record["file_name"])
        Image.fromarray(label).save(record["sem_seg_file_name"])
        records.append(record)
    DatasetCatalog.register("tiny_sem_seg", lambda: records)
    MetadataCatalog.get("tiny_sem_seg").set(
        stuff_classes=["red", "green", "blue"], ignore_label=255, evaluator_type="sem_seg"
    )
    return "tiny_sem_seg"


def tiny_config(output: Path):
    """A config that trains the tiny model for six iterations, on the CPU, in float32."""
    cfg = add_lrformer_config(get_cfg())
    cfg.MODEL.META_ARCHITECTURE = "TinySegmentor"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    cfg.DATASETS.TRAIN = ("tiny_sem_seg",)
    cfg.DATASETS.TEST = ("tiny_sem_seg",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN = (16,)
    cfg.INPUT.MIN_SIZE_TEST = 16
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.MAX_ITER = 6
    cfg.SOLVER.BASE_LR = 0.01
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    cfg.SOLVER.POLY_LR_POWER = 1.0
    cfg.SOLVER.WARMUP_ITERS = 2
    cfg.SEED = 3
    cfg.OUTPUT_DIR = str(output)
    return cfg


@pytest.fixture(scope="module")
def tiny_dataset(tmp_path_factory):
    """The name of the registered dataset."""
    name = register_tiny(tmp_path_factory.mktemp("tiny"))
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.fixture
def tiny_cfg(tiny_dataset, tmp_path):
    """See :func:`tiny_config`."""
    return tiny_config(tmp_path / "output")


@pytest.fixture(autouse=True)
def _unchanged_process():
    """Give back what a training changes in the process: signal handlers.

    One thread: the model is too small for two, which only wait for each other on a busy machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)

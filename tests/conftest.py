"""For tests in any folder: log handlers as before, and a small LRFormer+."""

import logging
from itertools import chain
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils.logger import setup_logger

from lrformer import load_cfg

CONFIG = Path(__file__).parents[1] / "configs" / "models" / "lrformer_plus_t.yaml"
TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.LRFORMER.EMBED_DIMS": [8, 16, 24, 32],
    "MODEL.LRFORMER.DEPTHS": [1, 1, 1, 1],
    "MODEL.LRFORMER.NUM_HEADS": [1, 2, 2, 4],
    "MODEL.LRFORMER.MLP_RATIOS": [2, 2, 2, 2],
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 32,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 1,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 5,
    "MODEL.MASK_FORMER.HIDDEN_DIM": 32,
    "MODEL.MASK_FORMER.NHEADS": 4,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 64,
    "MODEL.MASK_FORMER.DEC_LAYERS": 4,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 10,
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 64,
}


@pytest.fixture(autouse=True)
def _unchanged_loggers():
    """Undo detectron2's ``setup_logger``, after which neither ``caplog`` nor the root logger hears.

    It does nothing when it is called again with the same arguments; so much is forgotten, too.
    """
    yield
    for name in ("detectron2", "fvcore", "lrformer"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
    setup_logger.cache_clear()


@pytest.fixture
def tiny_opts():
    """The overrides that make LRFormer+ small."""
    return dict(TINY)


@pytest.fixture
def tiny_cfg():
    """Makes a config of LRFormer+ with few channels, layers, queries and five classes."""
    return lambda *opts: load_cfg(CONFIG, [*chain(*TINY.items()), *opts])


@pytest.fixture
def tiny(tiny_cfg):
    """Builds the model of ``tiny_cfg`` with the same random weights each time."""

    def build(*opts):
        torch.manual_seed(0)
        return build_model(tiny_cfg(*opts))

    return build


@pytest.fixture
def sample():
    """Makes an input of 48x64 whose image has one vertical stripe for each label."""

    def make(labels=(0, 2), height=48, width=64):
        instances = Instances((height, width))
        instances.gt_classes = torch.tensor(labels, dtype=torch.int64)
        stripe = torch.arange(width) * max(len(labels), 1) // width
        masks = [(stripe == i).expand(height, width) for i in range(len(labels))]
        empty = torch.zeros(0, height, width, dtype=torch.bool)
        instances.gt_masks = torch.stack(masks) if masks else empty
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        return {"image": image, "instances": instances, "height": height, "width": width}

    return make

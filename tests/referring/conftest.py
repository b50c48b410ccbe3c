"""A small LISA, and a batch for it."""

from itertools import chain

import pytest
import torch
from detectron2.modeling import build_model

from lrformer import load_cfg
from tests.conftest import TINY as MODEL

TINY = MODEL | {
    "MODEL.LISA.DIM": 32,
    "MODEL.LISA.TEXT.DIM": 32,
    "MODEL.LISA.TEXT.MLP_DIM": 64,
    "MODEL.LISA.TEXT.DEPTH": 2,
    "MODEL.LISA.TEXT.NUM_HEADS": 2,
    "MODEL.LISA.VISION.IMAGE_SIZE": 32,
}


@pytest.fixture
def tiny_opts():
    """The overrides that make the demo's LISA small."""
    return dict(TINY)


@pytest.fixture
def tiny():
    """Builds a small LISA with the same random weights each time."""
    pytest.importorskip("transformers", "5.0")

    def build(*opts):
        torch.manual_seed(0)
        return build_model(load_cfg("demo/referring_t.yaml", [*chain(*TINY.items()), *opts]))

    return build


@pytest.fixture
def batch():
    """Two images of different sizes with two phrases and one."""
    torch.manual_seed(1)
    phrases = [{"phrase": "red car left of the person"}, {"phrase": "road"}]
    question = {"phrase": "where may I walk?", "is_sentence": True}
    return [
        {
            "image": torch.randint(0, 256, (3, *size), dtype=torch.uint8),
            "referring": group,
            "gt_masks": torch.rand(len(group), *size) > 0.5,
        }
        for size, group in (((64, 80), phrases), ((48, 96), [question]))
    ]

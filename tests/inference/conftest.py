from itertools import chain

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from torch import nn

from lrformer import load_cfg
from lrformer.inference.tasks import TASK_KEYS

_DATASET = "inference_test_things"


@pytest.fixture
def plain_cfg(tiny_opts):
    """The config of a small LRFormer with seven classes and no dataset."""
    keys = tiny_opts | {
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 7,
        # At the released 1e-6 attention would not be seen in the outputs.
        "MODEL.LRFORMER.LAYER_SCALE_INIT": [0.5, 0.5, 0.5, 0.5],
        "DATASETS.TEST": (),
        "DATASETS.TRAIN": (),
    }
    return load_cfg("models/lrformer_t.yaml", list(chain(*keys.items())))


@pytest.fixture
def plain_model(plain_cfg):
    torch.manual_seed(0)
    model = build_model(plain_cfg).eval()
    nn.init.normal_(model.sem_seg_head.predictor.weight)
    return model


@pytest.fixture
def plus_cfg(tiny_cfg):
    """Makes the config of a small LRFormer+ with three classes that predicts the given tasks."""
    MetadataCatalog.pop(_DATASET, None)
    names = ["road", "car", "person"]
    MetadataCatalog.get(_DATASET).set(stuff_classes=names, thing_classes=names)
    MetadataCatalog.get(_DATASET).thing_dataset_id_to_contiguous_id = {20: 1, 30: 2}

    def make(*tasks, opts=()):
        keys = {
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 3,
            "MODEL.MASK_FORMER.DEC_LAYERS": 2,
            "DATASETS.TEST": (_DATASET,),
            "DATASETS.TRAIN": (),
            **{key: task in tasks for task, key in TASK_KEYS.items()},
        }
        return tiny_cfg(*chain(*keys.items()), *opts)

    yield make
    MetadataCatalog.pop(_DATASET, None)


@pytest.fixture
def build_plus():
    """Builds a config's model with the same random weights each time."""

    def build(cfg):
        torch.manual_seed(0)
        return build_model(cfg).eval()

    return build

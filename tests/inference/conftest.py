from itertools import chain

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

_DATASET = "inference_test_things"
_OPTS = {
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 3,
    "MODEL.MASK_FORMER.DEC_LAYERS": 2,
    "DATASETS.TEST": (_DATASET,),
    "DATASETS.TRAIN": (),
}
_KEYS = {"sem_seg": "SEMANTIC_ON", "instances": "INSTANCE_ON", "panoptic_seg": "PANOPTIC_ON"}


@pytest.fixture
def plus_cfg(tiny_cfg):
    """Makes the config of a small LRFormer+ with three classes that predicts the given tasks."""
    MetadataCatalog.pop(_DATASET, None)
    names = ["road", "car", "person"]
    MetadataCatalog.get(_DATASET).set(
        stuff_classes=names,
        thing_classes=names,
        thing_dataset_id_to_contiguous_id={20: 1, 30: 2},
        stuff_dataset_id_to_contiguous_id={10: 0},
    )

    def make(*tasks, opts=()):
        keys = {f"MODEL.MASK_FORMER.TEST.{key}": task in tasks for task, key in _KEYS.items()}
        return tiny_cfg(*chain(*_OPTS.items(), *keys.items()), *opts)

    yield make
    MetadataCatalog.pop(_DATASET, None)


@pytest.fixture
def build_plus():
    """Builds a config's model with the same random weights each time."""

    def build(cfg):
        torch.manual_seed(0)
        return build_model(cfg).eval()

    return build

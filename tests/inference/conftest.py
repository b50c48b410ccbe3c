from itertools import chain
from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

from lrformer import load_cfg

_CONFIG = Path(__file__).parents[2] / "configs" / "models" / "lrformer_plus_t.yaml"
_DATASET = "inference_test_things"
_TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.LRFORMER.EMBED_DIMS": [8, 16, 24, 32],
    "MODEL.LRFORMER.DEPTHS": [1, 1, 1, 1],
    "MODEL.LRFORMER.NUM_HEADS": [1, 2, 2, 4],
    "MODEL.LRFORMER.MLP_RATIOS": [2, 2, 2, 2],
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 32,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 1,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 3,
    "MODEL.MASK_FORMER.HIDDEN_DIM": 32,
    "MODEL.MASK_FORMER.NHEADS": 4,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 64,
    "MODEL.MASK_FORMER.DEC_LAYERS": 2,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 10,
    "DATASETS.TEST": (_DATASET,),
    "DATASETS.TRAIN": (),
}
_KEYS = {"sem_seg": "SEMANTIC_ON", "instances": "INSTANCE_ON", "panoptic_seg": "PANOPTIC_ON"}


@pytest.fixture
def plus_cfg():
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
        return load_cfg(_CONFIG, [*chain(*_TINY.items(), *keys.items()), *opts])

    yield make
    MetadataCatalog.pop(_DATASET, None)


@pytest.fixture
def build_plus():
    """Builds a config's model with the same random weights each time."""

    def build(cfg):
        torch.manual_seed(0)
        return build_model(cfg).eval()

    return build

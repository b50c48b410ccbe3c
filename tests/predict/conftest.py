"""A small trained-looking model in files, and images."""

from itertools import chain

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from fvcore.transforms.transform import NoOpTransform
from PIL import Image
from torch import nn

from lrformer import build_model as build_model_of
from lrformer import load_cfg


@pytest.fixture
def folder(tmp_path, tiny_opts):
    """``config.yaml``, ``weights.pth`` and ``images/`` with 0.png to 4.png."""
    keys = tiny_opts | {
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 7,
        "MODEL.LRFORMER.LAYER_SCALE_INIT": [0.5, 0.5, 0.5, 0.5],
        "DATASETS.TEST": (),
        "DATASETS.TRAIN": (),
        "INPUT.FORMAT": "RGB",
        "INPUT.MIN_SIZE_TEST": 48,
        "INPUT.ALIGN_TEST": 0,
    }
    cfg = load_cfg("models/lrformer_t.yaml", list(chain(*keys.items())))
    torch.manual_seed(0)
    model = build_model(cfg)
    nn.init.normal_(model.sem_seg_head.predictor.weight)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    (tmp_path / "images").mkdir()
    for number in range(5):
        coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((80 + number, 60))
        image.save(tmp_path / "images" / f"{number}.png")
    return tmp_path


@pytest.fixture
def scores_of(folder):
    """The logits that detectron2's model has for an image, resized as its predictor does."""
    model = build_model_of(folder / "config.yaml", folder / "weights.pth", "cpu")

    def predict(image, side=48):
        image = np.asarray(image)
        height, width = image.shape[:2]
        resize = T.ResizeShortestEdge(side, 10**4).get_transform(image) if side else NoOpTransform()
        resized = torch.from_numpy(resize.apply_image(image).transpose(2, 0, 1).copy())
        with torch.no_grad():
            return model([{"image": resized, "height": height, "width": width}])[0]["sem_seg"]

    return predict

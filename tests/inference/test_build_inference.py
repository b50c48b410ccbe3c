"""The wrappers that a config asks for."""

import pytest
from detectron2.config import get_cfg
from torch import nn

from lrformer import add_lrformer_config
from lrformer.inference import SemanticTTA, SlidingWindow, build_inference_model


@pytest.fixture
def cfg():
    return add_lrformer_config(get_cfg())


def test_nothing_is_wrapped_by_default(cfg):
    model = nn.Identity()
    assert build_inference_model(cfg, model) is model


def test_windows_of_the_configs_sizes(cfg):
    cfg.TEST.SLIDING_WINDOW.ENABLED = True
    cfg.TEST.SLIDING_WINDOW.CROP_SIZE = [512, 1024]
    cfg.TEST.SLIDING_WINDOW.STRIDE = [384, 768]
    cfg.TEST.SLIDING_WINDOW.BATCH_SIZE = 4
    sliding = build_inference_model(cfg, nn.Identity())
    assert isinstance(sliding, SlidingWindow)
    assert (sliding.crop_size, sliding.stride) == ((512, 1024), (384, 768))
    assert sliding.batch_size == 4


def test_augmented_images_are_predicted_by_windows_when_both_are_on(cfg):
    cfg.TEST.SLIDING_WINDOW.ENABLED = True
    cfg.TEST.AUG.ENABLED = True
    model = nn.Identity()
    tta = build_inference_model(cfg, model)
    assert isinstance(tta, SemanticTTA)
    assert isinstance(tta.model, SlidingWindow)
    assert tta.model.model is model


@pytest.mark.parametrize("meta_arch, softmax", [("SemanticSegmentor", True), ("MaskFormer", False)])
def test_mask_classification_already_returns_probabilities(cfg, meta_arch, softmax):
    cfg.TEST.AUG.ENABLED = True
    cfg.TEST.AUG.FLIP = False
    cfg.TEST.AUG.MIN_SIZES = (100, 200, 300)
    cfg.MODEL.META_ARCHITECTURE = meta_arch
    tta = build_inference_model(cfg, nn.Identity())
    assert (tta.softmax, tta.flip, len(tta.resizes)) == (softmax, False, 3)

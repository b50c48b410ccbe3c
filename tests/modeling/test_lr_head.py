import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.semantic_seg import build_sem_seg_head

from lrformer import load_cfg
from lrformer.modeling import LRHead

SHAPES = {
    "res5": ShapeSpec(channels=32, stride=32),
    "res3": ShapeSpec(channels=16, stride=8),
    "res4": ShapeSpec(channels=24, stride=16),
}


def head(**kwargs):
    torch.manual_seed(0)
    return LRHead(SHAPES, num_classes=5, channels=16, **kwargs)


def features(height=64, width=96, batch=2):
    torch.manual_seed(1)
    return {
        name: torch.randn(batch, s.channels, height // s.stride, width // s.stride)
        for name, s in SHAPES.items()
    }


def test_logits_at_stride_8_and_upsampled_output():
    model = head().eval()
    assert model.layers(features()).shape == (2, 5, 8, 12)
    result, losses = model(features())
    assert result.shape == (2, 5, 64, 96) and losses == {}


def test_loss_is_the_mean_over_labelled_pixels():
    model = head(dropout=0.0, loss_weight=2.0).train()
    targets = torch.randint(0, 5, (2, 64, 96))
    targets[0, :40] = 255
    logits = model.layers(features())
    up = F.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=False)
    log_p = up.log_softmax(1)
    total = count = 0.0
    for i in range(2):
        for y in range(0, 64):
            for label, column in zip(targets[i, y].tolist(), log_p[i, :, y].T, strict=True):
                if label != 255:
                    total, count = total - column[label].item(), count + 1
    assert model.losses({"sem_seg": logits}, targets)["loss_sem_seg"].item() == pytest.approx(
        2 * total / count, rel=1e-4
    )


def test_a_batch_without_labels_has_loss_zero_and_finite_gradients():
    model = head().train()
    _, losses = model(features(), torch.full((2, 64, 96), 255))
    losses["loss_sem_seg"].backward()
    assert losses["loss_sem_seg"].item() == 0
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_untrained_model_starts_at_the_loss_of_a_uniform_guess():
    _, losses = head().train()(features(), torch.randint(0, 5, (2, 64, 96)))
    assert losses["loss_sem_seg"].item() == pytest.approx(math.log(5), rel=0.05)


def test_wrong_configuration_names_the_key():
    path = Path(__file__).parents[2] / "configs/models/lrformer_t.yaml"
    cfg = load_cfg(path, ["MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.CONVS_DIM", 100])
    with pytest.raises(ValueError, match="MODEL.SEM_SEG_HEAD.CONVS_DIM .100. must be divisible"):
        build_sem_seg_head(cfg, SHAPES)
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res3", "p5"]
    with pytest.raises(ValueError, match="MODEL.SEM_SEG_HEAD.IN_FEATURES is .*the backbone gives"):
        build_sem_seg_head(cfg, SHAPES)

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.semantic_seg import build_sem_seg_head

from lrformer import load_cfg
from lrformer.modeling import LRHead
from lrformer.modeling.heads import loss

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
    assert model.losses(logits, targets)["loss_sem_seg"].item() == pytest.approx(
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


@pytest.mark.parametrize("band", [7 * 11 * 64, 1 << 22])
def test_loss_in_bands_is_that_of_the_upsampled_logits(monkeypatch, band):
    monkeypatch.setitem(loss._BAND_ELEMENTS, "cpu", band)
    torch.manual_seed(0)
    logits = torch.randn(2, 7, 9, 11, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 7, (2, 72, 88))
    labels[:, :20] = 255
    found = loss.upsampled_cross_entropy(logits, labels, 8, 255)
    large = F.interpolate(logits, scale_factor=8, mode="bilinear", align_corners=False)
    expected = F.cross_entropy(large, labels, ignore_index=255, reduction="sum")
    torch.testing.assert_close(found, expected)
    for a, b in zip(
        torch.autograd.grad(3 * found, logits),
        torch.autograd.grad(3 * expected, logits),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_labels_of_another_size_are_refused():
    with pytest.raises(
        ValueError, match=r"labels are \(1, 8, 8\), but logits of 2 x 2 at stride 8"
    ):
        loss.upsampled_cross_entropy(
            torch.zeros(1, 3, 2, 2), torch.zeros(1, 8, 8, dtype=torch.long), 8, 255
        )

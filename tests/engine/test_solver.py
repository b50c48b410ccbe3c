import logging
import warnings

import pytest
import torch
from detectron2.config import get_cfg
from torch import nn

from lrformer import add_lrformer_config
from lrformer.engine import build_lr_scheduler, build_optimizer


@pytest.fixture
def cfg():
    cfg = add_lrformer_config(get_cfg())
    cfg.SOLVER.BASE_LR = 1e-3
    cfg.SOLVER.WEIGHT_DECAY = 0.05
    return cfg


class ChannelNorm(nn.LayerNorm):
    """Stands for a project's own norm layer."""


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), ChannelNorm(4), nn.GroupNorm(2, 4)
        )
        self.backbone.gamma = nn.Parameter(torch.ones(4))
        self.head = nn.Linear(4, 2)
        self.head_norm = nn.LayerNorm(2)
        self.query_feat = nn.Embedding(5, 4)
        self.level_embed = nn.Parameter(torch.zeros(3, 4))
        self.tied = self.head  # the same parameters by another name
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def _settings(optimizer, model):
    found = {}
    names = {p: n for n, p in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert names[parameter] not in found, "a parameter would be updated twice"
            found[names[parameter]] = (group["lr"], group["weight_decay"])
    return found


def test_every_parameter_gets_the_rate_and_decay_of_the_recipe(cfg):
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    cfg.SOLVER.HEAD_MULTIPLIER = 10.0
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.002
    model = Model()
    optimizer = build_optimizer(cfg, model)
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    backbone, head = pytest.approx(1e-4), pytest.approx(1e-2)
    assert _settings(optimizer, model) == {
        "backbone.gamma": (backbone, 0.05),
        "backbone.0.weight": (backbone, 0.05),
        "backbone.0.bias": (backbone, 0.05),
        "backbone.1.weight": (backbone, 0.0),
        "backbone.1.bias": (backbone, 0.0),
        "backbone.2.weight": (backbone, 0.0),
        "backbone.2.bias": (backbone, 0.0),
        "backbone.3.weight": (backbone, 0.0),
        "backbone.3.bias": (backbone, 0.0),
        "head.weight": (head, 0.05),
        "head.bias": (head, 0.05),
        "head_norm.weight": (head, 0.0),
        "head_norm.bias": (head, 0.0),
        "query_feat.weight": (head, 0.002),
        "level_embed": (head, 0.002),
    }
    # One group a (rate, decay), so that the update of many tensors is one call.
    assert len(optimizer.param_groups) == 5


def test_sgd_takes_its_own_keys(cfg):
    cfg.SOLVER.OPTIMIZER = "SGD"
    cfg.SOLVER.MOMENTUM = 0.8
    optimizer = build_optimizer(cfg, Model())
    assert type(optimizer) is torch.optim.SGD
    assert {group["momentum"] for group in optimizer.param_groups} == {0.8}


def test_unknown_names_are_told_with_the_known_ones(cfg):
    cfg.SOLVER.OPTIMIZER = "LAMB"
    with pytest.raises(ValueError, match="SOLVER.OPTIMIZER.*'LAMB'.*ADAMW, SGD"):
        build_optimizer(cfg, Model())
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "everything"
    with pytest.raises(ValueError, match="CLIP_TYPE is 'everything'.*value, norm, full_model"):
        build_optimizer(cfg, Model())
    optimizer = torch.optim.AdamW(Model().parameters())
    cfg.SOLVER.LR_SCHEDULER_NAME = "OneCycle"
    with pytest.raises(ValueError, match="SOLVER.LR_SCHEDULER_NAME 'OneCycle'.*WarmupPolyLR"):
        build_lr_scheduler(cfg, optimizer)


def test_a_model_without_anything_to_train_is_an_error(cfg):
    with pytest.raises(ValueError, match="no parameter of the model is trainable"):
        build_optimizer(cfg, nn.Linear(2, 2).requires_grad_(False))


@pytest.mark.parametrize(
    "kind, first, second",
    [
        # Gradients (3, 0) and (0, 4), limit 1: together their norm is 5, each by itself 3 and 4.
        ("full_model", [0.6, 0.0], [0.0, 0.8]),
        ("norm", [1.0, 0.0], [0.0, 1.0]),
        ("value", [1.0, 0.0], [0.0, 1.0]),
    ],
)
def test_gradients_are_clipped_as_the_kind_says(cfg, kind, first, second):
    cfg.SOLVER.OPTIMIZER = "SGD"
    cfg.SOLVER.MOMENTUM = 0.0
    cfg.SOLVER.WEIGHT_DECAY = 0.0
    cfg.SOLVER.BASE_LR = 1.0
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = kind
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1.0
    model = nn.ParameterDict({"a": nn.Parameter(torch.zeros(2)), "b": nn.Parameter(torch.zeros(2))})
    optimizer = build_optimizer(cfg, model)
    model["a"].grad, model["b"].grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    optimizer.step()
    torch.testing.assert_close(-model["a"].data, torch.tensor(first), atol=1e-5, rtol=0)
    torch.testing.assert_close(-model["b"].data, torch.tensor(second), atol=1e-5, rtol=0)


def test_a_gradient_that_is_not_finite_leaves_the_weights_alone(cfg):
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1.0
    model = nn.Linear(1, 1)
    optimizer = build_optimizer(cfg, model)
    before = [p.clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    with pytest.raises(FloatingPointError, match="the norm of the gradient is nan"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def _rates(cfg, iterations):
    """The learning rate used in each iteration."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(iterations):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates, optimizer.param_groups[0]["lr"]


def test_the_plain_recipe_warms_up_and_then_decays_to_zero(cfg):
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    cfg.SOLVER.POLY_LR_POWER = 1.0
    cfg.SOLVER.BASE_LR = 6e-5
    cfg.SOLVER.WARMUP_FACTOR = 1e-6
    cfg.SOLVER.WARMUP_ITERS = 4
    cfg.SOLVER.MAX_ITER = 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rates, after = _rates(cfg, 20)
    # A quarter of the way a step while warming up, then 1/16 of the rate less a step.
    by_hand = [6e-11, 1.5e-5, 3e-5, 4.5e-5] + [6e-5 * (16 - i) / 16 for i in range(16)]
    assert rates == pytest.approx(by_hand, rel=1e-4)
    assert after == 0


def test_without_warm_up_it_is_the_plain_polynomial(cfg):
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SOLVER.POLY_LR_POWER = 0.9
    cfg.SOLVER.MAX_ITER = 10
    rates, after = _rates(cfg, 10)
    assert rates == pytest.approx([1e-3 * (1 - i / 10) ** 0.9 for i in range(10)])
    assert after == 0


def test_a_warm_up_longer_than_the_training_is_told(cfg, caplog):
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    cfg.SOLVER.WARMUP_ITERS = 10
    cfg.SOLVER.WARMUP_FACTOR = 0.0
    cfg.SOLVER.MAX_ITER = 5
    with caplog.at_level(logging.WARNING):
        rates, after = _rates(cfg, 5)
    assert rates == pytest.approx([0, 1e-4, 2e-4, 3e-4, 4e-4])
    assert "SOLVER.WARMUP_ITERS (10) is not below SOLVER.MAX_ITER (5)" in caplog.text


def test_the_decay_ends_at_its_share(cfg):
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    cfg.SOLVER.POLY_LR_POWER, cfg.SOLVER.POLY_LR_END = 1.0, 0.2
    cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = 1.0, 4, 0
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])

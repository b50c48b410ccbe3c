"""Optimizer and learning rate schedule from ``SOLVER``."""

import logging
from collections import defaultdict
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from detectron2.solver.build import maybe_add_gradient_clipping
from fvcore.common.param_scheduler import ParamScheduler
from torch import nn

logger = logging.getLogger(__name__)


def param_groups(
    model: nn.Module,
    *,
    base_lr: float,
    weight_decay: float,
    weight_decay_norm: float = 0.0,
    weight_decay_embed: float = 0.0,
    backbone_multiplier: float = 1.0,
    head_multiplier: float = 1.0,
) -> list[dict[str, Any]]:
    """Every trainable parameter in exactly one group, one group per distinct (rate, decay).

    Few groups let the optimizer update many tensors at once.

    Args:
        base_lr: learning rate, multiplied by ``backbone_multiplier`` for parameters below
            ``backbone.`` and by ``head_multiplier`` for all others.
        weight_decay: of weights, biases and layer scales.
        weight_decay_norm: of the weights and biases of norm layers (any class with "Norm" in its
            name or that of a parent).
        weight_decay_embed: of ``nn.Embedding`` and of parameters named ``*_embed``.

    Raises:
        ValueError: nothing is trainable.
    """
    groups = defaultdict(list)
    seen = set()
    for prefix, module in model.named_modules():
        is_norm = any("Norm" in cls.__name__ for cls in type(module).__mro__)
        for leaf, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            in_backbone = f"{prefix}.".startswith("backbone.")
            lr = base_lr * (backbone_multiplier if in_backbone else head_multiplier)
            decay = weight_decay
            if is_norm:
                decay = weight_decay_norm
            elif isinstance(module, nn.Embedding) or leaf.endswith("_embed"):
                decay = weight_decay_embed
            groups[lr, decay].append(parameter)
    if not groups:
        raise ValueError("no parameter of the model is trainable; is all of it frozen?")
    return [
        {"params": params, "lr": lr, "weight_decay": decay}
        for (lr, decay), params in groups.items()
    ]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that ``SOLVER.OPTIMIZER`` names, with ``SOLVER.CLIP_GRADIENTS`` in its step.

    ``SOLVER.BIAS_LR_FACTOR`` and ``WEIGHT_DECAY_BIAS``, detectron2's legacy of Detectron, are not
    used: biases are treated as weights.

    Raises:
        ValueError: an unknown optimizer or kind of clipping, or nothing to train.
    """
    solver = cfg.SOLVER
    groups = param_groups(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_embed=solver.WEIGHT_DECAY_EMBED,
        backbone_multiplier=solver.BACKBONE_MULTIPLIER,
        head_multiplier=solver.HEAD_MULTIPLIER,
    )
    name = solver.OPTIMIZER.upper()
    if name == "ADAMW":
        optimizer, options = torch.optim.AdamW, {}
    elif name == "SGD":
        optimizer = torch.optim.SGD
        options = {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}
    else:
        raise ValueError(
            f"SOLVER.OPTIMIZER: there is no optimizer {solver.OPTIMIZER!r}; there are: ADAMW, SGD"
        )
    optimizer = _with_clipping(cfg, optimizer)
    return optimizer(groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY, **options)


def _with_clipping(
    cfg: CfgNode, optimizer: type[torch.optim.Optimizer]
) -> type[torch.optim.Optimizer]:
    clip = cfg.SOLVER.CLIP_GRADIENTS
    kinds = ("value", "norm", "full_model")
    if clip.ENABLED and clip.CLIP_TYPE not in kinds:
        raise ValueError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}; expected one of "
            f"{', '.join(kinds)}"
        )
    if clip.CLIP_TYPE != "full_model":
        return maybe_add_gradient_clipping(cfg, optimizer)
    # As in Mask2Former, a value of 0 stands for no clipping.
    if not clip.ENABLED or clip.CLIP_VALUE <= 0:
        return optimizer
    return _clip_full_model(optimizer, clip.CLIP_VALUE, clip.NORM_TYPE)


def _clip_full_model(
    optimizer: type[torch.optim.Optimizer], max_norm: float, norm_type: float
) -> type[torch.optim.Optimizer]:
    """The optimizer whose step first limits the norm of all gradients together.

    A norm that is not finite raises FloatingPointError and leaves the parameters as they were.
    """

    class WithFullModelClipping(optimizer):
        def step(self, closure=None):
            params = [p for group in self.param_groups for p in group["params"]]
            norm = nn.utils.clip_grad_norm_(params, max_norm, norm_type)
            if not torch.isfinite(norm):
                raise FloatingPointError(f"the norm of the gradient is {norm.item()}")
            return super().step(closure)

    return WithFullModelClipping


class WarmupPoly(ParamScheduler):
    """Warm-up to the full learning rate, then polynomial decay from there to the end's share of it.

    The decay starts where the warm-up ends, as in the released recipes. detectron2's DeepLab starts
    it at iteration 0 and multiplies both, which differs while and a little after warming up.
    Without warm-up they are the same.
    """

    def __init__(
        self,
        *,
        max_iter: int,
        power: float,
        end: float = 0.0,
        warmup_iters: int = 0,
        warmup_factor: float = 1e-6,
        warmup_method: str = "linear",
    ):
        """
        Args:
            max_iter: iterations of the training.
            power: exponent of the decay; 1 is linear.
            end: share of the learning rate to decay to.
            warmup_iters: iterations of warming up.
            warmup_factor: share of the learning rate to start from.
            warmup_method: "linear", or "constant" at ``warmup_factor``.

        Raises:
            ValueError: an unknown ``warmup_method``.
        """
        if warmup_method not in ("linear", "constant"):
            raise ValueError(
                f"SOLVER.WARMUP_METHOD is {warmup_method!r}; expected linear or constant"
            )
        self.power = power
        self.end = end
        self.warmup = warmup_iters / max_iter
        self.warmup_factor = warmup_factor
        self.warmup_method = warmup_method

    def __call__(self, where: float) -> float:
        """The factor on the learning rate when the share ``where`` of the training is done."""
        if where < self.warmup:
            if self.warmup_method == "constant":
                return self.warmup_factor
            return self.warmup_factor + (1 - self.warmup_factor) * where / self.warmup
        if where >= 1:
            return self.end
        left = (1 - (where - self.warmup) / (1 - self.warmup)) ** self.power
        return self.end + (1 - self.end) * left


def build_lr_scheduler(
    cfg: CfgNode, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    """The schedule that ``SOLVER.LR_SCHEDULER_NAME`` names: "WarmupPolyLR" or one of detectron2's.

    It is to be stepped after every iteration.

    Raises:
        ValueError: there is no such schedule or method of warming up.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME != "WarmupPolyLR":
        try:
            return build_detectron2_lr_scheduler(cfg, optimizer)
        except ValueError as error:
            raise ValueError(
                f"SOLVER.LR_SCHEDULER_NAME {solver.LR_SCHEDULER_NAME!r}: {error}. Besides "
                "detectron2's there is WarmupPolyLR"
            ) from error
    if solver.WARMUP_ITERS >= solver.MAX_ITER:
        logger.warning(
            f"SOLVER.WARMUP_ITERS ({solver.WARMUP_ITERS}) is not below SOLVER.MAX_ITER "
            f"({solver.MAX_ITER}): the learning rate only warms up"
        )
    schedule = WarmupPoly(
        max_iter=solver.MAX_ITER,
        power=solver.POLY_LR_POWER,
        end=solver.POLY_LR_END,
        warmup_iters=solver.WARMUP_ITERS,
        warmup_factor=solver.WARMUP_FACTOR,
        warmup_method=solver.WARMUP_METHOD,
    )
    return LRMultiplier(optimizer, schedule, max_iter=solver.MAX_ITER)

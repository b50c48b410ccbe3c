"""A learning-rate range test (Smith, Cyclical Learning Rates for Training …, WACV 2017)."""

from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from tqdm import tqdm

from .trainer import Trainer

_ITERATIONS = 100
_SPAN = 100  # the rates go from SOLVER.BASE_LR / _SPAN to SOLVER.BASE_LR * _SPAN
_SMOOTHING = 0.9
_DIVERGED = 3  # times the first loss


def find_rate(cfg: CfgNode) -> str:
    """Train with ever higher rates, and say which ``SOLVER.BASE_LR`` suits; nothing is saved.

    Raises:
        ValueError: several processes train, or see :class:`Trainer`.
    """
    if comm.get_world_size() > 1:
        raise ValueError("--find-lr runs in one process")
    cfg = cfg.clone()
    cfg.merge_from_list(["TRACKER", ""])
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    step, rates, losses = trainer._trainer, [], []
    factors = np.geomspace(1 / _SPAN, _SPAN, _ITERATIONS)
    with EventStorage() as step.storage:
        for step.iter, factor in enumerate(tqdm(factors, "learning rates", mininterval=1)):
            for group in step.optimizer.param_groups:
                group["lr"] = factor * group["initial_lr"]
            try:
                step.run_step()
            except FloatingPointError:
                break
            rates.append(factor * cfg.SOLVER.BASE_LR)
            losses.append(step.storage.latest()["total_loss"][0])
            if losses[-1] > _DIVERGED * losses[0]:
                break
    return advice(rates, losses, cfg.SOLVER.BASE_LR)


def advice(rates: Sequence[float], losses: Sequence[float], base_lr: float) -> str:
    """A tenth of the rate at which the smoothed loss is least: higher ones soon stop helping."""
    smooth, weight = [], 0.0
    for loss in losses:  # an exponential average without the bias of its start
        last = smooth[-1] if smooth else 0.0
        total = _SMOOTHING * weight * last + (1 - _SMOOTHING) * loss
        weight = _SMOOTHING * weight + 1 - _SMOOTHING
        smooth.append(total / weight)
    if not smooth or min(smooth) == smooth[0]:
        return f"the loss did not fall at any rate from {base_lr / _SPAN:.1e} on: check the data"
    best = int(np.argmin(smooth))
    return (
        f"the smoothed loss fell from {smooth[0]:.3g} to {smooth[best]:.3g}, where the rate was "
        f"{rates[best]:.1e} (of {rates[0]:.1e} to {rates[-1]:.1e}). A tenth of that suits a "
        f"training: SOLVER.BASE_LR {rates[best] / 10:.1g}; the config has {base_lr:.1g}"
    )

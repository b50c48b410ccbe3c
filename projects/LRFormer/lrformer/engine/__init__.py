"""Training: detectron2's loop with this project's optimizer, schedule, data and evaluation."""

from .machine import adapt_to_machine
from .solver import build_lr_scheduler, build_optimizer
from .trainer import Trainer

__all__ = ["Trainer", "adapt_to_machine", "build_lr_scheduler", "build_optimizer"]

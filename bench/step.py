"""One step of training on a made-up batch, measured; runs with any checkout's package.

Of that package it needs ``load_cfg``, and takes ``lrformer.ops.accelerate`` if it is there.
"""

import json
import runpy
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from .inputs import training_batch
from .meters import MemoryMeter, seconds


class TrainingStep:
    """Forward, losses, backward and AdamW's update on one batch, again at each call.

    The model is randomly initialised. ``dtype`` is "float32", or what to compute in by autocast;
    ``fast`` is with ``lrformer.ops.accelerate``, of which ``without`` takes classes out again.
    """

    def __init__(
        self,
        cfg: CfgNode,
        size: tuple[int, int],
        batch: int,
        dtype: str,
        fast: bool = True,
        without: Sequence[str] = (),
    ):
        self.model = build_model(cfg).train()
        if fast:
            with suppress(ImportError):  # in an older checkout
                from lrformer.ops import accelerate, restore

                accelerate(self.model)
                if without:
                    restore(self.model, *without)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6)
        kind, half = torch.device(cfg.MODEL.DEVICE).type, dtype != "float32"
        self.autocast = torch.autocast(kind, getattr(torch, dtype) if half else None, enabled=half)
        self.scaler = torch.amp.GradScaler(kind, enabled=dtype == "float16")
        masks = cfg.MODEL.META_ARCHITECTURE == "MaskFormer"
        self.inputs = training_batch(batch, size, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, masks)

    def __call__(self) -> float:
        """The loss."""
        with self.autocast:
            loss = sum(self.model(self.inputs).values())
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return float(loss.detach())


def measure(
    config: str,
    opts: list,
    size: tuple[int, int],
    batch: int,
    dtype: str,
    fast: bool,
    without: list[str],
    rounds: int,
    allocator: str | None,
) -> dict:
    """Build a step and take it ``rounds`` + 1 times; for a process of its own.

    ``allocator`` is the file of ``keep_freed_memory``, which is called; None: it is not.

    Returns:
        "loss" of the first step, "seconds" of the others, bytes "before" the first step with the
        model and the inputs there and at the "peak".
    """
    from lrformer import load_cfg

    if allocator:
        runpy.run_path(allocator)["keep_freed_memory"]()
    cfg = load_cfg(config, opts)
    torch.manual_seed(0)
    step = TrainingStep(cfg, size, batch, dtype, fast, without)
    torch.manual_seed(0)  # building may have drawn more or fewer numbers in another checkout
    meter = MemoryMeter(cfg.MODEL.DEVICE)
    return {
        "loss": step(),
        "seconds": [seconds(step, cfg.MODEL.DEVICE) for _ in range(rounds)],
        "before": meter.before,
        "peak": meter.peak(),
    }


def main() -> None:
    """Write to result.json what :func:`measure` finds; its arguments are one argument in JSON."""
    Path("result.json").write_text(json.dumps(measure(**json.loads(sys.argv[1]))))

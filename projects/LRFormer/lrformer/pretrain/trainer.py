"""The training and evaluation loops."""

import json
import logging
import math
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import ImageDataset, Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import accuracy, distribute_bn, random_seed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lrformer.checkpoint.writing import replacing, save

from . import checkpoint
from .data import build_loader
from .machine import Machine
from .recipe import Recipe

logger = logging.getLogger(__name__)

LAST, BEST = "last.pth", "best.pth"

_LOG_INTERVAL = 50  # batches


@dataclass
class Pretraining:
    """A training run: built, resumed or not, then :meth:`run`.

    Every epoch seeds its random numbers from the seed, the epoch and the process, so that a run
    resumed after an epoch repeats what an uninterrupted one does.

    Args:
        model: a timm model, on the machine's device.
        recipe: its ``batch_size`` is that of all processes together.
        train_set, val_set: images and labels.
        machine: where it runs.
        output: folder for the checkpoints and the summary.
        settings: "img_size" (pixels), "seed", and what else the checkpoint is to tell of the run;
            "model", "model_kwargs" and "classes" have to be the same when it is resumed.
    """

    model: nn.Module
    recipe: Recipe
    train_set: ImageDataset
    val_set: ImageDataset
    machine: Machine
    output: Path
    settings: dict[str, Any]
    history: list[dict[str, float]] = field(default_factory=list, init=False)

    def __post_init__(self):
        model, recipe, machine = self.model, self.recipe, self.machine
        self.settings = {
            **self.settings,
            "recipe": asdict(recipe),
            "processes": machine.world_size,
            "workers": machine.workers,
            "dtype": str(machine.dtype or torch.float32).removeprefix("torch."),
        }
        size, cfg = self.settings["img_size"], model.pretrained_cfg
        self.loader, self.val_loader = (
            build_loader(images, size, recipe, cfg, machine, is_training)
            for images, is_training in ((self.train_set, True), (self.val_set, False))
        )
        # Mixup or CutMix, each half of the time; their targets are smoothed already.
        smoothing = {"label_smoothing": recipe.label_smoothing}
        self.mixup = None
        if recipe.mixes:
            smoothing["num_classes"] = model.num_classes
            self.mixup = Mixup(recipe.mixup, recipe.cutmix, **smoothing)
        self.criterion = nn.CrossEntropyLoss(**({} if self.mixup else smoothing))
        self.optimizer = create_optimizer_v2(
            model, "adamw", lr=recipe.lr, weight_decay=recipe.weight_decay
        )
        # Begin and end in proportion to the rate: at 1e-3 they are DeiT's 1e-6 and 1e-5.
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer,
            "cosine",
            num_epochs=recipe.epochs,
            warmup_epochs=recipe.warmup_epochs,
            warmup_lr=recipe.lr / 1000,
            min_lr=recipe.lr / 100,
            step_on_epochs=False,
            updates_per_epoch=len(self.loader),
        )
        is_scaled = machine.dtype is torch.float16
        self.scaler = torch.amp.GradScaler(machine.device.type, enabled=is_scaled)
        self.wrapped = model
        if machine.world_size > 1:
            device_ids = [machine.device] if machine.device.type == "cuda" else None
            self.wrapped = DistributedDataParallel(model, device_ids=device_ids)

    def resume(self, file: Path) -> None:
        """Continue after the last epoch in ``file``.

        Raises:
            ValueError: it is no checkpoint of such a run.
        """
        state = checkpoint.load(file, self.settings)
        for change in checkpoint.changed_settings(state["settings"], self.settings):
            logger.warning(f"not as before the break: {change}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.history = state["history"]
        self.scheduler.step_update(state["epoch"] * len(self.loader))
        logger.info(f"resumed from {file} after epoch {state['epoch']}")

    def run(self) -> list[dict[str, float]]:
        """Train the epochs that are left, evaluating and saving after each.

        Returns:
            A row for each epoch: epoch (from 1), loss, top1 and top5 (percent), lr, images_per_s.

        Raises:
            FloatingPointError: the loss is infinite or not a number.
        """
        for epoch in range(len(self.history), self.recipe.epochs):
            row = {"epoch": epoch + 1, **self.train_epoch(epoch)}
            row |= evaluate(self.model, self.val_loader, self.machine)
            self.history.append(row)
            logger.info(
                f"epoch {epoch + 1}/{self.recipe.epochs}: loss {row['loss']:.4f}, "
                f"top-1 {row['top1']:.2f}, top-5 {row['top5']:.2f}, lr {row['lr']:.3g}, "
                f"{row['images_per_s']:.1f} images/s"
            )
            if self.machine.rank == 0:
                self._save()
        return self.history

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the images.

        Returns:
            loss (mean of the epoch), lr (at its end), images_per_s (of all processes).
        """
        seed_epoch(self.settings["seed"], epoch, self.machine.rank)
        if self.machine.world_size > 1:
            self.loader.sampler.set_epoch(epoch)
        self.wrapped.train()
        batches = len(self.loader)
        total = torch.zeros((), device=self.machine.device)
        start = time.perf_counter()
        for i, batch in enumerate(self.loader, start=1):
            images, labels = self.machine.put(*batch)
            if self.mixup is not None:
                images, labels = self.mixup(images, labels)
            with self.machine.autocast():
                logits = self.wrapped(images)
            loss = self.criterion(logits.float(), labels)
            self._step(loss)
            self.scheduler.step_update(epoch * batches + i)
            total += loss.detach()
            if i % _LOG_INTERVAL == 0 or i == batches:
                mean = self.machine.sum(total).item() / self.machine.world_size / i
                if not math.isfinite(mean):
                    raise FloatingPointError(
                        f"the loss became {mean} in epoch {epoch + 1}; try a smaller --lr (it is "
                        f"{self.recipe.lr:.3g}), more --warmup-epochs, or --amp float32; the last "
                        f"checkpoint, if there is one, is in {self.output}"
                    )
                logger.info(f"epoch {epoch + 1}, batch {i}/{batches}: loss {mean:.4f}")
        elapsed = time.perf_counter() - start
        if self.machine.world_size > 1:
            # Each process has normalised other images.
            distribute_bn(self.model, self.machine.world_size, reduce=True)
        return {
            "loss": mean,
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_s": batches * self.recipe.batch_size / elapsed,
        }

    def _step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        if self.recipe.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _save(self) -> None:
        state = {
            # Also valid as MODEL.WEIGHTS. Channels last or not, this is for whoever reads the file.
            "model": {name: x.contiguous() for name, x in self.model.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": len(self.history),
            "history": self.history,
            "settings": self.settings,
        }
        save(state, self.output / LAST)
        best = max(self.history, key=lambda row: row["top1"])
        if best is self.history[-1]:
            with replacing(self.output / BEST) as partial:
                shutil.copyfile(self.output / LAST, partial)
        summary = {"settings": self.settings, "best": best, "epochs": self.history}
        (self.output / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")


@torch.no_grad()
def evaluate(model: nn.Module, loader, machine: Machine) -> dict[str, float]:
    """Top-1 and top-5 accuracy, percent, each image counted once.

    Args:
        model: images to Nxclasses scores; left in eval mode.
        loader: of :func:`~lrformer.pretrain.data.build_loader`, for evaluation.
        machine: where ``model`` is; the processes share the images.
    """
    model.eval()
    # The sampler gives each process every world_size-th image, and some of them again at the end
    # so that all have as many; those are not counted.
    left = len(range(machine.rank, len(loader.dataset), machine.world_size))
    sums = torch.zeros(3, device=machine.device, dtype=torch.float64)
    for batch in loader:
        images, labels = machine.put(*batch)
        count = min(left, len(labels))
        if count == 0:
            break
        with machine.autocast():
            logits = model(images)
        top1, top5 = accuracy(logits[:count].float(), labels[:count], topk=(1, 5))
        sums += torch.stack([top1, top5, torch.ones_like(top1)]) * count
        left -= count
    top1, top5, count = machine.sum(sums).tolist()
    return {"top1": top1 / count, "top5": top5 / count}


def seed_epoch(seed: int, epoch: int, rank: int) -> None:
    """Seed PyTorch, NumPy and Python, each epoch and process differently."""
    mixed = np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0]
    random_seed(int(mixed) >> 1)

"""Time and memory of a model on the machine at hand."""

import logging
import os
import platform
import re
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from .memory import in_fresh_process, reset_peak, resident
from .training_step import DTYPES, StepOptions, TrainingStep, build_on

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MeasureOptions(StepOptions):
    """How to measure.

    Attributes:
        device, dtype: of :class:`StepOptions`.
        batch: images at once; None: one, or the batch of the paper's row.
        threads: of PyTorch on the CPU; None: its own choice.
        warmup, iterations: passes that are not timed, and passes that are.
        training: on a GPU, measure the memory of training too.
    """

    batch: int | None = None
    threads: int | None = None
    warmup: int = 3
    iterations: int = 10
    training: bool = True

    def __post_init__(self):
        if self.dtype not in DTYPES:
            raise ValueError(f"there is no dtype {self.dtype!r}, only {', '.join(DTYPES)}")
        for name in ("batch", "threads", "iterations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.warmup < 0:
            raise ValueError(f"warmup cannot be negative: {self.warmup}")
        kind = torch.device(self.device).type
        if kind not in ("cpu", "cuda"):
            raise ValueError(f"device {self.device!r}: measured are 'cpu' and 'cuda' only")
        if kind == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device {self.device!r}, but PyTorch finds no GPU; use 'cpu'")

    def with_batch(self, batch: int) -> "MeasureOptions":
        """These, with ``batch`` where none is set."""
        return self if self.batch is not None else replace(self, batch=batch)


@dataclass(frozen=True)
class Measurement:
    """What was measured, and on what.

    Attributes:
        latency: seconds of a batch from normalised images to class scores at the input's size (for
            LRFormer+ to the last layer's classes and masks), median over the passes.
        latency_p10, latency_p90: bounds of the middle four fifths of the passes.
        throughput: images a second at the median.
        memory: bytes, weights included, at the peak of one pass: on a GPU what PyTorch allocated
            there; on a CPU how far a fresh process's resident memory rose from before the model was
            built. None where the system does not tell (it needs Linux's /proc).
        training_memory: bytes that PyTorch allocated at the peak of a training step (forward,
            losses, backward, AdamW's update) with ``batch`` images; None on a CPU, for an encoder
            alone, and where it did not fit.
    """

    device: str
    dtype: str
    threads: int | None
    batch: int
    latency: float
    latency_p10: float
    latency_p90: float
    throughput: float
    memory: int | None
    training_memory: int | None

    def record(self) -> dict:
        """Its figures by name, without those that do not apply."""
        kept = asdict(self)
        for name in ("threads", "training_memory"):
            if kept[name] is None:
                del kept[name]
        return kept


def measure(
    cfg: CfgNode, size: tuple[int, int], options: MeasureOptions, backbone_only: bool = False
) -> Measurement:
    """Measure a config's model, randomly initialised, on random images.

    Args:
        cfg: the config; MODEL.WEIGHTS is not loaded.
        size: (height, width) of the input, multiples of 32.
        options: how.
        backbone_only: of the encoder, without the head.
    """
    batch = options.batch or 1
    shape = (batch, 3, *size)
    threads = torch.get_num_threads()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        times, memory = _time_inference(cfg, shape, options, backbone_only)
        used_threads = torch.get_num_threads()
    finally:
        torch.set_num_threads(threads)
    training_memory = None
    if options.on_gpu:
        if options.training and not backbone_only:
            training_memory = _gpu_training_memory(cfg, shape, options)
    else:
        memory = in_fresh_process(_cpu_memory, cfg.dump(), shape, options, backbone_only)
    median = float(np.median(times))
    return Measurement(
        device=device_name(options.device),
        dtype=options.dtype,
        threads=None if options.on_gpu else used_threads,
        batch=batch,
        latency=median,
        latency_p10=float(np.quantile(times, 0.1)),
        latency_p90=float(np.quantile(times, 0.9)),
        throughput=batch / median,
        memory=memory,
        training_memory=training_memory,
    )


def device_name(device: str) -> str:
    """What the device calls itself."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    match = info.is_file() and re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
    name = match.group(1) if match else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


class _Network(nn.Module):
    """Normalised images to what the eval-mode head gives."""

    def __init__(self, model: nn.Module, backbone_only: bool):
        super().__init__()
        self.backbone = model.backbone
        self.head = nn.Identity() if backbone_only else model.sem_seg_head

    def forward(self, images: Tensor):
        return self.head(self.backbone(images))


def _time_inference(
    cfg: CfgNode, shape: tuple[int, ...], options: MeasureOptions, backbone_only: bool
) -> tuple[list[float], int | None]:
    """Seconds of each timed pass, and the GPU's peak memory."""
    network = _Network(build_on(cfg, options.device), backbone_only).eval()
    images = torch.rand(shape, device=options.device)
    with torch.inference_mode(), options.autocast():
        for _ in range(options.warmup):
            network(images)
        if not options.on_gpu:
            return [_seconds(network, images) for _ in range(options.iterations)], None
        with torch.cuda.device(options.device):
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            times = [_gpu_seconds(network, images) for _ in range(options.iterations)]
            return times, torch.cuda.max_memory_allocated()


def _seconds(network: nn.Module, images: Tensor) -> float:
    start = time.perf_counter()
    network(images)
    return time.perf_counter() - start


def _gpu_seconds(network: nn.Module, images: Tensor) -> float:
    """Wall time between two synchronisations: what a caller who needs the result waits."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    network(images)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def _gpu_training_memory(
    cfg: CfgNode, shape: tuple[int, ...], options: MeasureOptions
) -> int | None:
    with torch.cuda.device(options.device):
        torch.cuda.empty_cache()
        try:
            step = TrainingStep(cfg, shape, options)
            step()  # the optimizer's state comes into being
            torch.cuda.reset_peak_memory_stats()
            step()
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated()
        except torch.cuda.OutOfMemoryError:
            logger.warning(f"training with a batch of {shape} does not fit into the GPU's memory")
            return None


def _cpu_memory(
    dump: str, shape: tuple[int, ...], options: MeasureOptions, backbone_only: bool
) -> int | None:
    if options.threads:
        torch.set_num_threads(options.threads)
    # Libraries allocate when they are first used; that is not the model's memory.
    with torch.inference_mode(), options.autocast():
        nn.Conv2d(8, 8, 3)(torch.rand(1, 8, 32, 32))
    before = resident("VmRSS")
    network = _Network(build_on(CfgNode.load_cfg(dump), "cpu"), backbone_only).eval()
    if before is None or not reset_peak():
        return None
    with torch.inference_mode(), options.autocast():
        network(torch.rand(shape))
    return resident("VmHWM") - before

"""One step of training on a made-up batch; as a script, a process that measures it.

The script takes the package that PYTHONPATH leads to, which may be another checkout's: besides that
package's ``load_cfg`` it needs nothing but detectron2 and this folder's ``memory.py``.
"""

import json
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from torch import nn

if __package__:
    from .memory import reset_peak, resident
else:  # a script; its folder is on the path
    from memory import reset_peak, resident

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_SEGMENTS = 10  # of a made-up training image for LRFormer+; an image of ADE20K has about as many


@dataclass(frozen=True)
class StepOptions:
    """Where and in what to compute.

    Attributes:
        device: "cpu", "cuda", "cuda:1", …
        dtype: of :data:`DTYPES`; weights stay float32, others than that run under autocast.
    """

    device: str = "cpu"
    dtype: str = "float32"

    @property
    def on_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"

    def autocast(self) -> AbstractContextManager:
        if self.dtype == "float32":
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, DTYPES[self.dtype])


def build_on(cfg: CfgNode, device: str) -> nn.Module:
    """The config's model on ``device``, randomly initialised."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = device
    return build_model(cfg)


class TrainingStep:
    """Forward, losses, backward and AdamW's update on one made-up batch, again at each call.

    The batch is the same for every model of as many classes.
    """

    def __init__(self, cfg: CfgNode, shape: tuple[int, ...], options: StepOptions):
        self.model = build_on(cfg, options.device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6)
        self.autocast = options.autocast
        device_type = torch.device(options.device).type
        self.scaler = torch.amp.GradScaler(device_type, enabled=options.dtype == "float16")
        batch, _, *size = shape
        make = _with_segments if cfg.MODEL.META_ARCHITECTURE == "MaskFormer" else _with_labels
        classes, generator = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, torch.Generator().manual_seed(0)
        self.inputs = [make(tuple(size), classes, generator) for _ in range(batch)]

    def __call__(self) -> float:
        with self.autocast():
            loss = sum(self.model(self.inputs).values())
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return float(loss.detach())


def _with_labels(size: tuple[int, int], classes: int, generator: torch.Generator) -> dict:
    labels = torch.randint(classes, size, generator=generator)
    return {"image": torch.rand(3, *size, generator=generator) * 255, "sem_seg": labels}


def _with_segments(size: tuple[int, int], classes: int, generator: torch.Generator) -> dict:
    """Segments are vertical bands of the image."""
    bands = torch.arange(size[1]) * _SEGMENTS // size[1]
    masks = (bands == torch.arange(_SEGMENTS)[:, None])[:, None].expand(-1, *size)
    labels = torch.randint(classes, (_SEGMENTS,), generator=generator)
    instances = Instances(size, gt_classes=labels, gt_masks=BitMasks(masks.clone()))
    return {"image": torch.rand(3, *size, generator=generator) * 255, "instances": instances}


class _MemoryPeak:
    """Bytes held before something runs, and at its peak; None where the system does not tell."""

    def __init__(self, options: StepOptions):
        self.options = options
        if options.on_gpu:
            torch.cuda.reset_peak_memory_stats(options.device)
            self.before = torch.cuda.memory_allocated(options.device)
        else:
            self.before = resident("VmRSS") if reset_peak() else None

    def peak(self) -> int | None:
        if self.options.on_gpu:
            return torch.cuda.max_memory_allocated(self.options.device)
        return None if self.before is None else resident("VmHWM")


def _measure(job: dict) -> dict:
    """What :mod:`lrformer.analysis.training` asks for: see ``_job`` and ``_run`` there."""
    import lrformer

    package = Path(lrformer.__file__).resolve().parents[1]
    if package != Path(job["package"]):
        raise RuntimeError(f"Python takes lrformer from {package}, not from {job['package']}")
    options = StepOptions(job["device"], job["dtype"])
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    kept = job["keep_memory"] and not options.on_gpu and _keep_freed_memory()
    cfg = lrformer.load_cfg(job["config"], job["opts"])
    torch.manual_seed(0)
    step = TrainingStep(cfg, (job["batch"], 3, *job["size"]), options)
    # Building may have drawn more or fewer random numbers in another checkout.
    torch.manual_seed(0)
    memory = _MemoryPeak(options)
    result = {"threads": torch.get_num_threads(), "kept": kept, "loss": step()}
    result["seconds"] = [_seconds(step, options) for _ in range(job["rounds"])]
    result |= {"before": memory.before, "peak": memory.peak()}
    if job["profile"]:
        from lrformer.analysis.training_profile import profile_step

        result["profile"] = profile_step(step, options.on_gpu)
    return result


def _keep_freed_memory() -> bool:
    try:
        from lrformer.host_memory import keep_freed_memory
    except ModuleNotFoundError:  # of an older checkout
        return False
    return keep_freed_memory()


def _seconds(step: TrainingStep, options: StepOptions) -> float:
    """Of one step; on a GPU between two synchronisations."""
    if options.on_gpu:
        torch.cuda.synchronize(options.device)
    start = time.perf_counter()
    step()
    if options.on_gpu:
        torch.cuda.synchronize(options.device)
    return time.perf_counter() - start


if __name__ == "__main__":
    _job = json.loads(sys.argv[1])
    Path(_job["result"]).write_text(json.dumps(_measure(_job)), encoding="utf-8")

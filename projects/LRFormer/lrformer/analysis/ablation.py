"""What each of LRFormer+'s optimisations saves, measured against the published formulation."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Instances
from tqdm import tqdm

from ..modeling.mask2former.ms_deform_attn import resolve_backend
from .measure import MeasureOptions, device_name
from .memory import in_fresh_process, reset_peak, resident
from .published import OPTIMISATIONS, STEPS, published

ALL = "all of them"


@dataclass(frozen=True)
class AblationRow:
    """One step before (with the published formulation) and after (with ours).

    Attributes:
        step: "inference": a batch of images to their class scores; "training": forward, losses and
            backward, without the optimizer's update, which is the same for both.
        optimisation: of :data:`OPTIMISATIONS`, or :data:`ALL` that concern the step.
        time_before, time_after: seconds, medians.
        time_ratio: median over pairs of neighbouring passes of after divided by before;
            ``time_ratio_p25`` and ``time_ratio_p75`` are its quartiles.
        memory_before, memory_after: bytes that the step needs at its peak beyond the model and the
            inputs (training: gradients included). On a GPU what PyTorch allocated. On a CPU how far
            the resident memory of a fresh process rose in its first step, what the libraries
            allocate when they are first used included; None where the system does not tell (it
            needs Linux's /proc: getrusage's figure is inherited from the parent process there).
        memory_ratio: after divided by before.
    """

    step: str
    optimisation: str
    time_before: float
    time_after: float
    time_ratio: float
    time_ratio_p25: float
    time_ratio_p75: float
    memory_before: int | None
    memory_after: int | None
    memory_ratio: float | None


def ablate(
    cfg: CfgNode,
    size: tuple[int, int],
    options: MeasureOptions,
    steps: Sequence[str] = STEPS,
    instances: int = 8,
) -> list[AblationRow]:
    """Measure every optimisation of LRFormer+ by itself, and all of them.

    The model is randomly initialised; images, masks and classes are random.

    Args:
        cfg: of a semantic LRFormer+; MODEL.WEIGHTS is not loaded.
        size: (height, width) of the images.
        options: how; ``iterations`` counts pairs, ``batch`` is 1 where it is None.
        steps: of :data:`STEPS`.
        instances: segments of a training image.

    Raises:
        ValueError: it is another model, or there is nothing to measure.
    """
    _check(cfg, size, steps, instances)
    threads = torch.get_num_threads()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        cases = [(step, names) for step in steps for names in _cases(step)]
        run = {step: _Step(cfg, size, options, step, instances) for step in steps}
        peaks = {}
        rows = []
        for step, names in tqdm(cases, desc="measuring", unit="row", leave=False, disable=None):
            before, after, ratios = _time_pairs(run[step], names, options)
            for off in ((), names):
                if (step, off) not in peaks:
                    peaks[step, off] = _peak_memory(
                        run[step], off, cfg.dump(), size, options, instances
                    )
            memory = peaks[step, names], peaks[step, ()]
            rows.append(
                AblationRow(
                    step,
                    names[0] if len(names) == 1 else ALL,
                    float(np.median(before)),
                    float(np.median(after)),
                    *(float(np.quantile(ratios, q)) for q in (0.5, 0.25, 0.75)),
                    *memory,
                    memory[1] / memory[0] if all(memory) else None,
                )
            )
        return rows
    finally:
        torch.set_num_threads(threads)


def describe_machine(cfg: CfgNode, options: MeasureOptions) -> dict:
    """What the figures of :func:`ablate` depend on besides size and model."""
    backend = cfg.MODEL.SEM_SEG_HEAD.MS_DEFORM_ATTN_BACKEND
    return {
        "device": device_name(options.device),
        "threads": None if options.on_gpu else options.threads or torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": options.dtype,
        "deformable_attention": resolve_backend(backend, torch.device(options.device)),
    }


def _check(cfg: CfgNode, size: tuple[int, int], steps: Sequence[str], instances: int) -> None:
    if cfg.MODEL.META_ARCHITECTURE != "MaskFormer":
        raise ValueError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE!r}; the optimisations are "
            "those of LRFormer+ ('MaskFormer'), see configs/*/lrformer_plus_*.yaml"
        )
    keys = cfg.MODEL.MASK_FORMER.TEST
    if not keys.SEMANTIC_ON or keys.INSTANCE_ON or keys.PANOPTIC_ON:
        raise ValueError(
            "of MODEL.MASK_FORMER.TEST only SEMANTIC_ON may be True: semantic inference is measured"
        )
    if unknown := [step for step in steps if step not in STEPS]:
        raise ValueError(f"there is no step {unknown[0]!r}, only {', '.join(STEPS)}")
    if min(size) < 1 or instances < 1:
        raise ValueError(
            f"size and instances must be at least 1, not {size[0]} x {size[1]} and {instances}"
        )


def _cases(step: str) -> list[tuple[str, ...]]:
    """What to switch off at once, row by row."""
    names = [name for name, x in OPTIMISATIONS.items() if step in x.steps]
    return [*((name,) for name in names), tuple(names)]


class _Step:
    """One step on a model and inputs of its own, with the same random numbers at each call."""

    def __init__(
        self,
        cfg: CfgNode,
        size: tuple[int, int],
        options: MeasureOptions,
        step: str,
        instances: int,
    ):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.DEVICE = options.device
        torch.manual_seed(0)
        self.name, self.options = step, options
        self.model = build_model(cfg).train(step == "training")
        self.inputs = [
            _random_input(size, instances, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
            for _ in range(options.batch or 1)
        ]

    def __call__(self) -> None:
        self.model.zero_grad()
        torch.manual_seed(0)
        if self.name == "training":
            with self.options.autocast():
                loss = sum(self.model(self.inputs).values())
            loss.backward()
        else:
            with torch.inference_mode(), self.options.autocast():
                self.model(self.inputs)

    def seconds(self) -> float:
        """Of one call; on a GPU between two synchronisations."""
        self._synchronize()
        start = perf_counter()
        self()
        self._synchronize()
        return perf_counter() - start

    def _synchronize(self) -> None:
        if self.options.on_gpu:
            torch.cuda.synchronize(self.options.device)


def _random_input(size: tuple[int, int], instances: int, classes: int) -> dict:
    """An image whose segments are the pixels nearest to random points."""
    height, width = size
    centres = torch.rand(instances, 2) * torch.tensor(size)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    nearest = torch.cdist(torch.stack([y, x], -1).view(-1, 2).float(), centres).argmin(1)
    target = Instances(size)
    target.gt_classes = torch.randint(classes, (instances,))
    target.gt_masks = nearest.view(size) == torch.arange(instances)[:, None, None]
    image = torch.randint(256, (3, *size), dtype=torch.uint8)
    return {"image": image, "instances": target, "height": height, "width": width}


def _time_pairs(
    step: _Step, names: Sequence[str], options: MeasureOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seconds with the published formulation and with ours, and the ratio of each pair."""

    def before() -> float:
        with published(*names):
            return step.seconds()

    for _ in range(options.warmup):
        before()
        step.seconds()
    pairs = []
    for i in range(options.iterations):
        # Either goes first half of the time, so that a drift of the machine cancels.
        if i % 2:
            after = step.seconds()
            pairs.append((before(), after))
        else:
            pairs.append((before(), step.seconds()))
    seconds = np.array(pairs).T
    return seconds[0], seconds[1], seconds[1] / seconds[0]


def _peak_memory(
    step: _Step,
    names: Sequence[str],
    dump: str,
    size: tuple[int, int],
    options: MeasureOptions,
    instances: int,
) -> int | None:
    """See :class:`AblationRow`; ``step`` has run before."""
    if not options.on_gpu:
        return in_fresh_process(_cpu_memory, names, dump, size, options, step.name, instances)
    device = options.device
    step.model.zero_grad()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device)
    with published(*names):
        step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - held


def _cpu_memory(
    names: Sequence[str],
    dump: str,
    size: tuple[int, int],
    options: MeasureOptions,
    step: str,
    instances: int,
) -> int | None:
    if options.threads:
        torch.set_num_threads(options.threads)
    run = _Step(CfgNode.load_cfg(dump), size, options, step, instances)
    held = resident("VmRSS")
    if held is None or not reset_peak():
        return None
    with published(*names):
        run()
    return resident("VmHWM") - held

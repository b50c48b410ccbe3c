"""Timing in turn, and what the times mean."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from ..analysis.measure import device_name
from ..host_memory import keep_freed_memory
from .cases import ENDS, BenchmarkError, Case, build_case
from .limits import build_limits


@dataclass(frozen=True)
class BenchmarkOptions:
    """How to measure.

    Attributes:
        size: (height, width) of the images, multiples of 32.
        batch: images at once.
        device: "cpu", "cuda", "cuda:1", …
        threads: of PyTorch and onnxruntime on the CPU; None: PyTorch's choice.
        warmup, rounds: how often everything runs in turn, untimed and timed.
        end: of :func:`build_case`.
        num_classes: of peers.
        keep_memory: on a CPU, :func:`~lrformer.host_memory.keep_freed_memory`, as our tools do; it
            is for all that is timed, peers too, which by themselves run without it.
        opts: KEY, VALUE, … over every config.
    """

    size: tuple[int, int] = (512, 512)
    batch: int = 1
    device: str = "cpu"
    threads: int | None = None
    warmup: int = 2
    rounds: int = 15
    end: str = "logits"
    num_classes: int = 150
    keep_memory: bool = True
    opts: tuple = ()

    def __post_init__(self):
        if any(side < 32 or side % 32 for side in self.size):
            raise BenchmarkError(
                f"sides of the images must be multiples of 32, not {self.size[0]} x {self.size[1]}"
            )
        for name in ("batch", "threads", "rounds", "num_classes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BenchmarkError(f"{name} must be at least 1, not {value}")
        if self.warmup < 0:
            raise BenchmarkError(f"warmup cannot be negative: {self.warmup}")
        if self.end not in ENDS:
            raise BenchmarkError(f"there is no end {self.end!r}, only {', '.join(ENDS)}")
        kind = torch.device(self.device).type
        if kind not in ("cpu", "cuda"):
            raise BenchmarkError(f"device {self.device!r}: measured are 'cpu' and 'cuda' only")
        if kind == "cuda" and not torch.cuda.is_available():
            raise BenchmarkError(f"device {self.device!r}, but PyTorch finds no GPU; use 'cpu'")


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over the rounds."""

    median: float
    p25: float
    p75: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Spread":
        return cls(*(float(np.quantile(values, q)) for q in (0.5, 0.25, 0.75)))


@dataclass(frozen=True)
class Row:
    """A case's times. Ratios are formed in each round, of what ran within it.

    Attributes:
        model, variant, parameters, dtype, error: of :class:`Case`.
        flops: multiply-adds of one image.
        seconds: of a batch.
        images_per_second: at the median.
        matmul_ratio: time over that of as many multiply-adds in a float32 matrix product.
        own_matmul_ratio: the same with a product in ``dtype``.
        baseline_ratio: time over the baseline's.
    """

    model: str
    variant: str
    parameters: int
    dtype: str
    error: float
    flops: float
    seconds: Spread
    images_per_second: float
    matmul_ratio: Spread
    own_matmul_ratio: Spread
    baseline_ratio: Spread


@dataclass(frozen=True)
class Result:
    """A run.

    Attributes:
        conditions: what the figures depend on.
        limits: floating-point operations a second of matrix products by dtype (a multiply-add is
            two), and bytes a second that a copy reads and writes ("copy").
        rows: one a case.
    """

    conditions: dict[str, object]
    limits: dict[str, Spread]
    rows: list[Row]


def benchmark(
    cases: Sequence[tuple[str, str]], options: BenchmarkOptions, baseline: str | None = None
) -> Result:
    """Build, check and time networks, all in turn in this process.

    Args:
        cases: (model, variant) of :func:`build_case`.
        options: how.
        baseline: "model:variant" of the case to divide by; None: the first.

    Raises:
        BenchmarkError: nothing to time, no such baseline, or of :func:`build_case`.
        FileNotFoundError, ConfigError, ImportError: of :func:`build_case`.
    """
    names = [f"{model}:{variant}" for model, variant in cases]
    if not names:
        raise BenchmarkError("there is nothing to time")
    if doubled := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise BenchmarkError(f"{doubled[0]} is there twice")
    baseline = baseline or names[0]
    if baseline not in names:
        raise BenchmarkError(f"the baseline {baseline} is not among {', '.join(names)}")
    on_gpu = torch.device(options.device).type == "cuda"
    kept = options.keep_memory and not on_gpu and keep_freed_memory()
    threads = torch.get_num_threads()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        built = [
            build_case(
                model,
                variant,
                options.size,
                batch=options.batch,
                device=options.device,
                threads=options.threads,
                end=options.end,
                num_classes=options.num_classes,
                opts=options.opts,
            )
            for model, variant in tqdm(cases, "building", leave=False, disable=None)
        ]
        dtypes = dict.fromkeys(["float32", *(case.dtype for case in built)])
        limits = build_limits(options.device, list(dtypes))
        runs = [*limits.values(), *(case.run for case in built)]
        seconds = time_in_turn(runs, options.warmup, options.rounds, options.device)
        used_threads = torch.get_num_threads()
    finally:
        torch.set_num_threads(threads)
    measured = dict(zip([*limits, *names], seconds, strict=True))
    rates = {
        name: (limit.bytes if name == "copy" else limit.operations) / measured[name]
        for name, limit in limits.items()
    }
    conditions = {
        "device": device_name(options.device),
        "threads": None if on_gpu else used_threads,
        "torch": torch.__version__,
        "height": options.size[0],
        "width": options.size[1],
        "batch": options.batch,
        "end": options.end,
        "rounds": options.rounds,
        "freed memory": None if on_gpu else "kept" if kept else "released",
        "baseline": baseline,
    }
    return Result(
        conditions,
        {name: Spread.of(rate) for name, rate in rates.items()},
        [_row(case, options.batch, measured, rates, baseline) for case in built],
    )


def _row(
    case: Case,
    batch: int,
    seconds: dict[str, np.ndarray],
    rates: dict[str, np.ndarray],
    baseline: str,
) -> Row:
    taken = seconds[case.name]
    operations = 2 * case.flops * batch
    return Row(
        case.model,
        case.variant,
        case.parameters,
        case.dtype,
        case.error,
        case.flops,
        Spread.of(taken),
        batch / float(np.median(taken)),
        Spread.of(taken * rates["float32"] / operations),
        Spread.of(taken * rates[case.dtype] / operations),
        Spread.of(taken / seconds[baseline]),
    )


def time_in_turn(
    runs: Sequence[Callable[[], object]], warmup: int, rounds: int, device: str = "cpu"
) -> np.ndarray:
    """Seconds of each, len(runs) x rounds; every second round goes backwards through them."""
    synchronize = _synchronizer(device)
    seconds = np.empty((len(runs), rounds))
    order = list(range(len(runs)))
    for i in tqdm(range(-warmup, rounds), "rounds", leave=False, disable=None):
        # A drift of the machine then weighs on both of a pair alike.
        for j in order if i % 2 == 0 else reversed(order):
            synchronize()
            start = time.perf_counter()
            runs[j]()
            synchronize()
            if i >= 0:
                seconds[j, i] = time.perf_counter() - start
    return seconds


def _synchronizer(device: str) -> Callable[[], None]:
    if torch.device(device).type != "cuda":
        return lambda: None
    return lambda: torch.cuda.synchronize(device)

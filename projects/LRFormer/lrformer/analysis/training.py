"""Time and memory of training steps: in variants of one config, and of another checkout."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from tqdm import tqdm

from ..config import find_config, load_cfg
from ..engine.amp import cpu_has_bfloat16
from . import training_step
from .measure import DTYPES, MeasureOptions, device_name

VARIANTS = {
    "float32": "as it is",
    "bfloat16": "under autocast, for CPUs that have it and GPUs",
    "float16": "under autocast with a scaled loss, for GPUs",
    "checkpointing": "MODEL.LRFORMER.ACTIVATION_CHECKPOINTING",
    "release_memory": "freed memory goes back to the system (CPUs)",
}
_CHECKPOINTING = "MODEL.LRFORMER.ACTIVATION_CHECKPOINTING"
_LOSS_TOLERANCE = 0.05  # relative, of the first steps of two checkouts
_PACKAGE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class TrainingOptions:
    """How to measure.

    Attributes:
        size: (height, width) of the images, multiples of 32.
        batch: images of a step.
        device: "cpu", "cuda", "cuda:1", …
        threads: of PyTorch on the CPU; None: its own choice.
        rounds: timed steps of a process, after one that is not.
        repeats: processes of each row, taken in turn.
        release_memory: on a CPU, do not call :func:`~lrformer.host_memory.keep_freed_memory`, as
            training does.
        opts: KEY, VALUE, … over every config.
    """

    size: tuple[int, int] = (512, 512)
    batch: int = 2
    device: str = "cpu"
    threads: int | None = None
    rounds: int = 7
    repeats: int = 3
    release_memory: bool = False
    opts: tuple = ()

    def __post_init__(self):
        if any(side < 32 or side % 32 for side in self.size):
            raise ValueError(
                f"sides of the images must be multiples of 32, not {self.size[0]} x {self.size[1]}"
            )
        for name in ("rounds", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        MeasureOptions(device=self.device, batch=self.batch, threads=self.threads)


@dataclass(frozen=True)
class TrainingRow:
    """Steps of a config in a variant.

    Attributes:
        config: as it was given.
        step: the variant, or the folder of the other checkout.
        loss: of the first step.
        keeps_memory: whether the process kept the memory that it freed.
        time: seconds of a step, median over all processes; ``time_p25`` and ``time_p75`` are its
            quartiles.
        time_ratio: median over the repetitions of the process's median over that of the config's
            first row; ``time_ratio_min`` and ``time_ratio_max`` are the extremes.
        memory: bytes at the peak beyond what was held before the first step, with the model and
            the inputs: on a GPU what PyTorch allocated, on a CPU the process's resident memory;
            median over the processes, None where the system does not tell (Linux does).
        total_memory: at the peak, all in all.
        memory_ratio, total_memory_ratio: over those of the config's first row.
    """

    config: str
    step: str
    loss: float
    keeps_memory: bool
    time: float
    time_p25: float
    time_p75: float
    time_ratio: float
    time_ratio_min: float
    time_ratio_max: float
    memory: int | None
    memory_ratio: float | None
    total_memory: int | None
    total_memory_ratio: float | None


@dataclass(frozen=True)
class Gain:
    """Our float32 step over that of another checkout; attributes as of :class:`TrainingRow`.

    Attributes:
        loss_difference: relative, of the first step.
    """

    config: str
    against: str
    loss_difference: float
    time_ratio: float
    time_ratio_min: float
    time_ratio_max: float
    memory_ratio: float | None
    total_memory_ratio: float | None


@dataclass(frozen=True)
class TrainingResult:
    """A run.

    Attributes:
        conditions: what the figures depend on.
        rows: config by config.
        gains: one a config where there is another checkout.
        profiles: for each config the first variant's :class:`~.training_profile.Work`, as dicts.
    """

    conditions: dict[str, object]
    rows: list[TrainingRow]
    gains: list[Gain] = field(default_factory=list)
    profiles: dict[str, list[dict]] = field(default_factory=dict)


def measure_training(
    configs: Sequence[str],
    variants: Sequence[str],
    options: TrainingOptions,
    against: str | None = None,
    profile: bool = False,
) -> TrainingResult:
    """Measure steps, each row in processes of its own, all in turn.

    Models are randomly initialised, images and labels random; MODEL.WEIGHTS is not loaded.

    Args:
        configs: paths as of :func:`~lrformer.config.find_config`.
        variants: of :data:`VARIANTS`, joined by "+".
        options: how.
        against: folder of another checkout of this project, whose float32 step becomes a row.
        profile: also profile a step of every config's first variant.

    Raises:
        FileNotFoundError, ConfigError: of a config.
        ValueError: a variant that there is not or that does not run here, a folder that is no
            checkout, or one whose loss is another.
        RuntimeError: a process failed.
    """
    for variant in variants:
        _dtype(variant, options.device)
    for what, names in (("variant", variants), ("config", configs)):
        if not names:
            raise ValueError(f"there is no {what} to measure")
        if doubled := [name for name in dict.fromkeys(names) if list(names).count(name) > 1]:
            raise ValueError(f"the {what} {doubled[0]} is there twice")
    if against is not None and "float32" not in variants:
        raise ValueError(
            "another checkout's step is in float32: 'float32' must be among the variants"
        )
    jobs = {}
    for config in configs:
        cfg = load_cfg(config, options.opts)
        jobs[config] = {variant: _job(config, variant, cfg, options) for variant in variants}
        if against is not None:
            jobs[config][against] = _job_of_checkout(jobs[config]["float32"], against)
    rows, gains, profiles, threads = [], [], {}, None
    steps = sum(len(own) for own in jobs.values())
    with tqdm(total=steps * options.repeats, desc="processes", leave=False, disable=None) as bar:
        for config, own in jobs.items():
            if profile:
                own[variants[0]]["profile"] = True
            results = _in_turn(own, options.repeats, against, bar)
            first = next(iter(results.values()))
            threads = first[0]["threads"]
            rows += [_row(config, step, found, first) for step, found in results.items()]
            if against is not None:
                gains.append(_gain(config, against, results["float32"], results[against]))
            if profile:
                profiles[config] = first[0]["profile"]
    conditions = {
        "device": device_name(options.device),
        "threads": None if torch.device(options.device).type == "cuda" else threads,
        "torch": torch.__version__,
        "height": options.size[0],
        "width": options.size[1],
        "batch": options.batch,
        "rounds": options.rounds,
        "repeats": options.repeats,
    }
    return TrainingResult(conditions, rows, gains, profiles)


def _dtype(variant: str, device: str) -> str:
    """What the variant computes in, if there is such a variant for the device."""
    parts = variant.split("+")
    if unknown := [part for part in parts if part not in VARIANTS]:
        raise ValueError(
            f"variant {variant!r}: there is no {unknown[0]!r}, only {', '.join(VARIANTS)}"
        )
    dtypes = [part for part in parts if part in DTYPES]
    if len(dtypes) > 1 or len(set(parts)) < len(parts):
        raise ValueError(f"variant {variant!r}: each part once, and one data type at most")
    dtype = dtypes[0] if dtypes else "float32"
    on_cpu = torch.device(device).type == "cpu"
    if dtype == "float16" and on_cpu:
        raise ValueError(f"variant {variant!r}: float16 is for GPUs; on a CPU take bfloat16")
    if dtype == "bfloat16" and on_cpu and not cpu_has_bfloat16():
        raise ValueError(
            f"variant {variant!r}: this CPU has no instructions for bfloat16 (avx512_bf16, "
            "amx_bf16) and would be slower than in float32"
        )
    return dtype


def _job(config: str, variant: str, cfg: CfgNode, options: TrainingOptions) -> dict:
    """What a process of ``training_step.py`` is to do."""
    parts = variant.split("+")
    opts = [str(x) for x in options.opts]
    if "checkpointing" in parts:
        if cfg.MODEL.BACKBONE.NAME != "LRFormer":
            raise ValueError(
                f"variant {variant!r}: {_CHECKPOINTING} is for the backbone LRFormer, that of "
                f"{config} is {cfg.MODEL.BACKBONE.NAME}"
            )
        opts += [_CHECKPOINTING, "True"]
    return {
        "package": str(_PACKAGE),
        "config": str(find_config(config).resolve()),
        "opts": opts,
        "size": options.size,
        "batch": options.batch,
        "device": options.device,
        "threads": options.threads,
        "rounds": options.rounds,
        "dtype": _dtype(variant, options.device),
        "keep_memory": not (options.release_memory or "release_memory" in parts),
        "profile": False,
    }


def _job_of_checkout(job: dict, folder: str) -> dict:
    """The same of the checkout in ``folder``, with its own config where ours is the project's."""
    package = Path(folder).resolve() / "projects" / "LRFormer"
    if not (package / "lrformer" / "__init__.py").is_file():
        raise ValueError(
            f"{folder} is no checkout of this project: there is no projects/LRFormer/lrformer in it"
        )
    config, configs = Path(job["config"]), _PACKAGE.parents[1] / "configs"
    if config.is_relative_to(configs):
        name = config.relative_to(configs)
        config = package.parents[1] / "configs" / name
        if not config.is_file():
            raise ValueError(f"{folder} has no configs/{name}")
    return job | {"package": str(package), "config": str(config)}


def _in_turn(
    jobs: dict[str, dict], repeats: int, against: str | None, bar: tqdm
) -> dict[str, list[dict]]:
    """What each job's processes found; one process of every job, then again."""
    results = {step: [] for step in jobs}
    for i in range(repeats):
        for step, job in jobs.items():
            results[step].append(_run(job | {"profile": job["profile"] and i == 0}))
            bar.update()
            if step == against:
                _check_losses(results["float32"][0]["loss"], results[step][0]["loss"], against)
    return results


def _check_losses(ours: float, theirs: float, against: str) -> None:
    if not abs(ours - theirs) <= _LOSS_TOLERANCE * abs(theirs):
        raise ValueError(
            f"the first step's loss is {ours:.4f}, but {theirs:.4f} in {against}: those are not "
            "steps of the same model, and are not compared"
        )


def _run(job: dict) -> dict:
    """Of a process for the job alone: see ``training_step._measure``."""
    paths = [job["package"], *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        argument = json.dumps(job | {"result": str(file)})
        command = [sys.executable, training_step.__file__, argument]
        process = subprocess.run(command, env=environment, capture_output=True, text=True)
        if process.returncode == 0:
            return json.loads(file.read_text(encoding="utf-8"))
    said = process.stderr.strip().splitlines()
    why = said[-1] if said and process.returncode > 0 else f"ended by signal {-process.returncode}"
    hint = "; there may be too little memory" if process.returncode == -9 else ""
    raise RuntimeError(f"the step of {job['config']} ({job['dtype']}) failed: {why}{hint}")


def _row(config: str, step: str, found: Sequence[dict], first: Sequence[dict]) -> TrainingRow:
    seconds = np.concatenate([process["seconds"] for process in found])
    memory, total = _memory(found)
    return TrainingRow(
        config,
        step,
        found[0]["loss"],
        found[0]["kept"],
        *(float(np.quantile(seconds, q)) for q in (0.5, 0.25, 0.75)),
        *_time_ratio(found, first),
        memory,
        _memory_ratios(found, first)[0],
        total,
        _memory_ratios(found, first)[1],
    )


def _gain(config: str, against: str, ours: Sequence[dict], theirs: Sequence[dict]) -> Gain:
    difference = abs(ours[0]["loss"] - theirs[0]["loss"]) / abs(theirs[0]["loss"])
    ratios = (*_time_ratio(ours, theirs), *_memory_ratios(ours, theirs))
    return Gain(config, against, difference, *ratios)


def _time_ratio(found: Sequence[dict], other: Sequence[dict]) -> tuple[float, float, float]:
    """Of the medians of processes of the same repetition: median, least and largest."""
    ratios = [
        np.median(a["seconds"]) / np.median(b["seconds"]) for a, b in zip(found, other, strict=True)
    ]
    return float(np.median(ratios)), float(min(ratios)), float(max(ratios))


def _memory(found: Sequence[dict]) -> tuple[int, int] | tuple[None, None]:
    """Medians of the rise to the peak, and of the peak."""
    if any(process["before"] is None or process["peak"] is None for process in found):
        return None, None
    rises = [process["peak"] - process["before"] for process in found]
    return int(np.median(rises)), int(np.median([process["peak"] for process in found]))


def _memory_ratios(
    found: Sequence[dict], other: Sequence[dict]
) -> tuple[float, float] | tuple[None, None]:
    ours, theirs = _memory(found), _memory(other)
    if None in ours or not all(theirs):
        return None, None
    return ours[0] / theirs[0], ours[1] / theirs[1]

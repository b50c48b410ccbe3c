"""Time and memory of a training step, in variants and against another checkout."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from lrformer import load_cfg
from lrformer.config import find_config
from lrformer.ops import host_memory

from .meters import spread
from .options import WITHOUT, add_run, dtype_of, parse_parts, positive, prepare_run
from .report import Record, Report, Table

ROOT = Path(__file__).resolve().parents[1]
_CHECKPOINTING = "MODEL.LRFORMER.ACTIVATION_CHECKPOINTING"
PARTS = {
    "float32": "as it is",
    "bfloat16": "by autocast, for CPUs that have it and GPUs",
    "float16": "by autocast with a scaled loss, for GPUs",
    "checkpointing": _CHECKPOINTING,
    "plain": "without lrformer.ops.accelerate",
    **dict.fromkeys(WITHOUT, "with that class plain"),
}
_LOSS_TOLERANCE = 0.05  # relative, of the first steps of two checkouts
_REMARKS = (
    "A step: forward, losses, backward and AdamW's update on made-up images. Every row ran in "
    "processes of its own, in turn with the others of its config: one step untimed, then those of "
    "the rounds. Times are medians over all processes with quartiles; ratios are those of medians "
    "of processes that ran one after the other.",
    "Memory: at the peak beyond what the process held with the model and the inputs before the "
    "first step, and all in all.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("configs", nargs="+", metavar="CONFIG")
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="checkout whose float32 step comes first"
    )
    add_run(parser, PARTS, batch=2, rounds=7)
    parser.add_argument(
        "--repeats", type=positive, default=3, help="processes of each row (default: 3)"
    )


def report(args: argparse.Namespace) -> Report:
    """Raises ValueError, OSError for what cannot be measured or compared."""
    conditions = prepare_run(args) | {"repeats": args.repeats}
    jobs = {config: _jobs(config, args) for config in args.configs}
    records = []
    for config, own in jobs.items():
        found = _in_turn(own, args.repeats)
        first = next(iter(found.values()))
        records += [_record(config, name, runs, first) for name, runs in found.items()]
    return Report([Table(records, remarks=_REMARKS)], conditions, device=args.device)


def _jobs(config: str, args: argparse.Namespace) -> dict[str, dict]:
    """By the row's name, a checkout and arguments of :func:`bench.step.measure`."""
    load_cfg(config, args.opts)  # raises before the first process starts
    jobs = {}
    for variant in args.variants:
        parts = parse_parts(f"variant {variant!r}", variant, PARTS, args.device)
        checkpointing = [_CHECKPOINTING, "True"] if "checkpointing" in parts else []
        jobs[variant] = {
            "config": _portable(config),
            "opts": [*args.opts, "MODEL.DEVICE", args.device, *checkpointing],
            "size": args.size,
            "batch": args.batch,
            "dtype": dtype_of(parts),
            "fast": "plain" not in parts,
            "without": [WITHOUT[part] for part in parts if part in WITHOUT],
            "rounds": args.rounds,
            "allocator": None if args.release_memory else host_memory.__file__,
        }
    if args.against is None:
        return jobs
    if "float32" not in jobs:
        raise ValueError("--against is in float32, which must be among the --variants")
    return {str(args.against): jobs["float32"] | {"checkout": args.against}, **jobs}


def _portable(config: str) -> str:
    """The name below configs/, by which a checkout finds its own file; else the absolute path."""
    path = find_config(config).resolve()
    configs = find_config("Base-Recipe.yaml").resolve().parent
    return str(path.relative_to(configs) if path.is_relative_to(configs) else path)


def _in_turn(jobs: dict[str, dict], repeats: int) -> dict[str, list[dict]]:
    """What each job's processes found; one process of every job, then again."""
    found = {name: [] for name in jobs}
    turns = [name for _ in range(repeats) for name in jobs]
    first = next(iter(jobs))
    for name in tqdm(turns, "processes", leave=False, disable=None):
        found[name].append(measure(**{"checkout": ROOT, **jobs[name]}))
        if name == "float32" and "checkout" in jobs[first]:
            ours, theirs = (found[row][0]["loss"] for row in (name, first))
            if not abs(ours - theirs) <= _LOSS_TOLERANCE * abs(theirs):
                raise ValueError(
                    f"the first step's loss is {ours:.4f}, but {theirs:.4f} in {first}: those are "
                    "not steps of the same model, and are not compared"
                )
    return found


def measure(checkout: Path, **job) -> dict:
    """:func:`bench.step.measure` in a process of its own with the package of a checkout.

    ValueError: it is no checkout of this project; ChildProcessError: the process failed.
    """
    package = checkout.resolve() / "projects" / "LRFormer"
    if not (package / "lrformer" / "__init__.py").is_file():
        raise ValueError(f"{checkout} is no checkout of this project: no projects/LRFormer in it")
    paths = [str(package), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    command = [sys.executable, "-c", "from bench.step import main; main()", json.dumps(job)]
    # In an empty folder, so that names of configs are those below the checkout's configs/.
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
        if done.returncode == 0:
            return json.loads(Path(folder, "result.json").read_text())
    said = done.stderr.strip().splitlines()
    why = said[-1] if said and done.returncode > 0 else f"ended by signal {-done.returncode}"
    hint = "; there may be too little memory" if done.returncode == -9 else ""
    raise ChildProcessError(f"the step of {job['config']} failed: {why}{hint}")


def _record(config: str, name: str, runs: Sequence[dict], first: Sequence[dict]) -> Record:
    """Of a row's processes; ``first`` are those of the config's first row."""
    ratios = [
        np.median(a["seconds"]) / np.median(b["seconds"]) for a, b in zip(runs, first, strict=True)
    ]
    record = {
        "config": config,
        "step": name,
        "loss": runs[0]["loss"],
        **spread("time", np.concatenate([run["seconds"] for run in runs])),
        **spread("ratio", np.array(ratios)),
    }
    if runs[0]["peak"] is None:  # the system does not tell
        return record
    for key, share in (("memory", 1), ("total_memory", 0)):
        ours, of_first = (
            int(np.median([run["peak"] - share * run["before"] for run in of]))
            for of in (runs, first)
        )
        record |= {key: ours, f"{key}_ratio": ours / of_first}
    return record

"""The one way in which time, and the one way in which memory is measured."""

import ctypes
import gc
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm


def seconds(run: Callable[[], object], device: str = "cpu") -> float:
    """Of one call; on a GPU between two synchronisations: what a caller who needs it waits."""
    synchronize = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start


def time_in_turn(
    runs: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2, device: str = "cpu"
) -> dict[str, np.ndarray]:
    """Seconds of each in every round after the ``warmup``; every second round goes backwards.

    Ratios should be formed within a round, before a median is taken: a machine that is slow for a
    while then weighs on both sides alike.
    """
    found = {name: [] for name in runs}
    for i in tqdm(range(-warmup, rounds), "rounds", leave=False, disable=None):
        for name in runs if i % 2 == 0 else reversed(runs):
            found[name].append(seconds(runs[name], device))
    return {name: np.array(times[warmup:]) for name, times in found.items()}


def spread(name: str, values: np.ndarray) -> dict[str, float]:
    """The median as ``name``, and the quartiles as ``name_p25`` and ``name_p75``."""
    quantiles = {name: 0.5, f"{name}_p25": 0.25, f"{name}_p75": 0.75}
    return {key: float(np.quantile(values, q)) for key, q in quantiles.items()}


class MemoryMeter:
    """Bytes that this process holds when the meter is made (``before``), and at the peak since.

    On a GPU that is what PyTorch allocated there, on a CPU the process's resident memory without
    what the C library only keeps for later, which Linux tells; elsewhere both are None.
    """

    def __init__(self, device: str):
        gc.collect()
        self._gpu = device if torch.device(device).type == "cuda" else None
        if self._gpu:
            torch.cuda.reset_peak_memory_stats(self._gpu)
            self.before = torch.cuda.memory_allocated(self._gpu)
            return
        if sys.platform.startswith("linux"):
            getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
            Path("/proc/self/clear_refs").write_text("5")
        self.before = _resident("VmRSS")

    def peak(self) -> int | None:
        return torch.cuda.max_memory_allocated(self._gpu) if self._gpu else _resident("VmHWM")


def _resident(name: str) -> int | None:
    status = Path("/proc/self/status")
    match = status.is_file() and re.search(rf"^{name}:\s+(\d+) kB$", status.read_text(), re.M)
    return int(match.group(1)) * 1024 if match else None

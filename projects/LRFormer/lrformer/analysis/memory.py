"""A CPU process's peak of memory, as the system counts it."""

import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path


def in_fresh_process(function, *args):
    """Call it where nothing has raised the peak of resident memory before."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def resident(name: str) -> int | None:
    """Bytes of this process's resident memory: now ("VmRSS") or at its peak ("VmHWM")."""
    status = Path("/proc/self/status")
    match = status.is_file() and re.search(rf"^{name}:\s+(\d+) kB$", status.read_text(), re.M)
    return int(match.group(1)) * 1024 if match else None


def reset_peak() -> bool:
    """Make the peak of resident memory start from now; whether the system let us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True

"""What becomes of memory that a process frees on the CPU."""

import ctypes
import os
import sys

# Of mallopt, from malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for its next tensors.

    The GNU C library gives large blocks back to the system, which clears each page before it hands
    it out again. Maps come and go with every layer, and that takes a considerable part of a step's
    time (docs/speed.md). Kept is at most what the process once used at a time.

    Returns:
        Whether it does so now: not with another C library, and not where the environment sets
        malloc's parameters (``MALLOC_…_``, ``GLIBC_TUNABLES``), which are then left alone.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ)
    chosen = chosen or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if chosen or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_TRIM_THRESHOLD, -1)) and bool(mallopt(_MMAP_MAX, 0))

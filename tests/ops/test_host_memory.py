import os
import subprocess
import sys

import pytest

# Blocks above what the C library keeps by itself; what is written to for the first time is a fault.
FAULTS = """
import resource
import torch
from lrformer.ops.host_memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

released = faults()
print(keep_freed_memory(), released > 0)
faults()
print(faults() < released / 10)
"""


def _run(environment):
    result = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, env=environment, check=True
    )
    return result.stdout.split()


@pytest.fixture()
def environment():
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MALLOC_") and name not in ("GLIBC_TUNABLES", "LD_PRELOAD")
    }


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the GNU C library's")
def test_freed_memory_is_used_again_without_the_system(environment):
    kept, *rest = _run(environment)
    if kept == "False":
        pytest.skip("another C library")
    assert rest == ["True", "True"]


def test_parameters_of_the_environment_are_left_alone(environment):
    assert _run({**environment, "MALLOC_TOP_PAD_": "131072"})[0] == "False"

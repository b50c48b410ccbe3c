"""Two processes on the CPU, each with a disk of its own."""

import functools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

PROCESS = """
import datetime, os, sys, torch
from detectron2.utils import comm
from lrformer.checkpoint import LRFormerCheckpointer

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.distributed.init_process_group(
    "gloo",
    init_method=f"file://{folder}/rendezvous",
    rank=rank,
    world_size=2,
    timeout=datetime.timedelta(minutes=5),  # where the machine is busy
)
comm._LOCAL_PROCESS_GROUP = torch.distributed.new_group([0, 1])
os.makedirs(f"{folder}/disk{rank}/output")
os.chdir(f"{folder}/disk{rank}")


def build():
    torch.manual_seed(rank)
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    return model, optimizer, LRFormerCheckpointer(model, "output", optimizer=optimizer)


model, optimizer, checkpointer = build()
model(torch.ones(1, 3)).sum().backward()
optimizer.step()
checkpointer.save("model", iteration=7)  # the main process saves, on its disk
torch.distributed.barrier()
assert bool(os.listdir("output")) == (rank == 0)

resumed, optimizer, checkpointer = build()
rest = checkpointer.resume_or_load("", resume=True)
state = {**resumed.state_dict(), **optimizer.state_dict()["state"][0], "rest": rest}
started, *_, checkpointer = build()
rest = checkpointer.resume_or_load("output/model.pth", resume=False)
state["started"] = started.weight.detach()
torch.save(state, f"{folder}/{rank}.pth")

for name, text in (("none.pth", None), ("page.pth", "<html>")):
    if text and rank == 0:
        open(name, "w").write(text)
    try:
        checkpointer.load(name)
    except (OSError, ValueError) as error:
        print(type(error).__name__, name in str(error))
# Whoever leaves first would cut off what the other one still reads.
torch.distributed.barrier()
# A group that detectron2 still holds when the interpreter ends may end it with an abort.
comm._LOCAL_PROCESS_GROUP = None
comm._get_global_gloo_group.cache_clear()
torch.distributed.destroy_process_group()
"""


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="needs torch.distributed with gloo",
)
def test_a_file_on_the_main_process_alone_is_loaded_by_all(tmp_path):
    commands = [[sys.executable, "-c", PROCESS, str(rank), str(tmp_path)] for rank in (0, 1)]
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(functools.partial(subprocess.run, capture_output=True), commands))
    for process in done:
        assert process.returncode == 0, process.stderr.decode()
        assert process.stdout.split() == [b"FileNotFoundError", b"True", b"WeightsError", b"True"]
    first, second = (torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in (0, 1))
    assert first["rest"] == second["rest"] == {"iteration": 7}
    for name in ("weight", "bias", "exp_avg", "exp_avg_sq", "step", "started"):
        assert torch.equal(first[name], second[name]), name
    assert torch.equal(first["started"], first["weight"])

"""The processes of a training: those of torchrun, of SLURM's srun, or detectron2's own."""

import argparse
import os
import re
from collections.abc import Callable, MutableMapping
from typing import NamedTuple

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import launch as spawn
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm

from .machine import check_num_gpus


class Place(NamedTuple):
    """Which of the processes this one is, of how many: of all, and of those on this machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1
    binds_gpus: bool = False  # whether each process may see a GPU of its own only

    @property
    def machine(self) -> int:
        return self.rank // self.local_size


def find_place(env: MutableMapping[str, str] = os.environ) -> Place | None:
    """The place that torchrun or SLURM's srun gave this process; None where neither started it.

    Of srun's variables, ``env`` gets the address where the processes meet, if it has none.

    Raises:
        ValueError: srun started different numbers of processes on the machines.
    """
    if "LOCAL_RANK" in env and "RANK" in env:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        return Place(*(int(env[name]) for name in names))
    # Not SLURM_NTASKS, which a batch script has before it calls srun.
    if int(env.get("SLURM_STEP_NUM_TASKS", 1)) == 1:
        return None
    tasks = env["SLURM_STEP_TASKS_PER_NODE"]  # "8" or, on two machines, "8(x2)"
    if not re.fullmatch(r"\d+(\(x\d+\))?", tasks):
        raise ValueError(f"srun starts {tasks} tasks on the nodes; give --ntasks-per-node")
    # "gpu07,gpu09" or "gpu[07-08,11]": the first.
    first = re.match(r"([^,\[]+)\[?(\w*)", env["SLURM_STEP_NODELIST"])
    env.setdefault("MASTER_ADDR", "".join(first.groups()))
    env.setdefault("MASTER_PORT", str(20000 + int(env["SLURM_JOB_ID"]) % 10000))
    names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    return Place(*(int(env[name]) for name in names), int(tasks.partition("(")[0]), True)


def prepare(args: argparse.Namespace, place: Place | None, device: str) -> None:
    """Check ``args`` of detectron2's parser against the machine, and fill in what ``place`` says.

    Raises:
        ValueError: they ask for GPUs that there are not, or twice for several processes.
    """
    # A process or a machine was lost, and all start again by the same command line.
    if _restarts() > 0 and not args.eval_only:
        args.resume = True
    if place is None:
        check_num_gpus(args.num_gpus, args.num_machines, device)
        return
    if args.num_gpus > 1 or args.num_machines > 1:
        raise ValueError(
            f"{place.world_size} processes are started already (by torchrun or srun): leave "
            "--num-gpus and --num-machines out"
        )
    args.machine_rank = place.machine
    found = torch.cuda.device_count()
    needed = 1 if place.binds_gpus and found == 1 else place.local_size
    if device.startswith("cuda") and 0 < found < needed:
        raise ValueError(
            f"{place.local_size} processes on this machine, but PyTorch finds {found} GPU(s): "
            "start as many, or set MODEL.DEVICE to cpu"
        )


def launch(
    main: Callable[[CfgNode, argparse.Namespace], object],
    cfg: CfgNode,
    args: argparse.Namespace,
    place: Place | None,
) -> None:
    """Call ``main(cfg, args)`` in each process, joined by NCCL on GPUs and by gloo on CPUs."""
    if place is None or place.world_size == 1:
        spawn(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(cfg, args),
        )
        return
    on_gpu = cfg.MODEL.DEVICE.startswith("cuda") and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
    join = {"rank": place.rank, "world_size": place.world_size, "timeout": DEFAULT_TIMEOUT}
    store, *_ = next(dist.rendezvous("env://", **join))
    # After a restart torchrun's store still has the addresses of the processes before it.
    store = dist.PrefixStore(f"restart_{_restarts()}", store)
    dist.init_process_group("nccl" if on_gpu else "gloo", store=store, **join)
    # What detectron2's launchers set, the older themselves, the newer by a function of comm.
    comm._LOCAL_PROCESS_GROUP, _ = dist.new_subgroups(place.local_size)
    try:
        main(cfg, args)
    finally:
        # A group that detectron2 still holds when the interpreter ends may end it with an abort.
        comm._LOCAL_PROCESS_GROUP = None
        comm._get_global_gloo_group.cache_clear()
        dist.destroy_process_group()


def _restarts() -> int:
    """How often torchrun or SLURM has started this before."""
    names = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return max(int(os.environ.get(name, 0)) for name in names)

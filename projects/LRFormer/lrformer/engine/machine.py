"""Fitting a config to the machine that runs it."""

import logging
import os

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

logger = logging.getLogger(__name__)


def adapt_to_machine(cfg: CfgNode) -> None:
    """Change ``cfg``, in place, to what the machine can do, and log each change in one line.

    Without a GPU, ``MODEL.DEVICE`` "cuda" becomes "cpu". ``DATALOADER.NUM_WORKERS`` (a process) is
    limited to the cores there are; on a CPU to half of them, since the model needs them as well.
    """
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE}, but PyTorch finds no GPU: using the CPU "
            f"({torch.get_num_threads()} threads)"
        )
        cfg.MODEL.DEVICE = "cpu"
    on_cpu = cfg.MODEL.DEVICE == "cpu"
    cores = available_cores()
    limit = cores // (2 if on_cpu else 1) // comm.get_local_size()
    if limit < cfg.DATALOADER.NUM_WORKERS:
        logger.info(
            f"DATALOADER.NUM_WORKERS reduced from {cfg.DATALOADER.NUM_WORKERS} to {limit}: "
            f"{cores} CPU cores"
        )
        cfg.DATALOADER.NUM_WORKERS = limit


def available_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_num_gpus(num_gpus: int, num_machines: int, device: str) -> None:
    """Check ``--num-gpus`` against the machine.

    Args:
        num_gpus: processes on this machine, each with a GPU; 0 and 1 also run on the CPU.
        num_machines: machines that take part.
        device: ``MODEL.DEVICE``.

    Raises:
        ValueError: it asks for more GPUs than there are, or for several processes on CPUs.
    """
    if num_gpus < 0 or num_machines < 1:
        raise ValueError(
            f"--num-gpus is {num_gpus} and --num-machines {num_machines}; expected at least 0 and 1"
        )
    found = torch.cuda.device_count()
    if num_gpus * num_machines > 1:
        if not device.startswith("cuda"):
            raise ValueError(
                f"--num-gpus {num_gpus} starts a process for each GPU, but MODEL.DEVICE is "
                f"{device}; a CPU is used by one process with all its cores (--num-gpus 1), or by "
                "those that torchrun starts"
            )
        if num_gpus > found:
            hint = "; without a GPU use --num-gpus 1, it runs on the CPU" if found == 0 else ""
            raise ValueError(
                f"--num-gpus {num_gpus} was asked for, but PyTorch finds {found} on this "
                f"machine{hint}"
            )

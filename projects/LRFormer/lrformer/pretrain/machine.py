"""Where a process of a pre-training runs, and which of how many it is."""

import argparse
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from timm.utils import init_distributed_device
from torch import Tensor

from lrformer.precision import autocast_dtype


@dataclass(frozen=True)
class Machine:
    """A process's device and place; ``dtype`` is mixed precision's, None computes in float32."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    dtype: torch.dtype | None = None
    workers: int = 0

    @classmethod
    def start(cls, device: str | None, amp: str, workers: int) -> "Machine":
        """Join the other processes, if torchrun or SLURM started several.

        Args:
            device: "cuda" or "cpu"; None is a GPU if there is one.
            amp: one of :data:`lrformer.precision.NAMES`.
            workers: processes that load images, for each process that trains.

        Raises:
            ValueError: there are too few GPUs.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if device.startswith("cuda"):
            found, needed = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", 0)) + 1
            if found < needed:
                raise ValueError(
                    f"--device {device}: PyTorch finds {found} GPU(s), {needed} needed; --device "
                    "cpu computes without"
                )
            torch.backends.cudnn.benchmark = True
        joined = argparse.Namespace(device=device)
        device = init_distributed_device(joined)
        dtype = autocast_dtype(amp, device, "--amp")
        return cls(device, joined.rank, joined.world_size, dtype, workers)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def put(self, *tensors: Tensor) -> list[Tensor]:
        return [tensor.to(self.device, non_blocking=True) for tensor in tensors]

    def sum(self, values: Tensor) -> Tensor:
        """``values`` summed over all processes."""
        values = values.clone()
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

"""Which norm layer a config's name stands for on the machine at hand."""

from collections.abc import Callable

from detectron2.layers import get_norm
from detectron2.utils import comm
from torch import nn


def norm_layer(name: str, device: str, momentum: float | None = None) -> Callable[[int], nn.Module]:
    """Channels to the norm layer that detectron2 calls ``name``, with PyTorch's ``momentum``.

    "SyncBN" is plain BatchNorm in a single process; in several on CPUs, where PyTorch's own does
    not run, it is detectron2's implementation.
    """
    if name == "SyncBN":
        if comm.get_world_size() == 1:
            name = "BN"
        elif device == "cpu":
            name = "naiveSyncBN"

    def norm(channels: int) -> nn.Module:
        layer = get_norm(name, channels)
        if momentum is not None:
            layer.momentum = momentum
        return layer

    return norm

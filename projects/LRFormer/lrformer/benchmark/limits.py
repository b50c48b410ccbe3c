"""What the machine can do: matrix products and copies, timed like a model."""

from collections.abc import Callable, Sequence

import torch

# Large enough that the rate does not grow further, small enough to be timed in every round.
_SIDE = {"cpu": 2048, "cuda": 8192}
_COPIED = {"cpu": 2**28, "cuda": 2**31}  # bytes; far more than a cache holds


class MatrixProduct:
    """A product of two square matrices.

    Args:
        device: where.
        dtype: of the matrices.
        side: of the matrices; None: one that suits the device.
    """

    def __init__(self, device: str, dtype: torch.dtype, side: int | None = None):
        side = side or _SIDE[torch.device(device).type]
        self.left = torch.rand(side, side, device=device).to(dtype)
        self.right = torch.rand(side, side, device=device).to(dtype)
        self.out = torch.empty_like(self.left)
        self.operations = 2 * side**3  # a multiplication and an addition each

    def __call__(self) -> None:
        torch.mm(self.left, self.right, out=self.out)


class Copy:
    """A copy of a large tensor.

    Args:
        device: where.
        size: bytes of the tensor; None: what suits the device.
    """

    def __init__(self, device: str, size: int | None = None):
        size = size or _COPIED[torch.device(device).type]
        self.source = torch.zeros(size // 4, device=device)
        self.target = torch.ones_like(self.source)
        self.bytes = 2 * self.source.numel() * 4  # each is read once and written once

    def __call__(self) -> None:
        self.target.copy_(self.source)


def build_limits(
    device: str, dtypes: Sequence[str], side: int | None = None, size: int | None = None
) -> dict[str, Callable[[], None]]:
    """What is timed, by name: a product in each of ``dtypes``, and "copy"."""
    products = {name: MatrixProduct(device, getattr(torch, name), side) for name in dtypes}
    return {**products, "copy": Copy(device, size)}

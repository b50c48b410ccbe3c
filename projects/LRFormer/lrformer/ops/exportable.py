"""The form of a model that ``torch.export`` follows at any input size.

The sizes that LRSA pools to depend on the image's sides by a minimum, a quotient and a rounding.
Here they are computed by tensors in the graph, and maps are pooled by products with matrices that
the graph makes from them. The reference is :class:`lrformer.layers.lrformer.PyramidPool`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..layers.lrformer import PyramidPool
from .accelerate import restore


class ExportablePyramidPool(PyramidPool):
    """:class:`PyramidPool` without a branch that depends on the map's size."""

    def forward(self, x: Tensor) -> list[Tensor]:
        height, width = (_scalar(side, x) for side in x.shape[-2:])
        short = torch.minimum(height, width)
        sizes = torch.tensor(self.short_sides, device=x.device).minimum(short)
        rows, heights = _pool_matrices(x.shape[-2], height, short, sizes, x)
        columns, widths = _pool_matrices(x.shape[-1], width, short, sizes, x)
        narrow = (x @ columns.T).split(widths, dim=-1)
        return [r @ c for r, c in zip(rows.split(heights), narrow, strict=True)]


def exportable(model: nn.Module) -> nn.Module:
    """Let the modules of ``model`` that have an exportable form take it, in place.

    Fast forms (:func:`lrformer.ops.accelerate`) are taken out; subclasses stay as they are.

    Returns:
        ``model``.
    """
    for module in restore(model).modules():
        if type(module) is PyramidPool:
            module.__class__ = ExportablePyramidPool
    return model


def pad_to_multiple(x: Tensor, divisor: int) -> Tensor:
    """Zeros at the right and bottom of NxCxHxW up to multiples of ``divisor``; no branches."""
    for dim in (2, 3):
        length = _scalar(x.shape[dim], x)
        multiple = divisor * _size((length + divisor - 1) // divisor)
        torch._check(multiple >= x.shape[dim])
        # Chosen by index: padding by an amount that may be 0 would be a branch.
        position = torch.arange(multiple, device=x.device)
        x = x.index_select(dim, position.minimum(length - 1))
        x = x * (position < length).to(x.dtype).view(-1, *[1] * (3 - dim))
    return x


def _pool_matrices(
    side: int, length: Tensor, short: Tensor, sizes: Tensor, like: Tensor
) -> tuple[Tensor, Sequence[int]]:
    """Weights of the pooled rows of all sizes, one size after the other, and how many each has.

    Args:
        side, length: of the map, as a size and as a tensor.
        short: the map's short side.
        sizes: short sides of the pools.
        like: gives data type and device.
    """
    # As pooled_shape; for the short side itself this is the size.
    pooled = (1000 * length * sizes + 501 * short) // (1000 * short)
    cells = [_size(n) for n in pooled.unbind()]
    cell = torch.cat([torch.arange(n, device=like.device) for n in cells])
    count = torch.cat([p.expand(n) for p, n in zip(pooled.unbind(), cells, strict=True)])
    start = cell * length // count
    stop = ((cell + 1) * length + count - 1) // count
    position = torch.arange(side, device=like.device)
    inside = (position >= start[:, None]) & (position < stop[:, None])
    return inside.to(like.dtype) / (stop - start).to(like.dtype)[:, None], cells


def _scalar(side: int, like: Tensor) -> Tensor:
    return torch.full((), side, dtype=torch.int64, device=like.device)


def _size(value: Tensor) -> int:
    """As a size that export knows nothing about but that it is one, so that it adds no guards."""
    size = value.item()
    torch._check(size >= 1)
    return size

"""Average pools of one map at several sizes, and bilinear resizing; both are linear maps."""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .recording import is_exported, is_recorded


def pooled_shape(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width of a map pooled so that its short side is ``short_side``, aspect kept.

    The long side is round(long * short_side / short + 0.001), as in the released models. A map that
    is already that small keeps its size: pooling is omitted there (paper, section 4.4).
    """
    short, long = (height, width) if height <= width else (width, height)
    if short <= short_side:
        return height, width
    # The rounding above in integers, which tracers follow when the size is symbolic.
    long_side = (1000 * long * short_side + 501 * short) // (1000 * short)
    return (short_side, long_side) if height <= width else (long_side, short_side)


def resize(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Bilinear resize (align_corners=False) of an NxCxHxW map to ``shape`` = (height, width)."""
    if x.shape[-2:] == tuple(shape):
        return x
    if _compiled_for_inference(x):
        return _resize(x, *shape)
    return F.interpolate(x, size=tuple(shape), mode="bilinear", align_corners=False)


def average_pools(x: Tensor, short_sides: Sequence[int]) -> list[Tensor]:
    """Adaptive average pools of an NxCxHxW map to several short sides (:func:`pooled_shape`).

    In training on a CPU the pools are matrix products, a pass over the map for all of them together
    in either direction; PyTorch's pools are as fast forward, but many times slower backward.
    """
    if _compiled_for_inference(x):
        return _average_pools(x, list(short_sides))
    height, width = x.shape[-2:]
    shapes = [pooled_shape(height, width, side) for side in short_sides]
    trained = torch.is_grad_enabled() and x.requires_grad
    precise = x.dtype in (torch.float32, torch.float64)
    recorded = is_recorded()
    if x.device.type == "cpu" and trained and precise and not recorded:
        return _pools_by_products(x, shapes)
    pools = []
    for shape in shapes:
        source = x if recorded else _coarsest_source(x, pools, shape)
        same = shape == tuple(source.shape[-2:])
        pools.append(source if same else F.adaptive_avg_pool2d(source, shape))
    return pools


def _compiled_for_inference(x: Tensor) -> bool:
    """Whether pools and resizing are to be single operators of the graph that is recorded.

    Sizes that may change are symbols in it, and the compiler takes minutes over what pooling and
    resizing make of them.
    """
    if not torch.compiler.is_compiling() or is_exported():
        return False
    return not (torch.is_grad_enabled() and x.requires_grad)


@torch.library.custom_op("lrformer::resize", mutates_args=())
def _resize(x: Tensor, height: int, width: int) -> Tensor:
    return resize(x, (height, width)).contiguous(memory_format=torch.channels_last)


@_resize.register_fake
def _(x: Tensor, height: int, width: int) -> Tensor:
    return _empty_channels_last(x, (height, width))


@torch.library.custom_op("lrformer::average_pools", mutates_args=())
def _average_pools(x: Tensor, short_sides: list[int]) -> list[Tensor]:
    # Copies, as an operator may not give back what it got, nor the same twice.
    format = torch.channels_last
    return [pool.clone(memory_format=format) for pool in average_pools(x, short_sides)]


@_average_pools.register_fake
def _(x: Tensor, short_sides: list[int]) -> list[Tensor]:
    shapes = (pooled_shape(*x.shape[-2:], side) for side in short_sides)
    return [_empty_channels_last(x, shape) for shape in shapes]


def _empty_channels_last(like: Tensor, shape: Sequence[int]) -> Tensor:
    shape = (*like.shape[:2], *shape)
    return torch.empty(
        shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last
    )


def _coarsest_source(x: Tensor, pools: Sequence[Tensor], shape: tuple[int, int]) -> Tensor:
    """The smallest map of which the pool of ``shape`` is an average of whole, equal cells.

    ``pools`` are pools of ``x`` in order of decreasing size.
    """

    def nests(fine: Sequence[int], coarse: Sequence[int]) -> bool:
        return all(a % b == 0 for a, b in zip(fine, coarse, strict=True))

    for pool in reversed(pools):
        if nests(x.shape[-2:], pool.shape[-2:]) and nests(pool.shape[-2:], shape):
            return pool
    return x


def _pools_by_products(x: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    n, channels, height, width = x.shape
    rows = torch.cat([_pool_matrix(height, h, x.dtype) for h, _ in shapes])
    with torch.autocast("cpu", enabled=False):
        # Channels-last memory: rows of the map are contiguous, and so are columns of a row.
        x = rows @ x.permute(0, 2, 3, 1).reshape(n, height, width * channels)
        bands = x.view(n, len(rows), width, channels).split([h for h, _ in shapes], dim=1)
        pools = [
            _pool_matrix(width, w, x.dtype) @ band
            for band, (_, w) in zip(bands, shapes, strict=True)
        ]
    return [pool.permute(0, 3, 1, 2) for pool in pools]


@lru_cache(maxsize=256)
def _pool_matrix(length: int, cells: int, dtype: torch.dtype) -> Tensor:
    """``cells`` x ``length``: row i averages the i-th cell of an adaptive average pool."""
    # A tensor made in inference mode could not be used in training later.
    with torch.inference_mode(False), torch.no_grad():
        cell = torch.arange(cells).unsqueeze(1)
        start, stop = cell * length // cells, -(-(cell + 1) * length // cells)
        position = torch.arange(length)
        inside = (start <= position) & (position < stop)
        return inside.to(dtype) / (stop - start)


@lru_cache(maxsize=256)
def resize_matrix(length: int, new_length: int, dtype: torch.dtype) -> Tensor:
    """``new_length`` x ``length``: what :func:`resize` does to a column or a row."""
    with torch.inference_mode(False), torch.no_grad():
        columns = torch.eye(length, dtype=dtype).unsqueeze(0)
        resized = F.interpolate(columns, size=new_length, mode="linear", align_corners=False)
        return resized[0].t().contiguous()

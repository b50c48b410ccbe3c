"""Deformable attention's sampling as weighted sums of a table's rows: the fastest on CPUs.

A value's positions and heads are the rows of a table. What a query's head samples, four pixels a
point, is then a bag of rows as :func:`torch.nn.functional.embedding_bag` sums it: contiguous memory
is read where ``grid_sample`` gathers single numbers. The reference is
:func:`.deform_attn.grid_sample`.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Queries at once; what is computed of their samples then stays in the cache.
_QUERIES = 2048


def sample(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """As :func:`.deform_attn.ms_deform_attn`; all on the CPU, in float32 or float64.

    The backward pass samples again rather than keep anything of the forward pass.
    """
    return _Sample.apply(value, locations, weights, tuple(shapes))


class _Axis:
    """Bilinear interpolation along x or y, at ``location`` * ``size`` - 1/2.

    Attributes:
        low, high: the two pixels, moved into the map.
        in_low, in_high: 1 where they are in the map, else 0.
        of_low, of_high: their weights, 0 outside the map.
    """

    def __init__(self, location: Tensor, size: Tensor):
        position = location * size - 0.5
        low = position.floor()
        high, last = low + 1, size - 1
        self.low, self.high = (torch.minimum(x.clamp(min=0), last) for x in (low, high))
        fraction = position - low
        self.in_low = (low == self.low).to(fraction)
        self.in_high = (high == self.high).to(fraction)
        self.of_low, self.of_high = (1 - fraction) * self.in_low, fraction * self.in_high


class _Bags:
    """What some queries of one image sample.

    Args:
        locations: qxMxLxPx2.
        weights: qxMxLxP.
        width, height, row: of :func:`_columns`.

    Attributes:
        x, y: :class:`_Axis`, q x MLP.
        rows: of the image's table, qM x 4LP, int32: upper left, upper right, lower left and lower
            right pixels of all points.
        factors: weights of the rows.
    """

    def __init__(
        self, locations: Tensor, weights: Tensor, width: Tensor, height: Tensor, row: Tensor
    ):
        queries, heads = weights.shape[:2]
        x, y = (axis.reshape(queries, -1) for axis in locations.unbind(-1))
        self.x, self.y = _Axis(x, width), _Axis(y, height)
        weights = weights.reshape(queries, -1)
        rows, factors = [], []
        for of_y, y in ((self.y.of_low, self.y.low), (self.y.of_high, self.y.high)):
            for of_x, x in ((self.x.of_low, self.x.low), (self.x.of_high, self.x.high)):
                # Not a number becomes a large negative integer, and the first row.
                rows.append((y * width + x).int().clamp_(min=0) * heads + row)
                factors.append(weights * of_y * of_x)
        self.rows, self.factors = (
            torch.stack([t.view(queries * heads, -1) for t in corners], dim=1).flatten(1)
            for corners in (rows, factors)
        )


@lru_cache(maxsize=64)
def _columns(
    shapes: tuple[tuple[int, int], ...], heads: int, points: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """What the samples of one query differ in, for head after head, level and point: MLP each.

    Width and height of the level; the table's row, int32, of the level's first pixel and the head.
    """
    # A tensor made in inference mode could not be used in training later.
    with torch.inference_mode(False), torch.no_grad():
        sizes = torch.tensor(shapes)
        starts = sizes.prod(1).cumsum(0) - sizes.prod(1)
        rows = starts * heads + torch.arange(heads).unsqueeze(1)
        height, width = sizes.to(dtype).repeat_interleave(points, 0).repeat(heads, 1).unbind(1)
        rows = rows.repeat_interleave(points, 1).flatten()
        return width.contiguous(), height.contiguous(), rows.int()


def _parts(locations: Tensor) -> list[tuple[int, slice]]:
    """Images, and slices of their queries."""
    n, queries = locations.shape[:2]
    starts = range(0, queries, _QUERIES)
    return [(i, slice(start, start + _QUERIES)) for i in range(n) for start in starts]


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor, locations: Tensor, weights: Tensor, shapes: tuple) -> Tensor:
        n, _, heads, dim = value.shape
        ctx.save_for_backward(value, locations, weights)
        ctx.columns = _columns(shapes, heads, weights.shape[4], weights.dtype)
        tables = value.reshape(n, -1, dim)
        out = value.new_empty(n, locations.shape[1], heads * dim)
        for i, part in _parts(locations):
            bags = _Bags(locations[i, part], weights[i, part], *ctx.columns)
            sums = F.embedding_bag(
                bags.rows, tables[i], mode="sum", per_sample_weights=bags.factors
            )
            out[i, part] = sums.view(-1, heads * dim)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        value, locations, weights = ctx.saved_tensors
        n, _, _, dim = value.shape
        width, height, _ = ctx.columns
        tables = value.reshape(n, -1, dim)
        grad_tables = torch.zeros_like(tables)
        grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
        for i, part in _parts(locations):
            bags = _Bags(locations[i, part], weights[i, part], *ctx.columns)
            grad_sums = grad[i, part].reshape(-1, dim)
            grad_tables[i] += _summed_rows(grad_sums, bags, len(tables[i]))
            products = _products(grad_sums, tables[i], bags).unflatten(1, (4, -1))
            corners = [x.reshape(bags.x.low.shape) for x in products.unbind(1)]
            share, along_x, along_y = _bilinear_grads(corners, bags)
            shape = grad_weights[i, part].shape
            grad_weights[i, part] = share.view(shape)
            along = torch.stack([along_x * width, along_y * height], dim=-1).view(*shape, 2)
            grad_locations[i, part] = along * weights[i, part].unsqueeze(-1)
        return grad_tables.view_as(value), grad_locations, grad_weights, None


def _summed_rows(grad_sums: Tensor, bags: _Bags, rows: int) -> Tensor:
    """The table's gradient: the bags that a row is in are a bag of its own."""
    taken, order = bags.rows.flatten().sort()
    counts = torch.bincount(taken, minlength=rows)
    starts = (counts.cumsum(0) - counts).int()
    factors = bags.factors.flatten()[order]
    owners = order.div_(bags.rows.shape[1], rounding_mode="floor").int()
    return F.embedding_bag(owners, grad_sums, starts, mode="sum", per_sample_weights=factors)


def _products(grad_sums: Tensor, table: Tensor, bags: _Bags) -> Tensor:
    """Scalar products of a bag's gradient with its rows, in the shape of ``bags.rows``."""
    count, size = bags.rows.shape
    starts = torch.arange(0, count * size, size, dtype=torch.int32)
    owners = torch.arange(count, dtype=torch.int32).repeat_interleave(size)
    products = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad_sums.contiguous(), table, bags.rows.flatten(), starts, owners, 0
    )
    return products.view(count, size)


def _bilinear_grads(corners: Sequence[Tensor], bags: _Bags) -> tuple[Tensor, Tensor, Tensor]:
    """Of the interpolation: its value, and its derivatives by x and y in pixels."""
    x, y = bags.x, bags.y
    upper_left, upper_right, lower_left, lower_right = corners
    upper = x.of_low * upper_left + x.of_high * upper_right
    lower = x.of_low * lower_left + x.of_high * lower_right
    left = y.of_low * upper_left + y.of_high * lower_left
    right = y.of_low * upper_right + y.of_high * lower_right
    along_x = right * x.in_high - left * x.in_low
    along_y = lower * y.in_high - upper * y.in_low
    return y.of_low * upper + y.of_high * lower, along_x, along_y

"""Deformable attention's sampling as weighted sums of a table's rows: the fastest on CPUs.

A value's positions and heads are the rows of a table. What a query's head samples, four pixels a
point, is then a bag of rows as :func:`torch.nn.functional.embedding_bag` sums it: contiguous memory
is read where ``grid_sample`` gathers single numbers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .grid_sampling import Shapes

# Queries at once; what is computed of their samples then stays in the cache.
_QUERIES = 2048


def sample(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """As :func:`.ms_deform_attn.ms_deform_attn`; all on the CPU, in float32 or float64.

    Fastest where the locations' x and y lie in memory one after the other, not by turns. The
    backward pass samples again rather than keep anything of the forward pass.
    """
    inputs = value, locations, weights
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        return _Sample.apply(*inputs, tuple(shapes))
    return _sample(*inputs, tuple(shapes))


@dataclass(frozen=True)
class _Columns:
    """What the samples of one query differ in, for head after head, level and point: MLP each.

    Attributes:
        width, height: of the level.
        row: of the table, for the level's first pixel and the head; int32.
    """

    width: Tensor
    height: Tensor
    row: Tensor


@lru_cache(maxsize=64)
def _columns(shapes: Shapes, heads: int, points: int, dtype: torch.dtype) -> _Columns:
    # A tensor made in inference mode could not be used in training later.
    with torch.inference_mode(False), torch.no_grad():
        sizes = torch.tensor(shapes)
        starts = sizes.prod(1).cumsum(0) - sizes.prod(1)
        rows = starts * heads + torch.arange(heads).unsqueeze(1)
        height, width = sizes.to(dtype).repeat_interleave(points, 0).repeat(heads, 1).unbind(1)
        rows = rows.repeat_interleave(points, 1).flatten()
        return _Columns(width.contiguous(), height.contiguous(), rows.int())


class _Axis:
    """Bilinear interpolation along x or y.

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
        fraction = position.sub_(low)
        self.in_low, self.in_high = low.eq_(self.low), high.eq_(self.high)
        self.of_high = fraction * self.in_high
        self.of_low = fraction.neg_().add_(1).mul_(self.in_low)


class _Bags:
    """What a range of queries samples.

    Args:
        locations: qxMxLxPx2 of one image.
        weights: qxMxLxP.
        columns: of :func:`_columns`.

    Attributes:
        x, y: :class:`_Axis`, q x MLP.
        rows: of the image's table, qM x 4LP, int32: upper left, upper right, lower left and lower
            right pixels of all points.
        factors: weights of the rows.
    """

    def __init__(self, locations: Tensor, weights: Tensor, columns: _Columns):
        queries, heads, levels, points = weights.shape
        x, y = (xy.reshape(queries, -1) for xy in locations.unbind(-1))
        self.x, self.y = _Axis(x, columns.width), _Axis(y, columns.height)
        weights = weights.reshape(queries, -1)
        # Not a number becomes a large negative integer, and the first row.
        row = [
            (y * columns.width).int().clamp_(min=0) * heads + columns.row
            for y in (self.y.low, self.y.high)
        ]
        column = [x.int().clamp_(min=0) * heads for x in (self.x.low, self.x.high)]
        factor = [weights * of_y for of_y in (self.y.of_low, self.y.of_high)]
        shape = queries * heads, 4, levels * points
        self.rows = torch.empty(shape, dtype=torch.int32)
        self.factors = weights.new_empty(shape)
        view = queries * heads, -1
        for i in range(4):
            torch.add(row[i // 2].view(view), column[i % 2].view(view), out=self.rows[:, i])
            of_x = (self.x.of_low, self.x.of_high)[i % 2]
            torch.mul(factor[i // 2].view(view), of_x.view(view), out=self.factors[:, i])
        self.rows, self.factors = self.rows.flatten(1), self.factors.flatten(1)


def _parts(locations: Tensor, weights: Tensor, shapes: Shapes) -> Iterator[tuple]:
    """(image, slice of its queries, their :class:`_Bags`)"""
    n, queries, heads, _, points = weights.shape
    columns = _columns(shapes, heads, points, weights.dtype)
    for i in range(n):
        for start in range(0, queries, _QUERIES):
            part = slice(start, start + _QUERIES)
            yield i, part, _Bags(locations[i, part], weights[i, part], columns)


def _sample(value: Tensor, locations: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
    n, _, heads, dim = value.shape
    tables = value.reshape(n, -1, dim)
    out = value.new_empty(n, locations.shape[1], heads * dim)
    for i, part, bags in _parts(locations, weights, shapes):
        sums = F.embedding_bag(bags.rows, tables[i], mode="sum", per_sample_weights=bags.factors)
        out[i, part] = sums.view(-1, heads * dim)
    return out


class _Sample(torch.autograd.Function):
    """:func:`_sample` with its backward pass."""

    @staticmethod
    def forward(ctx, value: Tensor, locations: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
        ctx.save_for_backward(value, locations, weights)
        ctx.shapes = shapes
        return _sample(value, locations, weights, shapes)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        value, locations, weights = ctx.saved_tensors
        of_value, of_locations, of_weights = ctx.needs_input_grad[:3]
        n, _, heads, dim = value.shape
        tables = value.reshape(n, -1, dim)
        grad_tables = torch.zeros_like(tables) if of_value else None
        grad_locations = torch.empty_like(locations) if of_locations else None
        grad_weights = torch.empty_like(weights) if of_weights else None
        columns = _columns(ctx.shapes, heads, weights.shape[4], weights.dtype)
        for i, part, bags in _parts(locations, weights, ctx.shapes):
            grad_sums = grad[i, part].reshape(-1, dim)
            if of_value:
                grad_tables[i] += _summed_rows(grad_sums, bags, len(tables[i]))
            if not (of_locations or of_weights):
                continue
            products = _products(grad_sums, tables[i], bags).unflatten(1, (4, -1))
            corners = [x.reshape(bags.x.low.shape) for x in products.unbind(1)]
            share, along_x, along_y = _bilinear_grads(corners, bags)
            if of_weights:
                grad_weights[i, part] = share.view_as(grad_weights[i, part])
            if of_locations:
                factor = weights[i, part].reshape(share.shape)
                for k, along in enumerate((along_x * columns.width, along_y * columns.height)):
                    target = grad_locations[i, part, ..., k]
                    target.copy_((along * factor).view(target.shape))
        grad_value = grad_tables.view_as(value) if of_value else None
        return grad_value, grad_locations, grad_weights, None


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

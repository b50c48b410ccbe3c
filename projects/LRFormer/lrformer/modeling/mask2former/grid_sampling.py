"""Deformable attention's sampling by ``grid_sample``: standard operators on any device."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Shapes = Sequence[tuple[int, int]]


def sample(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """As :func:`.ms_deform_attn.ms_deform_attn`; all in float32 or float64.

    The backward pass samples again rather than keep the sampled values, which are L x P times as
    large as the output, and by far the cheapest part to compute.
    """
    n, _, heads, dim = value.shape
    # Queries last: the sum over points then runs along contiguous memory.
    grid = (2 * locations - 1).permute(3, 0, 2, 4, 1, 5).flatten(1, 2)
    factor = weights.permute(3, 0, 2, 4, 1).flatten(1, 2)
    inputs = value, grid, factor
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        out = _Sample.apply(*inputs, shapes)
    else:
        out = _sample(*inputs, shapes)
    return out.view(n, heads * dim, -1).transpose(1, 2)


def _maps(value: Tensor, shapes: Shapes) -> Iterator[Tensor]:
    """The levels of an NxSxMxD value as (NM)xDxHxW maps."""
    for level, size in zip(value.split([h * w for h, w in shapes], dim=1), shapes, strict=True):
        yield level.permute(0, 2, 3, 1).unflatten(-1, size).flatten(0, 1)


def _grid_sample(maps: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _sample(value: Tensor, grid: Tensor, factor: Tensor, shapes: Shapes) -> Tensor:
    """(NM)xDxQ from NxSxMxD, a grid of Lx(NM)xPxQx2 in [-1, 1] and factors of Lx(NM)xPxQ."""
    out = None
    for maps, level_grid, level_factor in zip(_maps(value, shapes), grid, factor, strict=True):
        sampled = _grid_sample(maps, level_grid)
        points = zip(sampled.unbind(2), level_factor.unsqueeze(1).unbind(2), strict=True)
        for point, weight in points:
            out = point * weight if out is None else torch.addcmul(out, point, weight)
    return out


class _Sample(torch.autograd.Function):
    """:func:`_sample`, whose backward samples again."""

    @staticmethod
    def forward(ctx, value: Tensor, grid: Tensor, factor: Tensor, shapes: Shapes) -> Tensor:
        ctx.save_for_backward(value, grid, factor)
        ctx.shapes = shapes
        return _sample(value, grid, factor, shapes)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        value, grid, factor = ctx.saved_tensors
        needs = list(ctx.needs_input_grad[:2])
        grad = grad.contiguous()
        grads_by_channel = grad.unsqueeze(2).unbind(1)
        grad_maps, grad_grid, grad_factor = [], [], []
        for maps, level_grid, level_factor in zip(
            _maps(value, ctx.shapes), grid, factor, strict=True
        ):
            maps = maps.contiguous()
            sampled = _grid_sample(maps, level_grid)
            # A channel at a time: the product of all is as large as the sampled values.
            total = torch.zeros_like(level_factor)
            for channel, channel_grad in zip(sampled.unbind(1), grads_by_channel, strict=True):
                total.addcmul_(channel, channel_grad)
            grad_factor.append(total)
            grad_sampled = torch.mul(grad.unsqueeze(2), level_factor.unsqueeze(1), out=sampled)
            of_maps, of_grid = torch.ops.aten.grid_sampler_2d_backward(
                grad_sampled, maps, level_grid, 0, 0, False, needs
            )
            grad_grid.append(of_grid)
            if needs[0]:
                of_maps = of_maps.unflatten(0, (value.shape[0], value.shape[2]))
                grad_maps.append(of_maps.flatten(3).permute(0, 3, 1, 2))
        return (
            torch.cat(grad_maps, dim=1) if needs[0] else None,
            torch.stack(grad_grid) if needs[1] else None,
            torch.stack(grad_factor),
            None,
        )

"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, eq. 3).

:func:`ms_deform_attn` is the one function; its backends differ in speed and memory only.
"""

import importlib.util
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

BACKENDS = ("auto", "pytorch", "deformops")

Shapes = Sequence[tuple[int, int]]


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Shapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    backend: str = "auto",
) -> Tensor:
    """Weighted sum of values sampled bilinearly around each query, on every level of a pyramid.

    N images, S positions over all levels, M heads of D channels, Q queries, L levels, P points.

    Args:
        value: NxSxMxD, the levels' maps one after the other, rows first.
        spatial_shapes: (height, width) of each level, coarse or fine first; Python integers.
        sampling_locations: NxQxMxLxPx2, (x, y) in units of the map: (0, 0) is the outer corner of
            its first pixel, (1, 1) that of its last. Outside the map values are 0. Better float32
            also where ``value`` is not: in bfloat16 a position is exact to 1/256 of the map only.
        attention_weights: NxQxMxLxP.
        backend: "pytorch" runs everywhere; "deformops" is the package of that name, for GPUs;
            "auto" takes "deformops" for CUDA tensors where it is installed, else "pytorch".

    Returns:
        NxQx(MD), of ``value``'s dtype.

    Raises:
        ValueError: unknown backend, or shapes that do not fit together.
        RuntimeError: the backend asked for is not available here.
    """
    positions = sum(height * width for height, width in spatial_shapes)
    if value.shape[1] != positions or sampling_locations.shape[3] != len(spatial_shapes):
        raise ValueError(
            f"levels of sizes {list(spatial_shapes)} have {positions} positions, but value is "
            f"{tuple(value.shape)} (second: positions) and sampling_locations "
            f"{tuple(sampling_locations.shape)} (fourth: levels)"
        )
    if resolve_backend(backend, value.device) == "deformops":
        return _deformops(value, spatial_shapes, sampling_locations, attention_weights)
    return _pytorch(value, spatial_shapes, sampling_locations, attention_weights)


def resolve_backend(backend: str, device: torch.device) -> str:
    """The backend that a name means for tensors on ``device``: see :func:`ms_deform_attn`."""
    check_backend(backend)
    if backend != "auto":
        return backend
    # A traced graph is to run elsewhere, or is counted by its standard operators.
    traced = torch.jit.is_tracing() or torch.compiler.is_exporting()
    fast = device.type == "cuda" and not traced and _has_deformops()
    return "deformops" if fast else "pytorch"


def check_backend(backend: str) -> None:
    """Raise what :func:`ms_deform_attn` would raise for this backend."""
    if backend not in BACKENDS:
        raise ValueError(
            f"{backend!r} is no backend of deformable attention "
            f"(MODEL.SEM_SEG_HEAD.MS_DEFORM_ATTN_BACKEND); there are {', '.join(BACKENDS)}"
        )
    if backend == "deformops" and not _has_deformops():
        raise RuntimeError(
            "MODEL.SEM_SEG_HEAD.MS_DEFORM_ATTN_BACKEND is 'deformops', but that package is not "
            "installed; pip install deformops (Python >= 3.12, torch >= 2.11), or use 'auto'"
        )


def _has_deformops() -> bool:
    return importlib.util.find_spec("deformops") is not None


def _deformops(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    from deformops.registry import msda  # optional; imports Triton

    sizes, starts = _level_table(tuple(shapes), value.device)
    out = msda(value, sizes, starts, locations, weights.to(value.dtype))
    return out.to(value.dtype)


@lru_cache(maxsize=64)
def _level_table(shapes: Shapes, device: torch.device) -> tuple[Tensor, Tensor]:
    """Sizes and first positions of the levels, kept on the device to spare a copy a call."""
    # A tensor made in inference mode could not be used in training later.
    with torch.inference_mode(False):
        sizes = torch.tensor(shapes)
        starts = sizes.prod(1).cumsum(0) - sizes.prod(1)
        return sizes.to(device), starts.to(device)


def _pytorch(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    n, _, heads, dim = value.shape
    # Positions lose too much in half precision, and not every device samples in it.
    dtype = torch.promote_types(value.dtype, torch.float32)
    # Queries last: the sum over points then runs along contiguous memory.
    grid = (2 * locations.to(dtype) - 1).permute(3, 0, 2, 4, 1, 5).flatten(1, 2)
    factor = weights.to(dtype).permute(3, 0, 2, 4, 1).flatten(1, 2)
    inputs = value.to(dtype), grid, factor
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        out = _Sample.apply(*inputs, shapes)
    else:
        out = _sample(*inputs, shapes)
    return out.view(n, heads * dim, -1).transpose(1, 2).to(value.dtype)


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
    """:func:`_sample`, whose backward samples again rather than keep the sampled values.

    They are L x P times as large as the output, and by far the cheapest part to compute.
    """

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


class MSDeformAttn(nn.Module):
    """The attention layer: positions, weights and values are linear functions of their tokens.

    Args:
        dim: channels of queries and tokens, divisible by ``num_heads``.
        num_levels, num_heads, num_points: L, M and P of :func:`ms_deform_attn`.
        backend: of :func:`ms_deform_attn`.
    """

    def __init__(
        self,
        dim: int = 256,
        num_levels: int = 3,
        num_heads: int = 8,
        num_points: int = 4,
        backend: str = "auto",
    ):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{dim} channels cannot be split over {num_heads} attention heads")
        self.num_levels, self.num_heads, self.num_points = num_levels, num_heads, num_points
        self.backend = backend
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(dim, 2 * samples)
        self.attention_weights = nn.Linear(dim, samples)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Heads look in directions all around the query, point p at a distance of p pixels."""
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        distance = torch.arange(1, self.num_points + 1)
        offsets = direction[:, None, None, :] * distance[:, None]
        offsets = offsets.expand(-1, self.num_levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        for tensor in (self.sampling_offsets.weight, *self.attention_weights.parameters()):
            nn.init.zeros_(tensor)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        tokens: Tensor,
        spatial_shapes: Shapes,
        pixel_sizes: Tensor,
    ) -> Tensor:
        """Attend from queries to the tokens of all levels.

        Args:
            query: NxQxC.
            reference_points: Qx2, each query's own (x, y) in [0, 1], float32.
            tokens: NxSxC, the levels' tokens one after the other.
            spatial_shapes: (height, width) of each level.
            pixel_sizes: Lx2, (1 / width, 1 / height) of each level, float32.

        Returns:
            NxQxC.
        """
        n, queries, _ = query.shape
        heads, levels, points = self.num_heads, self.num_levels, self.num_points
        value = self.value_proj(tokens).view(n, tokens.shape[1], heads, -1)
        # Softmax and positions in float32, under autocast too.
        weights = self.attention_weights(query).view(n, queries, heads, levels * points)
        weights = weights.softmax(-1, dtype=reference_points.dtype)
        weights = weights.view(n, queries, heads, levels, points)
        offsets = self.sampling_offsets(query).view(n, queries, heads, levels, points, 2)
        locations = reference_points[:, None, None, None] + offsets * pixel_sizes[:, None]
        out = ms_deform_attn(value, spatial_shapes, locations, weights, self.backend)
        return self.output_proj(out)

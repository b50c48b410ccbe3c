"""Sampling of multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, eq. 3).

:func:`ms_deform_attn` is the one function; its backends differ in speed and memory only.
"""

import importlib.util
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from . import row_sampling
from .route import route

Shapes = Sequence[tuple[int, int]]

BACKENDS = ("auto", "pytorch", "deformops")


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
    check_backend(backend)
    positions = sum(height * width for height, width in spatial_shapes)
    if value.shape[1] != positions or sampling_locations.shape[3] != len(spatial_shapes):
        raise ValueError(
            f"levels of sizes {list(spatial_shapes)} have {positions} positions, but value is "
            f"{tuple(value.shape)} (second: positions) and sampling_locations "
            f"{tuple(sampling_locations.shape)} (fourth: levels)"
        )
    way = route(value)
    if backend == "deformops" or (backend == "auto" and way == "cuda" and _has_deformops()):
        return _deformops(value, spatial_shapes, sampling_locations, attention_weights)
    # Positions lose too much in half precision, and not every device samples in it.
    dtype = torch.promote_types(value.dtype, torch.float32)
    inputs = value.to(dtype), spatial_shapes, sampling_locations.to(dtype)
    sample = row_sampling.sample if way == "cpu" else grid_sample
    return sample(*inputs, attention_weights.to(dtype)).to(value.dtype)


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


def grid_sample(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The reference, by standard operators on any device; all in float32 or float64.

    A level's samples are L x P times as large as the output, and by far the cheapest to compute:
    the backward pass samples again rather than keep them.
    """
    n, _, heads, dim = value.shape
    # Queries last: the sum over points then runs along contiguous memory.
    grids = (2 * locations - 1).permute(3, 0, 2, 4, 1, 5).flatten(1, 2)
    factors = weights.permute(3, 0, 2, 4, 1).flatten(1, 2).unsqueeze(2)
    levels = value.split([h * w for h, w in shapes], dim=1)
    trained = torch.is_grad_enabled() and route(value) != "plain"
    out = 0
    for level, size, grid, factor in zip(levels, shapes, grids, factors, strict=True):
        maps = level.permute(0, 2, 3, 1).unflatten(-1, size).flatten(0, 1)
        if trained:
            out = out + checkpoint(_sample_level, maps, grid, factor, use_reentrant=False)
        else:
            out = out + _sample_level(maps, grid, factor)
    return out.view(n, heads * dim, -1).transpose(1, 2)


def _sample_level(maps: Tensor, grid: Tensor, factor: Tensor) -> Tensor:
    """(NM)xDxQ from (NM)xDxHxW, a grid of (NM)xPxQx2 in [-1, 1] and factors of (NM)x1xPxQ."""
    sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (sampled * factor).sum(2)


def _has_deformops() -> bool:
    return importlib.util.find_spec("deformops") is not None


def _deformops(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    from deformops.registry import msda  # optional; imports Triton

    sizes, starts = _level_table(tuple(shapes), value.device)
    # Its kernels read memory in this order.
    inputs = (x.contiguous() for x in (locations, weights.to(value.dtype)))
    return msda(value.contiguous(), sizes, starts, *inputs).to(value.dtype)


@lru_cache(maxsize=64)
def _level_table(shapes: Shapes, device: torch.device) -> tuple[Tensor, Tensor]:
    """Sizes and first positions of the levels, kept on the device to spare a copy a call."""
    # A tensor made in inference mode could not be used in training later.
    with torch.inference_mode(False):
        sizes = torch.tensor(shapes)
        starts = sizes.prod(1).cumsum(0) - sizes.prod(1)
        return sizes.to(device), starts.to(device)

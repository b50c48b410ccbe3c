"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, eq. 3).

:func:`ms_deform_attn` is the one function; its backends differ in speed and memory only.
"""

import importlib.util
import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from ...layers.onednn import Linear, linear
from ...layers.recording import is_exported, is_recorded
from . import grid_sampling, row_sampling
from .grid_sampling import Shapes

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
    traced = torch.jit.is_tracing() or is_exported()
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
    # Its kernels read memory in this order.
    inputs = (x.contiguous() for x in (locations, weights.to(value.dtype)))
    out = msda(value.contiguous(), sizes, starts, *inputs)
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
    rows = value.device.type == "cpu" and not is_recorded()
    # Positions lose too much in half precision, and not every device samples in it.
    dtype = torch.promote_types(value.dtype, torch.float32)
    sample = row_sampling.sample if rows else grid_sampling.sample
    out = sample(value.to(dtype), shapes, locations.to(dtype), weights.to(dtype))
    return out.to(value.dtype)


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
        self.sampling_offsets = Linear(dim, 2 * samples)
        self.attention_weights = Linear(dim, samples)
        self.value_proj = Linear(dim, dim)
        self.output_proj = Linear(dim, dim)
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
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
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
        samples = self.num_heads, self.num_levels, self.num_points
        # All x before all y, unlike in the linear layer, is what row_sampling is fastest with.
        scale = pixel_sizes.t()[:, None, :, None].expand(-1, *samples).flatten(1)
        offsets = self._offsets(query).unflatten(-1, (2, -1))
        locations = reference_points[..., None] + offsets * scale
        locations = locations.view(n, queries, 2, *samples).permute(0, 1, 3, 4, 5, 2)
        value = self.value_proj(tokens).view(n, tokens.shape[1], self.num_heads, -1)
        # Softmax and positions in float32, under autocast too.
        weights = self.attention_weights(query).view(n, queries, self.num_heads, -1)
        weights = _softmax(weights.to(reference_points.dtype)).view(n, queries, *samples)
        out = ms_deform_attn(value, spatial_shapes, locations, weights, self.backend)
        return self.output_proj(out)

    def _offsets(self, query: Tensor) -> Tensor:
        """NxQx(2MLP) in pixels, all x before all y."""
        layer = self.sampling_offsets
        weight, bias = (x.unflatten(0, (-1, 2)) for x in (layer.weight, layer.bias))
        return linear(query, weight.transpose(0, 1).flatten(0, 1), bias.t().flatten())


def _softmax(x: Tensor) -> Tensor:
    """Over the last dimension; PyTorch's is slow on CPUs where that is short."""
    if x.device.type != "cpu" or (torch.is_grad_enabled() and x.requires_grad):
        return x.softmax(-1)
    x = (x - x.amax(-1, keepdim=True)).exp_()
    return x.div_(x.sum(-1, keepdim=True))

"""The layer of multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, eq. 3)."""

import math

import torch
from torch import Tensor, nn

from ...ops.deform_attn import Shapes, ms_deform_attn


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
        samples = self.num_heads, self.num_levels, self.num_points
        offsets = self.sampling_offsets(query).unflatten(-1, (*samples, 2))
        locations = reference_points[:, None, None, None] + offsets * pixel_sizes[:, None]
        value = self.value_proj(tokens).unflatten(-1, (self.num_heads, -1))
        # Softmax and positions in float32, under autocast too.
        weights = self.attention_weights(query).unflatten(-1, (self.num_heads, -1))
        weights = weights.to(reference_points.dtype).softmax(-1).unflatten(-1, samples[1:])
        out = ms_deform_attn(value, spatial_shapes, locations, weights, self.backend)
        return self.output_proj(out)

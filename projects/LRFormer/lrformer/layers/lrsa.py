"""Low-resolution self-attention (LRSA), section 3.1 of the paper."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .onednn import Linear
from .pooling import average_pools, resize


def scaled_pyramid(pyramid_sizes: Sequence[int], pooled_size: int) -> list[int]:
    """Short sides of the key/value pyramid for ``pooled_size``, from those for a size of 16."""
    return [max(1, round(size * pooled_size / 16 + 0.001)) for size in pyramid_sizes]


def tokens(x: Tensor) -> Tensor:
    """NxCxHxW to Nx(HW)xC: a view where ``x`` is channels-last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


class LowResolutionSelfAttention(nn.Module):
    """Self-attention in which queries, keys and values live on pooled maps of a fixed size.

    Queries are the map pooled to a short side of ``pooled_size``; keys and values come from a
    pyramid of coarser pools. The cost of attention therefore does not grow with the map.

    Args:
        dim: channels, divisible by ``num_heads``.
        num_heads: attention heads.
        pooled_size: short side m of the queries' map.
        pyramid_sizes: short sides of the key/value pyramid for m = 16; they scale with m.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        pooled_size: int = 16,
        pyramid_sizes: Sequence[int] = (11, 8, 6, 4),
    ):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{dim} channels cannot be split over {num_heads} attention heads")
        self.num_heads = num_heads
        self.pooled_size = pooled_size
        self.pyramid = scaled_pyramid(pyramid_sizes, pooled_size)
        self.q = Linear(dim, dim)
        self.kv = Linear(dim, 2 * dim)
        self.proj = Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def attend(self, x: Tensor, pyramid_convs: Sequence[nn.Module] | None = None) -> Tensor:
        """Attention without the final upsampling.

        Args:
            x: NxCxHxW map, already normalised.
            pyramid_convs: one 3x3 depth-wise convolution a pyramid level, added to that level; they
                belong to the stage, whose blocks share them.

        Returns:
            NxCxhxw with (h, w) = ``pooled_shape(H, W, pooled_size)``, in channels-last memory.
        """
        pooled, *levels = average_pools(x, [self.pooled_size, *self.pyramid])
        n, c, h, w = pooled.shape
        if pyramid_convs is not None:
            levels = [p + conv(p) for p, conv in zip(levels, pyramid_convs, strict=True)]
        context = self.norm(torch.cat([tokens(p) for p in levels], dim=1))

        q = self.q(tokens(pooled)).view(n, h * w, self.num_heads, -1).transpose(1, 2)
        kv = self.kv(context).view(n, context.shape[1], 2, self.num_heads, c // self.num_heads)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)
        out = self.proj(out.transpose(1, 2).reshape(n, h * w, c))
        return out.view(n, h, w, c).permute(0, 3, 1, 2)

    def forward(self, x: Tensor, pyramid_convs: Sequence[nn.Module] | None = None) -> Tensor:
        """:meth:`attend`, resized back to ``x``'s size: NxCxHxW to NxCxHxW."""
        return resize(self.attend(x, pyramid_convs), x.shape[-2:])

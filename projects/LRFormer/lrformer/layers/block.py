"""The basic block of LRFormer: positional convolution, LRSA, feed-forward (paper, eq. 4)."""

from collections.abc import Callable, Sequence

from timm.layers import DropPath, LayerNorm2d, LayerScale2d
from torch import Tensor, nn

from .feed_forward import FeedForward, depthwise_conv
from .lrsa import LowResolutionSelfAttention
from .pooling import resize


class LRFormerBlock(nn.Module):
    """x + DWConv(x), then x + LRSA(norm(x)), then x + FFN(norm(x)), on NxCxHxW maps.

    Args:
        dim, num_heads, pooled_size, pyramid_sizes: of :class:`LowResolutionSelfAttention`.
        mlp_ratio: hidden channels of the feed-forward part over ``dim``.
        drop_path: probability of dropping a sample's branch in training (stochastic depth).
        layer_scale_init: initial per-channel factor on both branches; 0 leaves it out.
        norm: channels to the norm layer before each branch.
        pre_norm: channels to a norm layer on the block's input, or None.
        positional_conv, ffn_conv: False leaves that depth-wise convolution out (paper, Tab. 9).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4,
        pooled_size: int = 16,
        pyramid_sizes: Sequence[int] = (11, 8, 6, 4),
        drop_path: float = 0.0,
        layer_scale_init: float = 0.0,
        norm: Callable[[int], nn.Module] = LayerNorm2d,
        pre_norm: Callable[[int], nn.Module] | None = None,
        positional_conv: bool = True,
        ffn_conv: bool = True,
    ):
        super().__init__()

        def layer_scale():
            return LayerScale2d(dim, layer_scale_init) if layer_scale_init else nn.Identity()

        self.pre_norm = pre_norm(dim) if pre_norm is not None else None
        self.positional_conv = depthwise_conv(dim) if positional_conv else None
        self.norm1 = norm(dim)
        self.attn = LowResolutionSelfAttention(dim, num_heads, pooled_size, pyramid_sizes)
        self.scale1 = layer_scale()
        self.norm2 = norm(dim)
        self.ffn = FeedForward(dim, int(dim * mlp_ratio), conv=ffn_conv)
        self.scale2 = layer_scale()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, pyramid_convs: Sequence[nn.Module] | None = None) -> Tensor:
        """NxCxHxW to NxCxHxW; ``pyramid_convs``: see :class:`LowResolutionSelfAttention`."""
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        if self.positional_conv is not None:
            x = x + self.positional_conv(x)
        # Scaling and dropping commute with the upsampling; on the pooled map they cost nothing.
        attended = self.drop_path(self.scale1(self.attn.attend(self.norm1(x), pyramid_convs)))
        x = x + resize(attended, x.shape[-2:])
        return x + self.drop_path(self.scale2(self.ffn(self.norm2(x))))

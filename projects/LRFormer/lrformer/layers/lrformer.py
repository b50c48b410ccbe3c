"""LRFormer, an encoder with low-resolution self-attention, in the order of the paper.

Wu et al., "Low-Resolution Self-Attention for Semantic Segmentation", TPAMI 2025:
attention (section 3.1), block (eq. 4), encoder (Fig. 4), variants (Tab. 2). Maps are N x C x H x W.
:func:`lrformer.ops.accelerate` makes these modules faster where that is known to pay.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import (
    DropPath,
    LayerNorm2d,
    LayerScale2d,
    calculate_drop_path_rates,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .common import (
    MultiHeadAttention,
    Norm,
    StagedEncoder,
    check_stages,
    conv3x3,
    depthwise_conv,
    expect,
    init_weights,
    resize,
    tokens,
)


def pooled_shape(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width of a map pooled so that its short side is ``short_side``, aspect kept.

    The long side is round(long * short_side / short + 0.001), as in the released models; here it is
    computed in integers. A map that is already that small keeps its size: pooling is omitted there
    (paper, section 4.4).
    """
    short = min(height, width)
    pooled = min(short_side, short)
    sides = ((1000 * side * pooled + 501 * short) // (1000 * short) for side in (height, width))
    return tuple(sides)


def scaled_pyramid(pyramid_sizes: Sequence[int], pooled_size: int) -> list[int]:
    """Short sides of the key/value pyramid for ``pooled_size``, from those for a size of 16."""
    return [max(1, round(size * pooled_size / 16 + 0.001)) for size in pyramid_sizes]


class PyramidPool(nn.Module):
    """Adaptive average pools of a map to several short sides (:func:`pooled_shape`)."""

    def __init__(self, short_sides: Sequence[int]):
        super().__init__()
        self.short_sides = tuple(short_sides)

    def forward(self, x: Tensor) -> list[Tensor]:
        """NxCxHxW to an NxCxhxw map a short side."""
        shapes = [pooled_shape(*x.shape[-2:], side) for side in self.short_sides]
        return [F.adaptive_avg_pool2d(x, shape) for shape in shapes]


class LowResolutionSelfAttention(MultiHeadAttention):
    """Self-attention whose queries, keys and values live on pooled maps of a fixed size.

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
        super().__init__(dim, num_heads)
        self.pool = PyramidPool([pooled_size, *scaled_pyramid(pyramid_sizes, pooled_size)])
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, pyramid_convs: Sequence[nn.Module] | None = None) -> Tensor:
        """Attend; the paper's last step, bilinear upsampling to ``x``'s size, is the caller's.

        Args:
            x: NxCxHxW map, already normalised.
            pyramid_convs: 3x3 depth-wise, shared in a stage; a level gets the sum of itself and its
                convolution's output.

        Returns:
            NxCxhxw with (h, w) = ``pooled_shape(H, W, pooled_size)``, in channels-last memory.
        """
        pooled, *levels = self.pool(x)
        if pyramid_convs is not None:
            levels = [p + conv(p) for p, conv in zip(levels, pyramid_convs, strict=True)]
        context = self.norm(torch.cat([tokens(p) for p in levels], dim=1))
        return super().forward(pooled, context)


class FeedForward(nn.Module):
    """1x1 convolution to ``hidden_dim``, GELU, y + 3x3 depth-wise convolution of y, 1x1 back.

    Args:
        dim, hidden_dim: channels outside and inside.
        conv: False leaves the depth-wise convolution out (paper, Tab. 9).
    """

    def __init__(self, dim: int, hidden_dim: int, conv: bool = True):
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden_dim, kernel_size=1)
        self.act = nn.GELU()
        self.dwconv = depthwise_conv(hidden_dim) if conv else None
        self.fc2 = nn.Conv2d(hidden_dim, dim, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """NxCxHxW to NxCxHxW."""
        x = self.act(self.fc1(x))
        if self.dwconv is not None:
            x = x + self.dwconv(x)
        return self.fc2(x)


class LRFormerBlock(nn.Module):
    """x + DWConv(x), then x + LRSA(norm(x)), then x + FFN(norm(x)) (paper, eq. 4).

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
        norm: Norm = LayerNorm2d,
        pre_norm: Norm | None = None,
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
        attended = self.drop_path(self.scale1(self.attn(self.norm1(x), pyramid_convs)))
        x = x + resize(attended, x.shape[-2:])
        return x + self.drop_path(self.scale2(self.ffn(self.norm2(x))))


class Stem(nn.Module):
    """Image to a map of stride 4: four 3x3 convolutions, the first and third of stride 2.

    Args:
        in_dim: channels of the image.
        dim: channels of the map; the first two convolutions have half as many.
        norm: channels to the norm after each of the first three convolutions.
    """

    def __init__(self, in_dim: int, dim: int, norm: Norm = nn.BatchNorm2d):
        super().__init__()
        self.conv1, self.norm1 = conv3x3(in_dim, dim // 2, 2), norm(dim // 2)
        self.conv2, self.norm2 = conv3x3(dim // 2, dim // 2, 1), norm(dim // 2)
        self.conv3, self.norm3 = conv3x3(dim // 2, dim, 2), norm(dim)
        self.conv4, self.norm4 = conv3x3(dim, dim, 1), LayerNorm2d(dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Nx``in_dim``xHxW to Nx``dim``xceil(H/4)xceil(W/4)."""
        # LayerNorm and 1x1 convolutions want channels last; one copy here spares one at each.
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.act(self.norm1(self.conv1(x)))
        x = self.act(self.norm2(self.conv2(x)))
        x = self.act(self.norm3(self.conv3(x)))
        return self.norm4(self.conv4(x))


class PatchEmbed(nn.Module):
    """Overlapping patch embedding: strided convolution, LayerNorm of ``eps``."""

    def __init__(
        self, in_dim: int, dim: int, kernel_size: int = 3, stride: int = 2, eps: float = 1e-6
    ):
        super().__init__()
        self.proj = nn.Conv2d(in_dim, dim, kernel_size, stride, padding=kernel_size // 2)
        self.norm = LayerNorm2d(dim, eps)

    def forward(self, x: Tensor) -> Tensor:
        """Nx``in_dim``xHxW to Nx``dim``xceil(H/stride)xceil(W/stride)."""
        return self.norm(self.proj(x))


class Stage(nn.Module):
    """Patch embedding (but in the first stage), blocks, and a norm where there is one.

    Args:
        embed, blocks, norm: the parts, in their order.
        pyramid_convs: what blocks take beside the map; None: nothing.
    """

    def __init__(
        self,
        embed: nn.Module,
        blocks: Sequence[nn.Module],
        pyramid_convs: Sequence[nn.Module] | None = None,
        norm: nn.Module | None = None,
    ):
        super().__init__()
        self.embed = embed
        self.pyramid_convs = None if pyramid_convs is None else nn.ModuleList(pyramid_convs)
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.activation_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        shared = () if self.pyramid_convs is None else (self.pyramid_convs,)
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, *shared, use_reentrant=False)
            else:
                x = block(x, *shared)
        return x if self.norm is None else self.norm(x)


class LRFormerEncoder(StagedEncoder):
    """Image to feature maps of strides 4, 8, 16 and 32. The defaults are LRFormer-T.

    A stage's output is its residual stream: no norm follows the last block.

    Args:
        in_chans: channels of the image.
        embed_dims, depths, num_heads, mlp_ratios: channels, blocks, attention heads and FFN
            expansion of each stage.
        layer_scale_init: initial layer scale of each stage's blocks; 0 leaves it out.
        pre_norm_blocks: for each stage, indices of blocks that start with ``norm``.
        pooled_size: short side m of the map in which attention is computed.
        pyramid_sizes: short sides of the key/value pyramid for m = 16.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0 at the first.
        positional_conv, ffn_conv: False leaves that depth-wise convolution out (paper, Tab. 9).
        norm: channels to the norm layer of the stem and of ``pre_norm_blocks``.
        num_stages: how many stages to build; the drop path of a block does not depend on it.

    Raises:
        ValueError: an argument that cannot be; the message names it and its config key.
    """

    def __init__(
        self,
        in_chans: int = 3,
        *,
        embed_dims: Sequence[int] = (48, 96, 240, 384),
        depths: Sequence[int] = (2, 2, 6, 3),
        num_heads: Sequence[int] = (2, 4, 10, 16),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        layer_scale_init: Sequence[float] = (0.0, 0.0, 1e-6, 1e-6),
        pre_norm_blocks: Sequence[Sequence[int]] = ((), (), (), ()),
        pooled_size: int = 16,
        pyramid_sizes: Sequence[int] = (11, 8, 6, 4),
        drop_path_rate: float = 0.0,
        positional_conv: bool = True,
        ffn_conv: bool = True,
        norm: Norm = nn.BatchNorm2d,
        num_stages: int = 4,
    ):
        super().__init__()
        check_stages("LRFORMER", embed_dims, depths, num_heads, mlp_ratios, drop_path_rate)
        _check(depths, layer_scale_init, pre_norm_blocks, pooled_size, pyramid_sizes)
        self.embed_dims = tuple(embed_dims[:num_stages])
        rates = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        self.stem = Stem(in_chans, embed_dims[0], norm)
        self.stages = nn.Sequential()
        for i, dim in enumerate(self.embed_dims):
            blocks = [
                LRFormerBlock(
                    dim,
                    num_heads[i],
                    mlp_ratio=mlp_ratios[i],
                    pooled_size=pooled_size,
                    pyramid_sizes=pyramid_sizes,
                    drop_path=next(rates),
                    layer_scale_init=layer_scale_init[i],
                    pre_norm=norm if j in pre_norm_blocks[i] else None,
                    positional_conv=positional_conv,
                    ffn_conv=ffn_conv,
                )
                for j in range(depths[i])
            ]
            embed = PatchEmbed(embed_dims[i - 1], dim) if i else nn.Identity()
            self.stages.append(Stage(embed, blocks, [depthwise_conv(dim) for _ in pyramid_sizes]))
        self.apply(init_weights)


def _check(
    depths: Sequence[int],
    layer_scale_init: Sequence[float],
    pre_norm_blocks: Sequence[Sequence[int]],
    pooled_size: int,
    pyramid_sizes: Sequence[int],
) -> None:
    lists = {"layer_scale_init": layer_scale_init, "pre_norm_blocks": pre_norm_blocks}
    for name, values in lists.items():
        expect(len(values) == 4, "LRFORMER", name, f"needs 4 entries, one a stage: {values}")
    for depth, blocks in zip(depths, pre_norm_blocks, strict=True):
        exist = all(0 <= block < depth for block in blocks)
        problem = f"has {blocks} for a stage of {depth} blocks"
        expect(exist, "LRFORMER", "pre_norm_blocks", problem)
    problem = f"needs positive entries: {pyramid_sizes}"
    expect(min(pyramid_sizes, default=0) > 0, "LRFORMER", "pyramid_sizes", problem)
    problem = f"must be at least 1, not {pooled_size}"
    expect(pooled_size >= 1, "LRFORMER", "pooled_size", problem)


# Paper, Tab. 2, under timm's names; XL from the released models. The rest is the encoder's default.
VARIANTS: dict[str, dict] = {
    "lrformer_tiny": {"embed_dims": (48, 96, 240, 384), "depths": (2, 2, 6, 3)},
    "lrformer_small": {"embed_dims": (64, 128, 320, 512), "depths": (3, 3, 12, 3)},
    "lrformer_base": {"embed_dims": (80, 160, 400, 512), "depths": (4, 4, 15, 8)},
    "lrformer_large": {"embed_dims": (96, 192, 480, 640), "depths": (4, 6, 18, 8)},
    "lrformer_xlarge": {
        "embed_dims": (128, 256, 640, 768),
        "depths": (4, 8, 22, 8),
        "pre_norm_blocks": ((), (), (7, 15), ()),
    },
}

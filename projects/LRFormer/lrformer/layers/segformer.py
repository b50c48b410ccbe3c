"""Mix Transformer (MiT), SegFormer's encoder, in the order of the paper.

Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
NeurIPS 2021, section 3.1; variants: appendix, Tab. 6. What the paper leaves open is as the weights
that its authors released need it. Maps are N x C x H x W.
"""

from collections.abc import Sequence

from timm.layers import DropPath, LayerNorm2d, calculate_drop_path_rates, trunc_normal_
from torch import Tensor, nn

from .common import MultiHeadAttention, StagedEncoder, check_stages, init_weights, tokens
from .lrformer import FeedForward, PatchEmbed, Stage


class EfficientSelfAttention(MultiHeadAttention):
    """Self-attention whose keys and values are a map reduced by a strided convolution.

    Args:
        dim: channels, divisible by ``num_heads``.
        num_heads: attention heads.
        sr_ratio: side of the windows of pixels that become a key and a value each; pixels that do
            not fill one take no part. 1: every pixel, without convolution and norm.
    """

    def __init__(self, dim: int, num_heads: int, sr_ratio: int = 1):
        super().__init__(dim, num_heads)
        self.sr = nn.Conv2d(dim, dim, sr_ratio, stride=sr_ratio) if sr_ratio > 1 else nn.Identity()
        self.norm = nn.LayerNorm(dim) if sr_ratio > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """NxCxHxW, already normalised, to NxCxHxW."""
        return super().forward(x, self.norm(tokens(self.sr(x))))


class MixFFN(FeedForward):
    """1x1 convolution, 3x3 depth-wise convolution (which tells positions), GELU, 1x1 back."""

    def forward(self, x: Tensor) -> Tensor:
        """NxCxHxW to NxCxHxW."""
        return self.fc2(self.act(self.dwconv(self.fc1(x))))


class MiTBlock(nn.Module):
    """x + attention(norm(x)), then x + MixFFN(norm(x)).

    Args:
        dim, num_heads, sr_ratio: of :class:`EfficientSelfAttention`.
        mlp_ratio: hidden channels of the feed-forward part over ``dim``.
        drop_path: probability of dropping a sample's branch in training (stochastic depth).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        sr_ratio: int = 1,
        mlp_ratio: float = 4,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.norm1 = LayerNorm2d(dim)
        self.attn = EfficientSelfAttention(dim, num_heads, sr_ratio)
        self.norm2 = LayerNorm2d(dim)
        self.ffn = MixFFN(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """NxCxHxW to NxCxHxW."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.ffn(self.norm2(x)))


class MiTEncoder(StagedEncoder):
    """Image to feature maps of strides 4, 8, 16 and 32. The defaults are MiT-B0.

    A stage ends with a norm, whose map is the feature and what the next stage reads.

    Args:
        in_chans: channels of the image.
        embed_dims, depths, num_heads, mlp_ratios, sr_ratios: channels, blocks, attention heads, FFN
            expansion and reduction of keys and values of each stage.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0 at the first.
        num_stages: how many stages to build; the drop path of a block does not depend on it.

    Raises:
        ValueError: an argument that cannot be; the message names it and its config key.
    """

    def __init__(
        self,
        in_chans: int = 3,
        *,
        embed_dims: Sequence[int] = (32, 64, 160, 256),
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        mlp_ratios: Sequence[float] = (4, 4, 4, 4),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        drop_path_rate: float = 0.0,
        num_stages: int = 4,
    ):
        super().__init__()
        check_stages(
            "MIT", embed_dims, depths, num_heads, mlp_ratios, drop_path_rate, sr_ratios=sr_ratios
        )
        self.embed_dims = tuple(embed_dims[:num_stages])
        rates = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        self.stem = PatchEmbed(in_chans, embed_dims[0], kernel_size=7, stride=4, eps=1e-5)
        self.stages = nn.Sequential()
        for i, dim in enumerate(self.embed_dims):
            blocks = [
                MiTBlock(
                    dim,
                    num_heads[i],
                    sr_ratio=sr_ratios[i],
                    mlp_ratio=mlp_ratios[i],
                    drop_path=next(rates),
                )
                for _ in range(depths[i])
            ]
            embed = PatchEmbed(embed_dims[i - 1], dim, eps=1e-5) if i else nn.Identity()
            self.stages.append(Stage(embed, blocks, norm=LayerNorm2d(dim)))
        self.apply(_init_weights)


def _init_weights(module: nn.Module) -> None:
    init_weights(module)
    if isinstance(module, MixFFN):  # whose 1x1 convolutions are linear layers in the release
        trunc_normal_(module.fc1.weight, std=0.02)
        trunc_normal_(module.fc2.weight, std=0.02)


_B1_DIMS = (64, 128, 320, 512)
MIT_VARIANTS: dict[str, dict] = {
    "mit_b0": {"embed_dims": (32, 64, 160, 256), "depths": (2, 2, 2, 2)},
    "mit_b1": {"embed_dims": _B1_DIMS, "depths": (2, 2, 2, 2)},
    "mit_b2": {"embed_dims": _B1_DIMS, "depths": (3, 4, 6, 3)},
    "mit_b3": {"embed_dims": _B1_DIMS, "depths": (3, 4, 18, 3)},
    "mit_b4": {"embed_dims": _B1_DIMS, "depths": (3, 8, 27, 3)},
    "mit_b5": {"embed_dims": _B1_DIMS, "depths": (3, 6, 40, 3)},
}

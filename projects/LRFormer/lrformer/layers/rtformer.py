"""RTFormer, a dual-resolution encoder for real-time segmentation, in the order of the paper.

Wang et al., "RTFormer: Efficient Design for Real-Time Semantic Segmentation with Transformer",
NeurIPS 2022: attention and block (section 3.1), architecture (section 3.2). Where the paper and the
released definition differ, the defaults are the latter's. "High" and "low" are the branches of high
and low resolution; parameters have the released names. Maps are N x C x H x W.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import DropPath, trunc_normal_
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from .common import Norm, conv3x3, expect, resize, to_map, tokens

BatchNorm = partial(nn.BatchNorm2d, momentum=0.9)  # as the released models were trained


def norm_relu_conv(
    in_dim: int, dim: int, kernel_size: int = 1, stride: int = 1, norm: Norm = BatchNorm
) -> nn.Sequential:
    """Norm, ReLU, convolution without bias: the parts of everything that joins maps here."""
    conv = nn.Conv2d(in_dim, dim, kernel_size, stride, padding=kernel_size // 2, bias=False)
    return nn.Sequential(norm(in_dim), nn.ReLU(), conv)


def basic_block(in_dim: int, dim: int, stride: int = 1, norm: Norm = BatchNorm) -> BasicBlock:
    """ResNet's block, whose shortcut is a convolution where stride or width change."""
    shortcut = None
    if stride > 1 or in_dim != dim:
        shortcut = nn.Sequential(nn.Conv2d(in_dim, dim, 1, stride, bias=False), norm(dim))
    # Some versions of timm give device and data type, too.
    return BasicBlock(in_dim, dim, stride, shortcut, norm_layer=lambda n, **_: norm(n))


def basic_layer(in_dim: int, dim: int, stride: int, norm: Norm) -> nn.Sequential:
    """Two basic blocks, of which the second ends without the ReLU."""
    blocks = basic_block(in_dim, dim, stride, norm), basic_block(dim, dim, norm=norm)
    blocks[1].act2 = nn.Identity()
    return nn.Sequential(*blocks)


class GPUFriendlyAttention(nn.Module):
    """Attention to learnt keys and values, whose heads are groups normalised apart (GFA).

    Args:
        in_dim, dim: channels of the map and of the result; ``dim`` is also the number of keys.
        stride: of the result.
        norm: channels to the norm layer of the input.
    """

    num_heads = 8

    def __init__(self, in_dim: int, dim: int, stride: int = 1, norm: Norm = BatchNorm):
        super().__init__()
        self.norm = norm(in_dim)
        self.k = nn.Conv2d(in_dim, dim, 1, stride, bias=False)
        self.v = nn.Conv2d(dim, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """NxCxHxW to Nx``dim``xH'xW'."""
        x = self.k(self.norm(x))
        height, width = x.shape[-2:]
        # Softmax over the pixels, then a share of its group at each pixel.
        weights = x.flatten(2).softmax(-1).unflatten(1, (self.num_heads, -1))
        weights = weights / (weights.sum(2, keepdim=True) + 1e-6)
        return self.v(weights.flatten(1, 2).unflatten(-1, (height, width)))


class CrossResolutionAttention(nn.Module):
    """Attention of the pixels of the high branch to the pooled low branch, without projections.

    Args:
        dim: channels.
        scale: of the products.
        norm: channels to the norm layer of the queries.
    """

    def __init__(self, dim: int, scale: float, norm: Norm = BatchNorm):
        super().__init__()
        self.scale = scale
        self.norm = norm(dim)

    def forward(self, x: Tensor, keys_values: Tensor) -> Tensor:
        """NxCxHxW and Nx2Cxsxs, keys first, to NxCxHxW."""
        q, (k, v) = tokens(self.norm(x)), tokens(keys_values).chunk(2, dim=-1)
        q, k, v = (t[:, None] for t in (q, k, v))  # one head
        out = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return to_map(out[:, 0], x.shape[-2:])


class ConvFFN(nn.Module):
    """Norm, 3x3 convolution, GELU, 3x3 convolution; the width stays."""

    def __init__(self, dim: int, norm: Norm = BatchNorm):
        super().__init__()
        self.norm = norm(dim)
        self.norm.eps = 1e-6
        self.conv1 = conv3x3(dim, dim)
        self.act = nn.GELU()
        self.conv2 = conv3x3(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.act(self.conv1(self.norm(x))))


class RTFormerBlock(nn.Module):
    """GFA in the low branch, then cross-resolution attention to it in the high one.

    Args:
        low_in, low, high: channels of the low branch before and after, and of the high branch.
            Where the low branch's change, its stride doubles.
        pooled_size: side s to which keys and values of the high branch are pooled.
        scale_by_width: scale cross-resolution attention by its channels, as the paper has it, not
            by s.
        injection: add the high branch to the low one at the end.
        drop_path: probability of dropping a sample's branch in training.
        norm: channels to the norm layer.
    """

    def __init__(
        self,
        low_in: int,
        low: int,
        high: int,
        *,
        pooled_size: int,
        scale_by_width: bool = False,
        injection: bool = False,
        drop_path: float = 0.0,
        norm: Norm = BatchNorm,
    ):
        super().__init__()
        stride = 1 if low_in == low else 2
        self.attn_shortcut_l = nn.Identity()
        if stride > 1:
            conv = nn.Conv2d(low_in, low, 1, stride, bias=False)
            self.attn_shortcut_l = nn.Sequential(norm(low_in), conv)
        self.attn_l = GPUFriendlyAttention(low_in, low, stride, norm)
        self.mlp_l = ConvFFN(low, norm)
        self.compression = norm_relu_conv(low, high, norm=norm)
        conv = nn.Conv2d(low, 2 * high, 1, bias=False)
        self.cross_kv = nn.Sequential(norm(low), nn.AdaptiveMaxPool2d(pooled_size), conv)
        scale = 1 / math.sqrt(high) if scale_by_width else 1 / pooled_size
        self.attn_h = CrossResolutionAttention(high, scale, norm)
        self.mlp_h = ConvFFN(high, norm)
        self.down = None
        if injection:
            first = norm_relu_conv(high, low // 2, 3, 2, norm)
            self.down = nn.Sequential(*first, *norm_relu_conv(low // 2, low, 3, 2, norm))
        self.drop_path = DropPath(drop_path)

    def forward(self, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        """The maps of both branches to those after the block."""
        low = self.attn_shortcut_l(low) + self.drop_path(self.attn_l(low))
        low = low + self.drop_path(self.mlp_l(low))
        high = high + resize(self.compression(low), high.shape[-2:])
        high = high + self.drop_path(self.attn_h(high, self.cross_kv(low)))
        high = high + self.drop_path(self.mlp_h(high))
        return high, low if self.down is None else low + self.down(high)


class DAPPM(nn.Module):
    """Deep aggregation pyramid pooling: average pools of growing size, each added to the last.

    Args:
        in_dim, dim, out_dim: channels of the map, inside and of the result.
        norm: channels to the norm layer.
    """

    def __init__(self, in_dim: int, out_dim: int, dim: int = 128, norm: Norm = BatchNorm):
        super().__init__()
        pools = [nn.AvgPool2d(2 * i + 1, i, padding=i) for i in (2, 4, 8)]
        pools.append(nn.AdaptiveAvgPool2d(1))
        self.scales = nn.ModuleList([norm_relu_conv(in_dim, dim, norm=norm)])
        self.processes = nn.ModuleList([nn.Identity()])
        for pool in pools:
            self.scales.append(nn.Sequential(pool, *norm_relu_conv(in_dim, dim, norm=norm)))
            self.processes.append(norm_relu_conv(dim, dim, 3, norm=norm))
        self.compression = norm_relu_conv(5 * dim, out_dim, norm=norm)
        self.shortcut = norm_relu_conv(in_dim, out_dim, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """NxCxHxW to Nx``out_dim``xHxW."""
        maps = []
        for scale, process in zip(self.scales, self.processes, strict=True):
            pooled = resize(scale(x), x.shape[-2:])
            maps.append(process(pooled + maps[-1] if maps else pooled))
        return self.compression(torch.cat(maps, dim=1)) + self.shortcut(x)


def seg_head(dim: int, num_classes: int, norm: Norm = BatchNorm) -> nn.Sequential:
    """From a map to logits: norm, ReLU, 3x3 convolution, norm, ReLU, 1x1 convolution with bias."""
    classifier = nn.Conv2d(dim, num_classes, kernel_size=1)
    return nn.Sequential(*norm_relu_conv(dim, dim, 3, norm=norm), norm(dim), nn.ReLU(), classifier)


class RTFormerEncoder(nn.Module):
    """Image to feature maps of strides 4 to 32 (:meth:`forward_stages`); defaults: RTFormer-Slim.

    Attributes:
        embed_dims: channels of the maps.

    Args:
        in_chans: channels of the image.
        width: channels c of the first layers; others have 2c, 4c and 8c.
        pooled_size, scale_by_width: of :class:`RTFormerBlock`.
        injection: of each of the two blocks.
        drop_path_rate: of both blocks.
        norm: channels to the norm layer.

    Raises:
        ValueError: an argument that cannot be; the message names it and its config key.
    """

    def __init__(
        self,
        in_chans: int = 3,
        *,
        width: int = 32,
        pooled_size: int = 8,
        scale_by_width: bool = False,
        injection: tuple[bool, bool] = (True, False),
        drop_path_rate: float = 0.0,
        norm: Norm = BatchNorm,
    ):
        super().__init__()
        for name, value in (("width", width), ("pooled_size", pooled_size)):
            expect(value >= 1, "RTFORMER", name, f"must be at least 1, not {value}")
        expect(len(injection) == 2, "RTFORMER", "injection", f"needs 2 entries: {injection}")
        in_range = 0 <= drop_path_rate < 1
        expect(in_range, "RTFORMER", "drop_path_rate", f"must lie in [0, 1), not {drop_path_rate}")
        c = width
        self.embed_dims = (c, 2 * c, 4 * c, 8 * c, 2 * c)
        self.conv1 = nn.Sequential(
            *(conv3x3(in_chans, c, 2), norm(c), nn.ReLU()),
            *(conv3x3(c, c, 2), norm(c), nn.ReLU()),
        )
        self.relu = nn.ReLU()
        self.layer1 = basic_layer(c, c, 1, norm)
        self.layer2 = basic_layer(c, 2 * c, 2, norm)
        self.layer3 = basic_layer(2 * c, 4 * c, 2, norm)
        self.compression3 = norm_relu_conv(4 * c, 2 * c, norm=norm)
        self.layer3_ = nn.Sequential(basic_block(2 * c, 2 * c, norm=norm))
        block = {
            "pooled_size": pooled_size,
            "scale_by_width": scale_by_width,
            "drop_path": drop_path_rate,
            "norm": norm,
        }
        self.layer4 = RTFormerBlock(4 * c, 8 * c, 2 * c, injection=injection[0], **block)
        self.layer5 = RTFormerBlock(8 * c, 8 * c, 2 * c, injection=injection[1], **block)
        self.apply(init_weights)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """The maps of strides 4, 8, 16 and 32, and that of an auxiliary classifier, of stride 8.

        Strides 8 and 32 are the two branches after the last block, with 2c and 8c channels; the
        auxiliary classifier takes the high branch before the first block. A map has not passed the
        ReLU that the next layer starts with.

        Args:
            x: Nx``in_chans``xHxW image.
        """
        x1 = self.layer1(self.conv1(x))
        x2 = self.layer2(self.relu(x1))
        x3 = self.layer3(self.relu(x2))
        high = x2 + resize(self.compression3(x3), x2.shape[-2:])
        before = self.layer3_(self.relu(high))
        high, low = self.layer4(self.relu(before), self.relu(x3))
        high, low = self.layer5(self.relu(high), self.relu(low))
        return [x1, high, x3, low, before]


def init_weights(module: nn.Module) -> None:
    """As the released models start: fan-in normal for convolutions, biases 0; small attention."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, GPUFriendlyAttention):
        nn.init.normal_(module.k.weight, std=0.001)
        nn.init.normal_(module.v.weight, std=0.001)
    elif isinstance(module, RTFormerBlock):
        trunc_normal_(module.cross_kv[-1].weight, std=0.02)


RTFORMER_VARIANTS: dict[str, dict] = {
    "rtformer_slim": {"width": 32, "pooled_size": 8},
    "rtformer_base": {"width": 64, "pooled_size": 12},
}

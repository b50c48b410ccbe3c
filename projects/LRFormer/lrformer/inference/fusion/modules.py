"""The parts of LRFormer as :func:`lrformer.inference.fuse` rewrites them."""

import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d, LayerScale2d
from torch import Tensor, nn

from ...layers import LRFormerBlock, PatchEmbed, Stem, onednn
from ...layers.attention import attention
from ...layers.feed_forward import feed_forward, with_identity
from ...layers.lrsa import tokens
from ...layers.onednn import add
from ...layers.pooling import average_pools, resize
from ...modeling.heads import LRHead
from .folding import (
    Conv,
    Linear,
    Projection,
    batch_norm_affine,
    compute_dtype,
    constant,
    fused_conv,
    layer_norm_affine,
)


class EvalOnly(nn.Module):
    """A module that cannot be trained, and says so."""

    def train(self, mode: bool = True) -> nn.Module:
        if mode:
            raise RuntimeError(
                "a fused model is for inference only: its BatchNorms are gone; train the model "
                "that was given to lrformer.inference.fuse"
            )
        return super().train(mode)


class Embed(EvalOnly):
    """Convolution and LayerNorm: the start of a residual stream, which keeps their data type.

    Under autocast in bfloat16 that is bfloat16: the range is float32's, and maps are half as large.
    In float16 it is the LayerNorm's own.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.Module):
        super().__init__()
        self.conv = fused_conv(conv, None, None)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if x.dtype == torch.bfloat16 and x.device.type == "cpu":
            return self.norm(x)  # whose statistics are float32
        low = x.dtype == torch.bfloat16
        x = self.norm(x.to(self.norm.weight.dtype))
        return x.to(torch.bfloat16) if low else x


class FusedStem(EvalOnly):
    """:class:`lrformer.layers.Stem` without its BatchNorms."""

    def __init__(self, stem: Stem):
        super().__init__()
        pairs = [(stem.conv1, stem.norm1), (stem.conv2, stem.norm2), (stem.conv3, stem.norm3)]
        self.convs = nn.Sequential(*[fused_conv(conv, norm, "gelu") for conv, norm in pairs])
        self.embed = Embed(stem.conv4, stem.norm4)

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(self.convs(x.contiguous(memory_format=torch.channels_last)))


def fused_patch_embed(embed: PatchEmbed) -> Embed:
    return Embed(embed.proj, embed.norm)


class Affine(nn.Module):
    """x * scale + shift, one value a channel of an NxCxHxW map: a BatchNorm in inference."""

    def __init__(self, scale: Tensor, shift: Tensor, like: Tensor):
        super().__init__()
        self.scale = constant(scale.view(-1, 1, 1), like)
        self.shift = constant(shift.view(-1, 1, 1), like)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift.to(x.dtype), x, self.scale.to(x.dtype))


class ResidualDepthwiseConv(nn.Module):
    """x + conv(x) as one depth-wise convolution, in the data type of ``x`` under autocast too."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        linear = Linear.of(conv)
        self.weight = constant(with_identity(linear.weight), conv.weight)
        self.bias = constant(linear.bias, conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        # Autocast does not know oneDNN's operators; to switch it off takes as long as a small map.
        leave = onednn.usable(x) or not torch.is_autocast_enabled(x.device.type)
        with nullcontext() if leave else torch.autocast(x.device.type, enabled=False):
            return onednn.conv(x, weight, bias, padding=1, groups=weight.shape[0])


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of an NxCxHxW map, without an affine part."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, x.shape[-1:], eps=self.eps).permute(0, 3, 1, 2)


class FusedAttention(nn.Module):
    """LRSA with what precedes its pools and what follows its projection.

    BatchNorm before the pools comes after them, where maps are small. The queries' factor
    1/sqrt(d) is in their weights, the layer scale in the projection's. A bias of the keys adds the
    same to all scores of a query, which softmax ignores; one of the values passes to the output.
    """

    def __init__(self, block: LRFormerBlock):
        super().__init__()
        attn = block.attn
        like = attn.q.weight
        q, kv, proj = Linear.of(attn.q), Linear.of(attn.kv), Linear.of(attn.proj)
        affine = batch_norm_affine(block.norm1)
        self.norm = block.norm1 if affine is None else nn.Identity()
        self.level_affine = nn.Identity()
        if affine is not None:
            q = q.of_scaled(*affine)
            self.level_affine = Affine(*affine, like)
        kv = kv.of_scaled(*layer_norm_affine(attn.norm))
        value_bias = kv.bias.chunk(2)[1]
        proj = Linear(proj.weight, proj.bias + proj.weight @ value_bias)
        proj = proj.then_scaled(_layer_scale(block.scale1, proj.bias))
        head_dim = len(q.bias) // attn.num_heads
        self.q = Projection(q.then_scaled(torch.full_like(q.bias, 1 / math.sqrt(head_dim))), like)
        self.kv = Projection(kv, like, bias=False)
        self.proj = Projection(proj, like)
        self.num_heads, self.eps = attn.num_heads, attn.norm.eps
        self.sizes = [attn.pooled_size, *attn.pyramid]

    def forward(self, x: Tensor, pyramid_convs: Sequence[nn.Module] | None) -> Tensor:
        """NxCxHxW to NxCxhxw, as :meth:`LowResolutionSelfAttention.attend`."""
        pooled, *levels = average_pools(self.norm(x), self.sizes)
        levels = [self.level_affine(level) for level in levels]
        if pyramid_convs is not None:
            levels = [conv(p) for p, conv in zip(levels, pyramid_convs, strict=True)]
        size = pooled.shape[-2:]
        context = torch.cat([tokens(p) for p in levels], dim=1)
        context = F.layer_norm(context, context.shape[-1:], eps=self.eps)
        k, v = self.kv(context).chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)) for x in (self.q(tokens(pooled)), k, v))
        out = attention(*(x.transpose(1, 2) for x in (q, k, v)))
        out = self.proj(out.transpose(1, 2).flatten(2))
        return out.unflatten(1, size).permute(0, 3, 1, 2)


class FusedBlock(EvalOnly):
    """:class:`lrformer.layers.LRFormerBlock`, and a 1x1 convolution of its output if there is one.

    Args:
        block: a block.
        readout: of the block's output, in whose place it is returned.
    """

    def __init__(self, block: LRFormerBlock, readout: nn.Conv2d | None = None):
        super().__init__()
        ffn, like = block.ffn, block.ffn.fc1.weight
        self.pre_norm = nn.Identity()
        if block.pre_norm is not None:
            affine = batch_norm_affine(block.pre_norm)
            self.pre_norm = block.pre_norm if affine is None else Affine(*affine, like)
        self.positional = None
        if block.positional_conv is not None:
            self.positional = ResidualDepthwiseConv(block.positional_conv)
        self.attn = FusedAttention(block)

        fc1, fc2 = Linear.of(ffn.fc1), Linear.of(ffn.fc2)
        affine = batch_norm_affine(block.norm2)
        self.norm2 = nn.Identity()
        if affine is None and isinstance(block.norm2, LayerNorm2d):
            affine, self.norm2 = layer_norm_affine(block.norm2), ChannelNorm(block.norm2.eps)
        elif affine is None:
            self.norm2 = block.norm2
        if affine is not None:
            fc1 = fc1.of_scaled(*affine)
        self.dwconv = None
        if ffn.dwconv is not None:
            # Its bias is the same at all positions, and so is what becomes of it.
            depthwise = Linear.of(ffn.dwconv)
            fc2 = Linear(fc2.weight, fc2.bias + fc2.weight.flatten(1) @ depthwise.bias)
            depthwise = Linear(with_identity(depthwise.weight), depthwise.bias)
            self.dwconv = Conv(depthwise, like, bias=False, padding=1, groups=len(depthwise.bias))
        fc2 = fc2.then_scaled(_layer_scale(block.scale2, fc2.bias))
        self.readout = None
        if readout is not None:
            out = Linear.of(readout)
            fc2 = fc2.then(out)
            self.readout = Conv(out, like, bias=False)
        self.fc1, self.fc2 = Conv(fc1, like), Conv(fc2, like)

    def forward(self, x: Tensor, pyramid_convs: Sequence[nn.Module] | None = None) -> Tensor:
        """As :class:`LRFormerBlock`; ``pyramid_convs`` add their input already."""
        x = self.pre_norm(x)
        # From here on x is the block's own, to be changed in place.
        x = x.clone() if self.positional is None else self.positional(x)
        x = add(x, resize(self.attn(x, pyramid_convs), x.shape[-2:]))
        dtype = compute_dtype(self.fc1.weight)
        hidden_of = self.norm2(x).to(dtype)
        kernel = None if self.dwconv is None else self.dwconv.weight.to(dtype)
        weights = *self.fc1.parameters_in(dtype), kernel, None, *self.fc2.parameters_in(dtype)
        base = x if self.readout is None else self.readout(x)
        # Not where the sum reads what it changes.
        if base.dtype == dtype and hidden_of is not base:
            return feed_forward(hidden_of, *weights, add_to=base)
        return add(base, feed_forward(hidden_of, *weights))


class FusedLRHead(EvalOnly, LRHead):
    """:class:`LRHead` whose 1x1 convolutions come before the resizing, where maps are small."""

    def __init__(self, head: LRHead):
        nn.Module.__init__(self)
        self.in_features = head.in_features
        self.common_stride = head.common_stride
        self.ignore_value = head.ignore_value
        self.loss_weight = head.loss_weight
        channels = head.squeeze1.out_channels
        self.squeeze1 = FusedSqueeze(head.squeeze1, head.in_dims)
        self.block1 = FusedBlock(head.block1)
        self.squeeze2 = FusedSqueeze(head.squeeze2, [channels, head.in_dims[-1]])
        # One product of two matrices is cheaper where there are fewer classes than channels.
        merge = head.predictor.out_channels <= channels
        self.block2 = FusedBlock(head.block2, head.predictor if merge else None)
        self.predictor = nn.Identity() if merge else fused_conv(head.predictor, None, None)

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        maps = [features[name] for name in self.in_features]
        x = self.block1(self.squeeze1(maps))
        return self.predictor(self.block2(self.squeeze2([x, maps[-1]])))


class FusedSqueeze(nn.Module):
    """A 1x1 convolution of concatenated maps as a sum: of each map's own, resized to the first."""

    def __init__(self, squeeze: nn.Conv2d, in_dims: Sequence[int]):
        super().__init__()
        linear, affine = Linear.of(squeeze), batch_norm_affine(squeeze.norm)
        self.norm = nn.Identity()
        if affine is not None:
            linear = linear.then_scaled(*affine)
        elif squeeze.norm is not None:
            self.norm = squeeze.norm
        self.activation = squeeze.activation
        self.convs = nn.ModuleList(
            Conv(Linear(weight, linear.bias), squeeze.weight, bias=i == 0)
            for i, weight in enumerate(linear.weight.split(list(in_dims), dim=1))
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        out, *others = [conv(x) for conv, x in zip(self.convs, maps, strict=True)]
        for x in others:
            out = add(out, resize(x, out.shape[-2:]))
        return self.activation(self.norm(out))


def _layer_scale(scale: nn.Module, like: Tensor) -> Tensor:
    """The factors of a block's layer scale, one a channel; ones where it has none."""
    gamma = scale.gamma.detach().double() if isinstance(scale, LayerScale2d) else 1.0
    return torch.ones_like(like) * gamma

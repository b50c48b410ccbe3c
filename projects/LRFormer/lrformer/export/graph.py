"""Semantic segmentation models in a form that export follows at any input size.

The sizes that LRSA pools to depend on the image's sides by a minimum, a quotient and a rounding.
Here they are computed by tensors in the graph, and maps are pooled by products with matrices that
the graph makes from them. Outputs are the model's own up to rounding.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import LRFormerBlock
from ..layers.encoder import Stage
from ..modeling.mask2former import MaskFormer


class _Pools:
    """Adaptive average pooling of maps of one size to several, as products with two matrices.

    Args:
        x: NxCxHxW; its size, dtype and device count.
        short_sides: those to pool to, as :func:`lrformer.layers.pooled_shape` understands them.
    """

    def __init__(self, x: Tensor, short_sides: Sequence[int]):
        height, width = (_tensor(side, x) for side in x.shape[-2:])
        short = torch.minimum(height, width)
        sizes = torch.tensor(short_sides, device=x.device).minimum(short)
        self.rows, self.heights = _pooling(x.shape[-2], height, short, sizes, x)
        self.columns, self.widths = _pooling(x.shape[-1], width, short, sizes, x)

    def __call__(self, x: Tensor) -> list[Tensor]:
        """NxCxHxW to a map of each size. The map is read once."""
        narrow = (x @ self.columns.T).split(self.widths, dim=-1)
        return [r @ c for r, c in zip(self.rows.split(self.heights), narrow, strict=True)]


def _pooling(
    side: int, length: Tensor, short: Tensor, sizes: Tensor, like: Tensor
) -> tuple[Tensor, list[int]]:
    """Weights of the pooled rows of all sizes, one size after the other, and how many each has."""
    # For the short side itself this is the size, and for a map that small the side: no branches.
    pooled = (1000 * length * sizes + 501 * short) // (1000 * short)
    lengths = [_length(n) for n in pooled.unbind()]
    index = torch.cat([torch.arange(n, device=like.device) for n in lengths])
    count = torch.cat([p.expand(n) for p, n in zip(pooled.unbind(), lengths, strict=True)])
    start = index * length // count
    stop = ((index + 1) * length + count - 1) // count
    position = torch.arange(side, device=like.device)
    inside = (position >= start[:, None]) & (position < stop[:, None])
    return inside.to(like.dtype) / (stop - start).to(like.dtype)[:, None], lengths


def _tensor(side: int, like: Tensor) -> Tensor:
    return torch.full((), side, dtype=torch.int64, device=like.device)


def _length(value: Tensor) -> int:
    """As a size that export knows nothing about but that it is one, so that it adds no guards."""
    length = value.item()
    torch._check(length >= 1)
    return length


class _Block(nn.Module):
    """:class:`LRFormerBlock` in eval mode, with its parts."""

    def __init__(self, block: LRFormerBlock):
        super().__init__()
        self.block = block

    @property
    def short_sides(self) -> list[int]:
        return [self.block.attn.pooled_size, *self.block.attn.pyramid]

    def forward(
        self,
        x: Tensor,
        pyramid_convs: Sequence[nn.Module] | None = None,
        pools: _Pools | None = None,
    ) -> Tensor:
        block = self.block
        if block.pre_norm is not None:
            x = block.pre_norm(x)
        if block.positional_conv is not None:
            x = x + block.positional_conv(x)
        pools = pools or _Pools(x, self.short_sides)
        attended = block.scale1(self._attend(pools(block.norm1(x)), pyramid_convs))
        x = x + F.interpolate(attended, x.shape[-2:], mode="bilinear", align_corners=False)
        return x + block.scale2(block.ffn(block.norm2(x)))

    def _attend(self, maps: list[Tensor], pyramid_convs: Sequence[nn.Module] | None) -> Tensor:
        attn = self.block.attn
        pooled, *levels = maps
        if pyramid_convs is not None:
            levels = [p + conv(p) for p, conv in zip(levels, pyramid_convs, strict=True)]
        context = attn.norm(torch.cat([p.flatten(2).transpose(1, 2) for p in levels], dim=1))
        tokens = attn.q(pooled.flatten(2).transpose(1, 2)), *attn.kv(context).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for t in tokens)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return attn.proj(out).transpose(1, 2).unflatten(-1, pooled.shape[-2:])


class _Stage(nn.Module):
    """:class:`Stage`, whose blocks share the pooling matrices."""

    def __init__(self, stage: Stage):
        super().__init__()
        self.embed = stage.embed
        self.pyramid_convs = stage.pyramid_convs
        self.blocks = nn.ModuleList(_Block(block) for block in stage.blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        pools = _Pools(x, self.blocks[0].short_sides)
        for block in self.blocks:
            x = block(x, self.pyramid_convs, pools)
        return x


class SegmentationGraph(nn.Module):
    """A detectron2 segmentation model as one function of a batch of images.

    Args:
        model: ``SemanticSegmentor`` or :class:`MaskFormer` with LRFormer's blocks, in eval mode; it
            is copied.
        divisor: images are padded inside the graph to multiples of it, as the model pads them.
        dtype: of weights and computation.
        class_map: return the class of every pixel, not its scores.
    """

    def __init__(self, model: nn.Module, divisor: int, dtype: torch.dtype, class_map: bool):
        super().__init__()
        self.divisor, self.dtype, self.class_map = divisor, dtype, class_map
        self.masks = isinstance(model, MaskFormer)
        parts = copy.deepcopy(nn.ModuleList([model.backbone, model.sem_seg_head]))
        self.backbone, self.head = exportable(parts).to(dtype)
        # Copied apart from the weights, so that images are normalised in float32 always.
        self.register_buffer("pixel_mean", model.pixel_mean.clone())
        self.register_buffer("pixel_std", model.pixel_std.clone())
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Nx3xHxW of 0..255 to NxKxHxW float32 scores, or to NxHxW classes."""
        height, width = image.shape[-2:]
        x = (image.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std
        x = _padded(x.to(self.dtype), self.divisor)
        outputs = self.head(self.backbone(x))
        if self.masks:
            scores = mask_scores(outputs["pred_logits"], outputs["pred_masks"], x.shape[-2:])
        else:
            scores = outputs[0].float()
        scores = scores[..., :height, :width]
        if not self.class_map:
            return scores
        return scores.argmax(dim=1).to(torch.uint8 if scores.shape[1] <= 256 else torch.int32)


def mask_scores(class_logits: Tensor, masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Sum over queries of class probability times mask: the semantic scores of Mask2Former.

    Args:
        class_logits: NxQx(K + 1).
        masks: NxQxhxw logits.
        size: (height, width) to which masks are enlarged.

    Returns:
        NxKxHxW, float32.
    """
    masks = F.interpolate(masks.float(), size, mode="bilinear", align_corners=False)
    weights = class_logits.float().softmax(-1)[..., :-1].transpose(1, 2)
    return (weights @ masks.sigmoid().flatten(2)).unflatten(-1, size)


def _padded(x: Tensor, divisor: int) -> Tensor:
    """Zeros at the right and bottom up to multiples of ``divisor``."""
    for dim in (2, 3):
        length = _tensor(x.shape[dim], x)
        multiple = divisor * _length((length + divisor - 1) // divisor)
        torch._check(multiple >= x.shape[dim])
        # Chosen by index: padding by an amount that may be 0 would be a branch.
        position = torch.arange(multiple, device=x.device)
        x = x.index_select(dim, position.minimum(length - 1))
        x = x * (position < length).to(x.dtype).view(-1, *[1] * (3 - dim))
    return x


def exportable(root: nn.Module) -> nn.Module:
    """``root`` with the stages and blocks below it replaced, in place, by those above."""
    for name, child in root.named_children():
        if isinstance(child, Stage):
            setattr(root, name, _Stage(child))
        elif isinstance(child, LRFormerBlock):
            setattr(root, name, _Block(child))
        else:
            exportable(child)
    return root

"""SegFormer's head (its paper, section 3.2)."""

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from ...layers.common import resize
from .per_pixel import Norm, PerPixelHead, conv_norm_relu


@SEM_SEG_HEADS_REGISTRY.register()
class SegFormerHead(PerPixelHead):
    """Every feature to one width, all at the finest one's size, fused by one linear layer.

    Linear layers are 1x1 convolutions here.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        channels: int,
        norm: Norm = nn.BatchNorm2d,
        **head,
    ):
        """
        Args:
            input_shape, num_classes, norm, head: of :class:`PerPixelHead`.
            channels: width of the head.
        """
        super().__init__(input_shape, num_classes=num_classes, norm=norm, **head)
        self.linears = nn.ModuleList(nn.Conv2d(dim, channels, 1) for dim in self.in_dims)
        self.fuse = conv_norm_relu(len(self.in_dims) * channels, channels, 1, norm)
        self.predictor = nn.Conv2d(channels, num_classes, kernel_size=1)

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """Raw logits, NxKxhxw, at the stride of the finest feature."""
        maps = [
            linear(features[name])
            for linear, name in zip(self.linears, self.in_features, strict=True)
        ]
        size = maps[0].shape[-2:]
        # Coarse to fine, as the release has them.
        x = self.fuse(torch.cat([resize(x, size) for x in reversed(maps)], dim=1))
        return self.predictor(self.dropout(x))

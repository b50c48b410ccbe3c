"""RTFormer's head (its paper, section 3.2)."""

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from ...layers.common import resize
from ...layers.rtformer import DAPPM, BatchNorm, init_weights, seg_head
from ..norm import norm_layer
from .per_pixel import Norm, PerPixelHead


@SEM_SEG_HEADS_REGISTRY.register()
class RTFormerHead(PerPixelHead):
    """DAPPM of the coarsest feature, concatenated with the finest one and classified.

    There is no dropout; the auxiliary classifier has the form of the main one.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        channels: int = 128,
        norm: Norm = BatchNorm,
        **head,
    ):
        """
        Args:
            input_shape, num_classes, norm, head: of :class:`PerPixelHead`.
            channels: inner width of DAPPM.
        """
        super().__init__(input_shape, num_classes=num_classes, norm=norm, **head)
        high, low = self.in_dims[0], self.in_dims[-1]
        self.spp = DAPPM(low, high, channels, norm)
        self.seghead = seg_head(2 * high, num_classes, norm)
        self.apply(init_weights)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        keys, momentum = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.RTFORMER.NORM_MOMENTUM
        norm = norm_layer(keys.NORM, cfg.MODEL.DEVICE, momentum)
        return super().from_config(cfg, input_shape) | {"norm": norm}

    def auxiliary_head(self, dim: int, num_classes: int, norm: Norm) -> nn.Module:
        return seg_head(dim, num_classes, norm)

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """Raw logits, NxKxhxw, at the stride of the finest feature."""
        high, low = features[self.in_features[0]], features[self.in_features[-1]]
        return self.seghead(torch.cat([high, resize(self.spp(low), high.shape[-2:])], dim=1))

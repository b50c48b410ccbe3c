"""The plain model's head (paper, section 3.3)."""

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from ...layers import LRFormerBlock
from ...layers.common import init_weights
from .per_pixel import Norm, PerPixelHead, classifier, conv_norm_relu


@SEM_SEG_HEADS_REGISTRY.register()
class LRHead(PerPixelHead):
    """Concatenate the features at the finest one's size, then twice: squeeze, refine in a block.

    The coarsest feature joins again before the second squeeze, so that its semantics are not lost.
    Blocks are the backbone's, with BatchNorm in place of LayerNorm, layer scale, and no convolution
    on the pyramid levels.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        channels: int,
        num_heads: int = 8,
        mlp_ratio: float = 4,
        pooled_size: int = 32,
        layer_scale_init: float = 1e-6,
        norm: Norm = nn.BatchNorm2d,
        **head,
    ):
        """
        Args:
            input_shape, num_classes, norm, head: of :class:`PerPixelHead`.
            channels: width of the head (paper, Tab. 11), divisible by ``num_heads``.
            num_heads, mlp_ratio, pooled_size, layer_scale_init: of the two blocks.
        """
        super().__init__(input_shape, num_classes=num_classes, norm=norm, **head)
        if channels % num_heads:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.CONVS_DIM ({channels}) must be divisible by "
                f"MODEL.SEM_SEG_HEAD.NUM_HEADS ({num_heads})"
            )

        def block() -> LRFormerBlock:
            block = LRFormerBlock(
                channels,
                num_heads,
                mlp_ratio=mlp_ratio,
                pooled_size=pooled_size,
                layer_scale_init=layer_scale_init,
                norm=norm,
            )
            return block.apply(init_weights)

        self.squeeze1 = conv_norm_relu(sum(self.in_dims), channels, 1, norm)
        self.block1 = block()
        self.squeeze2 = conv_norm_relu(channels + self.in_dims[-1], channels, 1, norm)
        self.block2 = block()
        self.predictor = classifier(channels, num_classes)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        keys = cfg.MODEL.SEM_SEG_HEAD
        return {
            **super().from_config(cfg, input_shape),
            "num_heads": keys.NUM_HEADS,
            "mlp_ratio": keys.MLP_RATIO,
            "pooled_size": keys.POOLED_SIZE,
            "layer_scale_init": keys.LAYER_SCALE_INIT,
        }

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """Raw logits, NxKxhxw, at the stride of the finest feature."""
        maps = self.resized(features)
        x = self.block1(self.squeeze1(torch.cat(maps, dim=1)))
        x = self.block2(self.squeeze2(torch.cat([x, maps[-1]], dim=1)))
        return self.predictor(self.dropout(x))

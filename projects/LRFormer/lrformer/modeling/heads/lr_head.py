"""The plain model's head (paper, section 3.3)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from ...layers import LRFormerBlock
from ...layers.lrformer import init_weights, resize
from ..norm import norm_layer
from .per_pixel import PerPixelHead, wanted_features


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
        dropout: float = 0.1,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        **head,
    ):
        """
        Args:
            input_shape, head: of :class:`PerPixelHead`.
            num_classes: classes to predict.
            channels: width of the head (paper, Tab. 11), divisible by ``num_heads``.
            num_heads, mlp_ratio, pooled_size, layer_scale_init: of the two blocks.
            dropout: probability of dropping a channel before the classifier.
            norm: channels to the norm layer.
        """
        super().__init__(input_shape, **head)
        if channels % num_heads:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.CONVS_DIM ({channels}) must be divisible by "
                f"MODEL.SEM_SEG_HEAD.NUM_HEADS ({num_heads})"
            )

        def squeeze(in_dim: int) -> Conv2d:
            return Conv2d(
                in_dim, channels, kernel_size=1, bias=False, norm=norm(channels), activation=F.relu
            )

        def block() -> LRFormerBlock:
            return LRFormerBlock(
                channels,
                num_heads,
                mlp_ratio=mlp_ratio,
                pooled_size=pooled_size,
                layer_scale_init=layer_scale_init,
                norm=norm,
            )

        self.squeeze1 = squeeze(sum(self.in_dims))
        self.block1 = block()
        self.squeeze2 = squeeze(channels + self.in_dims[-1])
        self.block2 = block()
        self.dropout = nn.Dropout2d(dropout)
        self.predictor = nn.Conv2d(channels, num_classes, kernel_size=1)
        self.apply(init_weights)
        nn.init.normal_(self.predictor.weight, std=0.01)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        keys = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": wanted_features(cfg, input_shape),
            "num_classes": keys.NUM_CLASSES,
            "channels": keys.CONVS_DIM,
            "num_heads": keys.NUM_HEADS,
            "mlp_ratio": keys.MLP_RATIO,
            "pooled_size": keys.POOLED_SIZE,
            "layer_scale_init": keys.LAYER_SCALE_INIT,
            "dropout": keys.DROPOUT,
            "norm": norm_layer(keys.NORM, cfg.MODEL.DEVICE),
            "ignore_value": keys.IGNORE_VALUE,
            "loss_weight": keys.LOSS_WEIGHT,
        }

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """Raw logits, NxKxhxw, at the stride of the finest feature."""
        first, *others = (features[name] for name in self.in_features)
        maps = [first, *(resize(x, first.shape[-2:]) for x in others)]
        x = self.block1(self.squeeze1(torch.cat(maps, dim=1)))
        x = self.block2(self.squeeze2(torch.cat([x, maps[-1]], dim=1)))
        return self.predictor(self.dropout(x))

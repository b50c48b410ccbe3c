"""The plain model's head (paper, section 3.3)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from ...layers import LRFormerBlock
from ...layers.encoder import init_weights
from ...layers.pooling import resize
from ..norm import norm_layer
from .loss import upsampled_cross_entropy


@SEM_SEG_HEADS_REGISTRY.register()
class LRHead(nn.Module):
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
        ignore_value: int = 255,
        loss_weight: float = 1.0,
    ):
        """
        Args:
            input_shape: the features to use; logits have the stride of the finest.
            num_classes: classes to predict.
            channels: width of the head (paper, Tab. 11), divisible by ``num_heads``.
            num_heads, mlp_ratio, pooled_size, layer_scale_init: of the two blocks.
            dropout: probability of dropping a channel before the classifier.
            norm: channels to the norm layer.
            ignore_value: label of pixels that do not count in the loss.
            loss_weight: factor on the loss.
        """
        super().__init__()
        if channels % num_heads:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.CONVS_DIM ({channels}) must be divisible by "
                f"MODEL.SEM_SEG_HEAD.NUM_HEADS ({num_heads})"
            )
        shapes = sorted(input_shape.items(), key=lambda item: item[1].stride)
        self.in_features = [name for name, _ in shapes]
        self.common_stride = shapes[0][1].stride
        self.ignore_value = ignore_value
        self.loss_weight = loss_weight

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

        self.in_dims = [shape.channels for _, shape in shapes]
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
        missing = [name for name in keys.IN_FEATURES if name not in input_shape]
        if missing or not keys.IN_FEATURES:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {list(keys.IN_FEATURES)}; the backbone gives "
                f"{', '.join(input_shape)}"
            )
        return {
            "input_shape": {name: input_shape[name] for name in keys.IN_FEATURES},
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

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """As detectron2's heads: in training (None, losses), else (NxKxHxW logits, {}).

        Args:
            features: NxCxhxw maps by name.
            targets: NxHxW int64 labels, in training.
        """
        logits = self.layers(features)
        if self.training:
            return None, self.losses(logits, targets)
        return self._upsample(logits), {}

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """Raw logits, NxKxhxw, at the stride of the finest feature."""
        maps = [features[name] for name in self.in_features]
        if torch.jit.is_tracing():
            # Multiply-adds are published, and counted here, with the maps resized first.
            maps = [resize(x, maps[0].shape[-2:]) for x in maps]
        x = self.block1(_squeeze(self.squeeze1, maps))
        x = self.block2(_squeeze(self.squeeze2, [x, maps[-1]]))
        return self.predictor(self.dropout(x))

    def losses(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Cross-entropy over the labelled pixels of the batch; 0 where there is none."""
        stride, ignored = self.common_stride, self.ignore_value
        loss = upsampled_cross_entropy(logits.float(), targets, stride, ignored)
        labelled = (targets != self.ignore_value).sum().clamp(min=1)
        return {"loss_sem_seg": self.loss_weight * loss / labelled}

    def _upsample(self, logits: Tensor) -> Tensor:
        return F.interpolate(
            logits, scale_factor=self.common_stride, mode="bilinear", align_corners=False
        )


def _squeeze(squeeze: Conv2d, maps: Sequence[Tensor]) -> Tensor:
    """``squeeze`` of the maps, resized to the first one's size and concatenated.

    A 1x1 convolution commutes with resizing: each map's share of it is computed at its own size,
    except while tracing, when the maps come resized.
    """
    if torch.jit.is_tracing():
        return squeeze(torch.cat(maps, dim=1))
    shape = maps[0].shape[-2:]
    weights = squeeze.weight.split([x.shape[1] for x in maps], dim=1)
    x, *others = (F.conv2d(x, weight) for x, weight in zip(maps, weights, strict=True))
    for other in others:
        x = x + resize(other, shape)
    return squeeze.activation(squeeze.norm(x))

"""The plain model's head with less work in its 1x1 convolutions."""

from collections.abc import Sequence

import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import Tensor

from ..layers.common import resize
from ..modeling.heads import LRHead
from .route import is_stock_conv


class FastLRHead(LRHead):
    """:class:`LRHead`, whose squeezing convolutions come before the resizing they commute with.

    Each map's share is then computed at its own size, and the maps are not concatenated.
    """

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        maps = [features[name] for name in self.in_features]
        squeezes = self.squeeze1, self.squeeze2
        if not all(is_stock_conv(x, bias=False, kind=Conv2d) and x.norm for x in squeezes):
            return super().layers(features)
        x = self.block1(_squeeze(self.squeeze1, maps))
        x = self.block2(_squeeze(self.squeeze2, [x, maps[-1]]))
        return self.predictor(self.dropout(x))


def _squeeze(conv: Conv2d, maps: Sequence[Tensor]) -> Tensor:
    """``conv`` of the maps, resized to the first one's size and concatenated."""
    weights = conv.weight.split([x.shape[1] for x in maps], dim=1)
    out, *others = (F.conv2d(x, weight) for x, weight in zip(maps, weights, strict=True))
    for other in others:
        out = out + resize(other, out.shape[-2:])
    return conv.activation(conv.norm(out))

"""Context heads on any backbone (LRFormer's paper, Tab. 10), in the form of mmsegmentation.

They expect fine features of many channels: what they take is resized to the finest feature's size
and concatenated. Parameters have the names in common use, but for classifiers (``predictor``).
"""

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from ...layers.common import init_weights, resize, to_map, tokens
from .per_pixel import Norm, PerPixelHead, classifier, conv_norm_relu


class ContextHead(PerPixelHead):
    """Base of the context heads; subclasses define :meth:`build` and :meth:`context`."""

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        channels: int = 512,
        norm: Norm = nn.BatchNorm2d,
        **head,
    ):
        """
        Args:
            input_shape, num_classes, norm, head: of :class:`PerPixelHead`.
            channels: width of the head.
        """
        super().__init__(input_shape, num_classes=num_classes, norm=norm, **head)
        self.build(sum(self.in_dims), channels, num_classes, norm)
        self.predictor = classifier(channels, num_classes)

    def build(self, dim: int, channels: int, num_classes: int, norm: Norm) -> None:
        """Make the layers from ``dim`` channels, those of all features, to ``channels``."""
        raise NotImplementedError

    def context(self, features: dict[str, Tensor]) -> Tensor:
        """What the classifier takes, at the stride of the finest feature."""
        raise NotImplementedError

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """Raw logits, NxKxhxw, at the stride of the finest feature."""
        return self.predictor(self.dropout(self.context(features)))

    def joined(self, features: dict[str, Tensor]) -> Tensor:
        """All features, at the finest one's size."""
        return torch.cat(self.resized(features), dim=1)


@SEM_SEG_HEADS_REGISTRY.register()
class PPMHead(ContextHead):
    """Pyramid pooling: means of 1, 4, 9 and 36 regions beside the map (PSPNet, CVPR 2017)."""

    def build(self, dim: int, channels: int, num_classes: int, norm: Norm) -> None:
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), conv_norm_relu(dim, channels, 1, norm))
            for side in (1, 2, 3, 6)
        )
        self.bottleneck = conv_norm_relu(dim + 4 * channels, channels, 3, norm)

    def context(self, features: dict[str, Tensor]) -> Tensor:
        x = self.joined(features)
        pooled = [resize(module(x), x.shape[-2:]) for module in self.psp_modules]
        return self.bottleneck(torch.cat([x, *pooled], dim=1))


class SpatialAttention(nn.Module):
    """Base of attention among pixels: projections, and a learnt factor on the result, 0 at first.

    Args:
        dim: channels; queries and keys have an eighth of them.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.query = nn.Conv2d(dim, dim // 8, 1)
        self.key = nn.Conv2d(dim, dim // 8, 1)
        self.value = nn.Conv2d(dim, dim, 1)
        self.gamma = nn.Parameter(torch.zeros(()))
        self.apply(init_weights)


class PositionAttention(SpatialAttention):
    """Every pixel attends to all; the products are not scaled."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (tokens(layer(x))[:, None] for layer in (self.query, self.key, self.value))
        out = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        return self.gamma * to_map(out[:, 0], x.shape[-2:]) + x


class ChannelAttention(nn.Module):
    """Every channel attends to those that are least like it, and adds them, times a factor."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.flatten(2)
        products = channels @ channels.transpose(1, 2)
        weights = (products.amax(-1, keepdim=True) - products).softmax(-1)
        return self.gamma * (weights @ channels).unflatten(-1, x.shape[-2:]) + x


@SEM_SEG_HEADS_REGISTRY.register()
class DAHead(ContextHead):
    """Dual attention: of positions and of channels, added (DANet, CVPR 2019).

    In training each branch has a classifier and a loss of its own, of the weight of the head's.
    """

    def build(self, dim: int, channels: int, num_classes: int, norm: Norm) -> None:
        self.pam_in_conv = conv_norm_relu(dim, channels, 3, norm)
        self.pam = PositionAttention(channels)
        self.pam_out_conv = conv_norm_relu(channels, channels, 3, norm)
        self.pam_predictor = classifier(channels, num_classes)
        self.cam_in_conv = conv_norm_relu(dim, channels, 3, norm)
        self.cam = ChannelAttention()
        self.cam_out_conv = conv_norm_relu(channels, channels, 3, norm)
        self.cam_predictor = classifier(channels, num_classes)
        for name in ("position", "channel"):
            self.loss_weights[name] = self.loss_weights["sem_seg"]

    def branches(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The results of both attentions."""
        x = self.joined(features)
        position = self.pam_out_conv(self.pam(self.pam_in_conv(x)))
        return position, self.cam_out_conv(self.cam(self.cam_in_conv(x)))

    def context(self, features: dict[str, Tensor]) -> Tensor:
        position, channel = self.branches(features)
        return position + channel

    def training_layers(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        position, channel = self.branches(features)
        return {
            "sem_seg": self.predictor(self.dropout(position + channel)),
            "position": self.pam_predictor(self.dropout(position)),
            "channel": self.cam_predictor(self.dropout(channel)),
        }


class CrissCrossAttention(SpatialAttention):
    """Every pixel attends to its row and its column together; the products are not scaled."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        q, k, v = self.query(x), self.key(x), self.value(x)
        column = torch.einsum("nchw,nciw->nhwi", q, k)
        row = torch.einsum("nchw,nchj->nhwj", q, k)
        # A pixel is in both; it counts once.
        itself = torch.eye(height, dtype=torch.bool, device=x.device)[:, None]
        column = column.masked_fill(itself, float("-inf"))
        weights = torch.cat([column, row], dim=-1).softmax(-1)
        column, row = weights.split([height, width], dim=-1)
        out = torch.einsum("nhwi,nciw->nchw", column, v) + torch.einsum("nhwj,nchj->nchw", row, v)
        return self.gamma * out + x


@SEM_SEG_HEADS_REGISTRY.register()
class CCHead(ContextHead):
    """Criss-cross attention, twice with the same weights (CCNet, ICCV 2019)."""

    def build(self, dim: int, channels: int, num_classes: int, norm: Norm) -> None:
        first = conv_norm_relu(dim, channels, 3, norm)
        self.convs = nn.ModuleList([first, conv_norm_relu(channels, channels, 3, norm)])
        self.cca = CrissCrossAttention(channels)
        self.conv_cat = conv_norm_relu(dim + channels, channels, 3, norm)

    def context(self, features: dict[str, Tensor]) -> Tensor:
        x = self.joined(features)
        attended = self.cca(self.cca(self.convs[0](x)))
        return self.conv_cat(torch.cat([x, self.convs[1](attended)], dim=1))


class ObjectContext(nn.Module):
    """Pixels attend to the mean of each class's region.

    Args:
        dim: channels; inside there are half as many.
        norm: channels to the norm layer.
    """

    def __init__(self, dim: int, norm: Norm):
        super().__init__()
        hidden = dim // 2

        def two() -> nn.Sequential:
            first = conv_norm_relu(dim, hidden, 1, norm)
            return nn.Sequential(first, conv_norm_relu(hidden, hidden, 1, norm))

        self.query_project = two()
        self.key_project = two()
        self.value_project = conv_norm_relu(dim, hidden, 1, norm)
        self.out_project = conv_norm_relu(hidden, dim, 1, norm)
        self.bottleneck = conv_norm_relu(2 * dim, dim, 1, norm)

    def forward(self, x: Tensor, coarse: Tensor) -> Tensor:
        """NxCxHxW and coarse logits, NxKxHxW, to NxCxHxW."""
        regions = coarse.flatten(2).softmax(-1) @ tokens(x)
        regions = regions.transpose(1, 2)[..., None]  # NxCxKx1
        layers = (self.query_project, x), (self.key_project, regions), (self.value_project, regions)
        q, k, v = (tokens(layer(source))[:, None] for layer, source in layers)
        out = to_map(F.scaled_dot_product_attention(q, k, v)[:, 0], x.shape[-2:])
        return self.bottleneck(torch.cat([self.out_project(out), x], dim=1))


@SEM_SEG_HEADS_REGISTRY.register()
class OCRHead(ContextHead):
    """Object-contextual representations (ECCV 2020), whose regions the auxiliary classifier finds.

    Raises:
        ValueError: there is no auxiliary classifier.
    """

    def build(self, dim: int, channels: int, num_classes: int, norm: Norm) -> None:
        if self.auxiliary is None:
            raise ValueError(
                "MODEL.SEM_SEG_HEAD.AUX_LOSS_WEIGHT is 0, but OCRHead needs the auxiliary "
                "classifier; 0.4 is usual"
            )
        self.bottleneck = conv_norm_relu(dim, channels, 3, norm)
        self.object_context_block = ObjectContext(channels, norm)

    def context(self, features: dict[str, Tensor]) -> Tensor:
        x = self.bottleneck(self.joined(features))
        coarse = resize(self.auxiliary(features[self.in_features[-2]]), x.shape[-2:])
        return self.object_context_block(x, coarse)

"""What per-pixel heads have in common: logits at their stride, losses and upsampling."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec
from torch import Tensor, nn

from ...layers.common import init_weights, resize
from ...layers.loss import UpsampledCrossEntropy
from ..norm import norm_layer

Norm = Callable[[int], nn.Module]  # channels to a norm layer for maps


def conv_norm_relu(in_dim: int, dim: int, kernel_size: int, norm: Norm) -> Conv2d:
    """Convolution without bias that keeps the size, norm, ReLU."""
    conv = Conv2d(
        in_dim,
        dim,
        kernel_size,
        padding=kernel_size // 2,
        bias=False,
        norm=norm(dim),
        activation=F.relu,
    )
    init_weights(conv)
    return conv


def classifier(dim: int, num_classes: int) -> nn.Conv2d:
    """From a map of ``dim`` channels to logits; they start near 0."""
    conv = nn.Conv2d(dim, num_classes, kernel_size=1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)
    return conv


class PerPixelHead(nn.Module):
    """A head for detectron2's ``SemanticSegmentor``; subclasses define :meth:`layers`.

    Attributes:
        in_features: names of the features that it takes, fine to coarse.
        in_dims: their channels.
        common_stride: stride of the logits, that of the finest feature.
        auxiliary: what classifies the coarsest feature but one in training, or None.
        loss_weights: factors on the losses, by name.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        dropout: float = 0.1,
        norm: Norm = nn.BatchNorm2d,
        ignore_value: int = 255,
        loss_weight: float = 1,
        aux_loss_weight: float = 0,
        class_weights: Sequence[float] = (),
    ):
        """
        Args:
            input_shape: the features to use.
            num_classes: classes to predict.
            dropout: probability of dropping a channel before a classifier.
            norm: channels to the norm layer.
            ignore_value: label of pixels that do not count in the loss.
            loss_weight: factor on all losses.
            aux_loss_weight: factor on that of the auxiliary classifier; 0 leaves it out.
            class_weights: how much a pixel of each class counts in the loss; empty: all the same.

        Raises:
            ValueError: there is no feature for the auxiliary classifier, or not a weight a class.
        """
        super().__init__()
        shapes = sorted(input_shape.items(), key=lambda item: item[1].stride)
        self.in_features = [name for name, _ in shapes]
        self.in_dims = [shape.channels for _, shape in shapes]
        self.common_stride = shapes[0][1].stride
        self.ignore_value = ignore_value  # which SemanticSegmentor pads labels with
        if len(class_weights) not in (0, num_classes):
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS has {len(class_weights)} values; expected one "
                f"for each of the {num_classes} classes, or []"
            )
        self.loss = UpsampledCrossEntropy(ignore_value, class_weights)
        self.loss_weights = {"sem_seg": loss_weight, "aux": loss_weight * aux_loss_weight}
        self.dropout = nn.Dropout2d(dropout)
        self.auxiliary = None
        if aux_loss_weight:
            if len(shapes) < 2:
                raise ValueError(
                    "MODEL.SEM_SEG_HEAD.AUX_LOSS_WEIGHT: the auxiliary classifier takes the "
                    "coarsest feature but one; MODEL.SEM_SEG_HEAD.IN_FEATURES is only "
                    f"{self.in_features[0]}"
                )
            self.auxiliary = self.auxiliary_head(self.in_dims[-2], num_classes, norm)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        keys = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": wanted_features(cfg, input_shape),
            "num_classes": keys.NUM_CLASSES,
            "channels": keys.CONVS_DIM,
            "dropout": keys.DROPOUT,
            "norm": norm_layer(keys.NORM, cfg.MODEL.DEVICE),
            "ignore_value": keys.IGNORE_VALUE,
            "loss_weight": keys.LOSS_WEIGHT,
            "aux_loss_weight": keys.AUX_LOSS_WEIGHT,
            "class_weights": keys.CLASS_WEIGHTS,
        }

    def auxiliary_head(self, dim: int, num_classes: int, norm: Norm) -> nn.Module:
        """From a map of ``dim`` channels to logits: 3x3 convolution to 256, dropout, classifier."""
        conv = conv_norm_relu(dim, 256, 3, norm)
        return nn.Sequential(conv, self.dropout, classifier(256, num_classes))

    def resized(self, features: dict[str, Tensor]) -> list[Tensor]:
        """The features, fine to coarse, at the finest one's size."""
        first, *others = (features[name] for name in self.in_features)
        return [first, *(resize(x, first.shape[-2:]) for x in others)]

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """Raw logits, NxKxhxw, at ``common_stride``, from NxCxhxw maps by name."""
        raise NotImplementedError

    def training_layers(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Logits by the name of their loss: "sem_seg" are those of :meth:`layers`."""
        return {"sem_seg": self.layers(features)}

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """As detectron2's heads: in training (None, losses), else (NxKxHxW logits, {}).

        Args:
            features: NxCxhxw maps by name.
            targets: NxHxW int64 labels, in training.
        """
        if self.training:
            logits = self.training_layers(features)
            if self.auxiliary is not None:
                logits["aux"] = self.auxiliary(features[self.in_features[-2]])
            return None, self.losses(logits, targets)
        logits = self.layers(features)
        height, width = logits.shape[-2:]
        return resize(logits, (height * self.common_stride, width * self.common_stride)), {}

    def losses(self, logits: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """Cross-entropies over the labelled pixels of the batch; 0 where there is none.

        Args:
            logits: NxKxhxw by the name of their loss, at any stride.
            targets: NxHxW int64 labels.
        """
        return {
            f"loss_{name}": self.loss_weights[name] * self.loss(x, targets)
            for name, x in logits.items()
        }


def wanted_features(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
    """The backbone's features that ``MODEL.SEM_SEG_HEAD.IN_FEATURES`` names.

    Raises:
        ValueError: the backbone lacks one, or none is named.
    """
    names: Sequence[str] = cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES
    if not names or any(name not in input_shape for name in names):
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {list(names)}; the backbone gives "
            f"{', '.join(input_shape)} (its OUT_FEATURES)"
        )
    return {name: input_shape[name] for name in names}

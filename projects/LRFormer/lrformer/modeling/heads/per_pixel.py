"""What per-pixel heads have in common: logits at their stride, loss and upsampling."""

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from ...layers.loss import UpsampledCrossEntropy
from ...layers.lrformer import resize


class PerPixelHead(nn.Module):
    """A head for detectron2's ``SemanticSegmentor``; subclasses define :meth:`layers`.

    Attributes:
        in_features: names of the features that it takes, fine to coarse.
        in_dims: their channels.
        common_stride: stride of the logits, that of the finest feature.
    """

    def __init__(
        self, input_shape: dict[str, ShapeSpec], *, ignore_value: int = 255, loss_weight: float = 1
    ):
        """
        Args:
            input_shape: the features to use.
            ignore_value: label of pixels that do not count in the loss.
            loss_weight: factor on the loss.
        """
        super().__init__()
        shapes = sorted(input_shape.items(), key=lambda item: item[1].stride)
        self.in_features = [name for name, _ in shapes]
        self.in_dims = [shape.channels for _, shape in shapes]
        self.common_stride = shapes[0][1].stride
        self.ignore_value = ignore_value  # which SemanticSegmentor pads labels with
        self.loss_weight = loss_weight
        self.loss = UpsampledCrossEntropy(ignore_value)

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """Raw logits, NxKxhxw, at ``common_stride``, from NxCxhxw maps by name."""
        raise NotImplementedError

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
        height, width = logits.shape[-2:]
        return resize(logits, (height * self.common_stride, width * self.common_stride)), {}

    def losses(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Cross-entropy over the labelled pixels of the batch; 0 where there is none."""
        return {"loss_sem_seg": self.loss_weight * self.loss(logits, targets)}


def wanted_features(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
    """The backbone's features that ``MODEL.SEM_SEG_HEAD.IN_FEATURES`` names.

    Raises:
        ValueError: the backbone lacks one, or none is named.
    """
    names: Sequence[str] = cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES
    if not names or any(name not in input_shape for name in names):
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {list(names)}; the backbone gives "
            f"{', '.join(input_shape)}"
        )
    return {name: input_shape[name] for name in names}

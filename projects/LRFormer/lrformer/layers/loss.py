"""The training loss of per-pixel heads."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from .common import resize


class UpsampledCrossEntropy(nn.Module):
    """Mean cross-entropy, over the labelled pixels of a batch, of bilinearly upsampled logits.

    Where several processes share a batch, the mean of what they return is that of the whole batch.

    Args:
        ignore_value: label of pixels that do not count.
        class_weights: how much a pixel of each class counts; empty: all the same.
    """

    def __init__(self, ignore_value: int = 255, class_weights: Sequence[float] = ()):
        super().__init__()
        self.ignore_value = ignore_value
        weights = torch.tensor(class_weights, dtype=torch.float32) if len(class_weights) else None
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, a scalar; 0 where no pixel is labelled.

        Args:
            logits: NxKxhxw, at a stride of the targets.
            targets: NxHxW labels, int64.

        Raises:
            ValueError: targets of a size that is no multiple of the logits'.
        """
        n, _, h, w = logits.shape
        stride = targets.shape[-1] // w
        if tuple(targets.shape) != (n, h * stride, w * stride):
            raise ValueError(
                f"labels are {tuple(targets.shape)}, no multiple of {n} logits of {h} x {w}"
            )
        labelled = targets != self.ignore_value
        weight = labelled.sum()
        if self.class_weights is not None:  # as PyTorch's weighted mean
            weight = self.class_weights[targets[labelled]].sum()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(weight)
            weight = weight / dist.get_world_size()
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return self.total(logits, targets) / weight.clamp(min=1e-6)

    def total(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The sum over the labelled pixels."""
        scores = resize(logits, targets.shape[-2:])
        return F.cross_entropy(
            scores, targets, self.class_weights, ignore_index=self.ignore_value, reduction="sum"
        )

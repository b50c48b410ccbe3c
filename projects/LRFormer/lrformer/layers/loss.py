"""The training loss of per-pixel heads."""

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
    """

    def __init__(self, ignore_value: int = 255):
        super().__init__()
        self.ignore_value = ignore_value

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
        labelled = (targets != self.ignore_value).sum()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(labelled)
            labelled = labelled / dist.get_world_size()
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return self.total(logits, targets) / labelled.clamp(min=1)

    def total(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The sum over the labelled pixels."""
        scores = resize(logits, targets.shape[-2:])
        return F.cross_entropy(scores, targets, ignore_index=self.ignore_value, reduction="sum")

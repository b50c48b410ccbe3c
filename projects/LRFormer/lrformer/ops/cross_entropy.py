"""Cross-entropy of upsampled logits, without the upsampled logits."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..layers.loss import UpsampledCrossEntropy
from .resize import BandedResize
from .route import route


class FastUpsampledCrossEntropy(UpsampledCrossEntropy):
    """:class:`UpsampledCrossEntropy`, whose largest tensors exist for a band of rows at a time.

    The upsampled logits, their probabilities and the gradients of both are the largest tensors of a
    training step. The gradient of the logits is computed with the loss.
    """

    def total(self, logits: Tensor, targets: Tensor) -> Tensor:
        if route(logits) == "plain":
            return super().total(logits, targets)
        with torch.autocast(logits.device.type, enabled=False):
            return _Banded.apply(logits, targets, self.class_weights, self.ignore_value)


class _Banded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, logits: Tensor, targets: Tensor, class_weights: Tensor | None, ignore_value: int
    ) -> Tensor:
        size = tuple(targets.shape[1:])
        resize = BandedResize(tuple(logits.shape[2:]), [(size, size)], logits)
        grad = torch.zeros_like(logits.permute(0, 2, 1, 3), memory_format=torch.contiguous_format)
        total = logits.new_zeros(())
        for image, source in enumerate(logits.permute(0, 2, 1, 3).contiguous()):
            for rows, around in resize.bands(logits.shape[1]):
                with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                    part = source[around].detach().requires_grad_(ctx.needs_input_grad[0])
                    loss = F.cross_entropy(
                        resize(part, rows, around),
                        targets[image, rows],
                        class_weights,
                        ignore_index=ignore_value,
                        reduction="sum",
                    )
                if ctx.needs_input_grad[0]:
                    grad[image, around] += torch.autograd.grad(loss, part)[0]
                total += loss.detach()
        ctx.save_for_backward(grad.permute(0, 2, 1, 3))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_total: Tensor):
        (grad,) = ctx.saved_tensors
        return grad * grad_total, None, None, None

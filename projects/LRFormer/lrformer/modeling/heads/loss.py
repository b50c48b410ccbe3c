"""Cross-entropy of upsampled logits, without the upsampled logits."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...layers import onednn
from ...layers.pooling import resize_matrix

# Of upsampled logits at a time. On a CPU they stay in the cache; a GPU wants larger pieces.
_BAND_ELEMENTS = {"cpu": 3 << 19, "cuda": 1 << 27}


def upsampled_cross_entropy(
    logits: Tensor, targets: Tensor, stride: int, ignore_value: int
) -> Tensor:
    """Sum over labelled pixels of the cross-entropy of bilinearly upsampled logits.

    The upsampled logits, their probabilities and the gradients of both are the largest tensors of a
    training step; here they exist for a band of rows at a time, and the gradient of the logits is
    computed with the loss.

    Args:
        logits: NxKxhxw.
        targets: Nx(h stride)x(w stride) labels, int64.
        stride: factor of the upsampling (align_corners=False).
        ignore_value: label of pixels that do not count.

    Returns:
        A scalar, differentiable once with respect to the logits.

    Raises:
        ValueError: targets of another size.
    """
    n, _, h, w = logits.shape
    expected = (n, h * stride, w * stride)
    if tuple(targets.shape) != expected:
        raise ValueError(
            f"labels are {tuple(targets.shape)}, but logits of {h} x {w} at stride {stride} are "
            f"for {expected}"
        )
    with torch.autocast(logits.device.type, enabled=False):
        return _UpsampledCrossEntropy.apply(logits, targets, stride, ignore_value)


def _bands(logits: Tensor, stride: int) -> Iterator[tuple[int, slice, slice]]:
    """Images, and of each the bands of rows: which to predict, and which logits those depend on."""
    n, classes, h, w = logits.shape
    elements = _BAND_ELEMENTS.get(logits.device.type, _BAND_ELEMENTS["cuda"])
    rows = max(1, elements // (classes * w * stride * stride))
    for image in range(n):
        for start in range(0, h, rows):
            stop = min(start + rows, h)
            yield image, slice(start, stop), slice(max(start - 1, 0), min(stop + 1, h))


class _UpsampledCrossEntropy(torch.autograd.Function):
    """Rows outermost, then classes, then columns: resizing is then two products of matrices."""

    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor, stride: int, ignore_value: int) -> Tensor:
        height, width = logits.shape[-2:]
        vertical, horizontal = (
            resize_matrix(length, length * stride, logits.dtype).to(logits.device)
            for length in (height, width)
        )
        source = logits.permute(0, 2, 1, 3).contiguous()
        grad = torch.zeros_like(source) if ctx.needs_input_grad[0] else None
        total = logits.new_zeros(())
        for image, rows, around in _bands(logits, stride):
            wanted = slice(rows.start * stride, rows.stop * stride)
            weights = vertical[wanted, around]
            widened = onednn.linear(source[image, around], horizontal)
            band = weights @ widened.flatten(1)
            scores = band.unflatten(1, widened.shape[1:])
            labels = targets[image, wanted]
            total += _cross_entropy(scores, labels, ignore_value, differentiate=grad is not None)
            if grad is not None:
                of_widened = (weights.t() @ band).view_as(widened)
                grad[image, around] += onednn.linear(of_widened, horizontal.t())
        ctx.save_for_backward(None if grad is None else grad.permute(0, 2, 1, 3))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_total: Tensor):
        (grad,) = ctx.saved_tensors
        return grad * grad_total, None, None, None


def _cross_entropy(
    scores: Tensor, labels: Tensor, ignore_value: int, differentiate: bool
) -> Tensor:
    """Sum of the cross-entropy over labelled pixels.

    Args:
        scores: rows x classes x columns, overwritten: by their gradient if ``differentiate``.
        labels: rows x columns.
    """
    labelled = (labels != ignore_value).unsqueeze(1)
    labels = labels.unsqueeze(1).where(labelled, 0)
    scores -= scores.amax(1, keepdim=True)
    of_labels = scores.gather(1, labels)
    normaliser = scores.exp_().sum(1, keepdim=True)
    loss = (normaliser.log() - of_labels).where(labelled, 0).sum()
    if differentiate:
        # Probabilities, less 1 for the label.
        labelled = labelled.to(scores.dtype)
        scores *= labelled / normaliser
        scores.scatter_add_(1, labels, -labelled)
    return loss

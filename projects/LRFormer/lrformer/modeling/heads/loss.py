"""Cross-entropy of upsampled logits, without the upsampled logits."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...layers.pooling import resize_matrix

# Of upsampled logits at a time. On a CPU they stay in the cache; a GPU wants larger pieces.
_BAND_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 27}


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


def _upsampled_band(source: Tensor, stride: int, first: int, rows: slice) -> Tensor:
    """The upsampled logits of ``rows``, of which ``source`` has the first as its row ``first``."""
    height, width = source.shape[-2:]
    wanted = slice(first * stride, (first + rows.stop - rows.start) * stride)
    if source.device.type != "cpu":
        up = F.interpolate(source, scale_factor=stride, mode="bilinear", align_corners=False)
        return up[:, :, wanted]
    # PyTorch's own upsampling takes several times as long as these products, both ways.
    vertical = resize_matrix(height, height * stride, source.dtype)[wanted]
    horizontal = resize_matrix(width, width * stride, source.dtype)
    return vertical @ (source @ horizontal.t())


class _UpsampledCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor, stride: int, ignore_value: int) -> Tensor:
        # Upsampling and softmax run along rows.
        logits = logits.detach().contiguous()
        differentiate = ctx.needs_input_grad[0]
        grad = torch.zeros_like(logits) if differentiate else None
        total = logits.new_zeros(())
        for image, rows, around in _bands(logits, stride):
            source = logits[image : image + 1, :, around].requires_grad_(differentiate)
            with torch.set_grad_enabled(differentiate):
                band = _upsampled_band(source, stride, rows.start - around.start, rows)
                labels = targets[image : image + 1, rows.start * stride : rows.stop * stride]
                loss = F.cross_entropy(band, labels, ignore_index=ignore_value, reduction="sum")
            total += loss.detach()
            if differentiate:
                grad[image : image + 1, :, around] += torch.autograd.grad(loss, source)[0]
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_total: Tensor):
        (grad,) = ctx.saved_tensors
        return grad * grad_total, None, None, None

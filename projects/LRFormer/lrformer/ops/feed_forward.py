"""The feed-forward part of a block on CPUs, its hidden maps computed a few channels at a time.

Hidden channels do not see each other before they are summed: a part of them that stays in the
cache goes all the way through, and the hidden maps, the largest of the network, are never stored.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..layers import FeedForward
from .onednn import conv, product_of_transposed
from .route import is_stock, is_stock_conv, route

# Among the fastest of 1/2 to 128 MiB, forward and backward, where a core has 1 MiB of second- and
# 16 of third-level cache.
_PART_BYTES = 8 << 20


class FastFeedForward(FeedForward):
    """:class:`FeedForward`; on CPUs training keeps its input only and computes the rest again."""

    def forward(self, x: Tensor) -> Tensor:
        dtype = _compute_dtype(x, self.fc1.weight) if self._is_stock() else None
        if dtype is None or route(x, dtype) != "onednn":
            return super().forward(x)
        kernel = kernel_bias = None
        if self.dwconv is not None:
            kernel, kernel_bias = with_identity(self.dwconv.weight), self.dwconv.bias
        x = x.contiguous(memory_format=torch.channels_last)
        fc1, fc2 = self.fc1, self.fc2
        inputs = x, fc1.weight, fc1.bias, kernel, kernel_bias, fc2.weight, fc2.bias
        return _FeedForward.apply(*(t if t is None else t.to(dtype) for t in inputs))

    def _is_stock(self) -> bool:
        depthwise = self.dwconv is None or is_stock_conv(self.dwconv, kernel=3)
        gelu = is_stock(self.act, nn.GELU) and self.act.approximate == "none"
        return depthwise and gelu and is_stock_conv(self.fc1) and is_stock_conv(self.fc2)


def with_identity(kernel: Tensor) -> Tensor:
    """The Cx1x3x3 depth-wise kernel that gives x + conv(x)."""
    return kernel + F.pad(torch.ones_like(kernel[:1, :, 1:2, 1:2]), (1, 1, 1, 1))


def _compute_dtype(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """The data type that both are in or that autocast brings both to; None: there is no such."""
    given = {x.dtype, weight.dtype}
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        return dtype if given <= {torch.float32, dtype} else None
    return x.dtype if given == {torch.float32} else None


class _FeedForward(torch.autograd.Function):
    """From NxCxHxW and the parameters, of which ``kernel`` adds its input; None leaves it out."""

    @staticmethod
    def forward(ctx, x, weight1, bias1, kernel, kernel_bias, weight2, bias2):
        ctx.save_for_backward(x, weight1, bias1, kernel, kernel_bias, weight2)
        out = None
        for part in _parts(x, len(weight1)):
            hidden = conv(x, weight1[part], bias1[part], gelu=True)
            if kernel is not None:
                hidden = conv(hidden, kernel[part], kernel_bias[part], padding=1)
            bias = bias2 if part.start == 0 else None
            out = conv(hidden, weight2[:, part].contiguous(), bias, add_to=out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight1, bias1, kernel, kernel_bias, weight2 = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = None
        of_parameters = [
            None if p is None else torch.empty_like(p)
            for p in (weight1, bias1, kernel, kernel_bias, weight2)
        ]
        of_weight1, of_bias1, of_kernel, of_kernel_bias, of_weight2 = of_parameters
        for part in _parts(x, len(weight1)):
            before = conv(x, weight1[part], bias1[part])
            hidden = mixed = F.gelu(before)
            grad_hidden = conv(grad, _transposed(weight2[:, part]))
            if kernel is not None:
                mixed = conv(hidden, kernel[part], kernel_bias[part], padding=1)
                of_kernel[part] = _kernel_grad(grad_hidden, hidden, kernel[part])
                of_kernel_bias[part] = grad_hidden.sum((0, 2, 3))
                grad_hidden = conv(grad_hidden, kernel[part].flip(2, 3), padding=1)
            of_weight2[:, part] = _weight_grad(grad, mixed)
            grad_before = torch.ops.aten.gelu_backward(grad_hidden, before)
            of_weight1[part] = _weight_grad(grad_before, x)
            of_bias1[part] = grad_before.sum((0, 2, 3))
            if ctx.needs_input_grad[0]:
                grad_x = conv(grad_before, _transposed(weight1[part]), add_to=grad_x)
        return grad_x, *of_parameters, grad.sum((0, 2, 3))


def _parts(x: Tensor, hidden: int) -> Iterator[slice]:
    """The hidden channels in parts that stay in the cache, of multiples of 32 channels."""
    parts = math.ceil(hidden * x[:, 0].numel() * x.element_size() / _PART_BYTES)
    size = 32 * math.ceil(hidden / (32 * max(1, parts)))
    for start in range(0, hidden, size):
        yield slice(start, min(start + size, hidden))


def _transposed(weight: Tensor) -> Tensor:
    """The weight of the 1x1 convolution that takes gradients from outputs to inputs."""
    return weight.transpose(0, 1).contiguous()


def _weight_grad(grad: Tensor, x: Tensor) -> Tensor:
    """Of a 1x1 convolution's weight, from the gradient of its output and its input."""
    grad, x = (t.permute(0, 2, 3, 1).flatten(0, 2) for t in (grad, x))
    return product_of_transposed(grad, x)[..., None, None]


def _kernel_grad(grad: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
    """Of a depth-wise 3x3 convolution's kernel."""
    only_weight = [False, True, False]
    geometry = [1, 1], [1, 1], [1, 1], False, [0, 0], len(kernel)
    return torch.ops.aten.convolution_backward(grad, x, kernel, None, *geometry, only_weight)[1]

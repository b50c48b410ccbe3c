"""The feed-forward part of a block, its hidden maps computed a few channels at a time on CPUs.

Hidden channels do not see each other before they are summed: a part of them that stays in the
cache goes all the way through, and the hidden maps, the largest of the network, are never stored.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import onednn

# Among the fastest of 1/2 to 128 MiB, forward and backward, where a core has 1 MiB of second- and
# 16 of third-level cache.
_PART_BYTES = 8 << 20


def depthwise_conv(dim: int) -> nn.Conv2d:
    return nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)


def with_identity(kernel: Tensor) -> Tensor:
    """The Cx1x3x3 depth-wise kernel that gives x + conv(x)."""
    identity = torch.zeros(3, 3, dtype=kernel.dtype, device=kernel.device)
    identity[1, 1] = 1
    return kernel + identity


class FeedForward(nn.Module):
    """1x1 convolution to ``hidden_dim``, GELU, y + 3x3 depth-wise convolution of y, 1x1 back.

    On a CPU, in float32 and under autocast in bfloat16, training keeps the input only and computes
    the hidden maps again in the backward pass.

    Args:
        dim, hidden_dim: channels outside and inside.
        conv: False leaves the depth-wise convolution out (paper, Tab. 9).
    """

    def __init__(self, dim: int, hidden_dim: int, conv: bool = True):
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden_dim, kernel_size=1)
        self.act = nn.GELU()
        self.dwconv = depthwise_conv(hidden_dim) if conv else None
        self.fc2 = nn.Conv2d(hidden_dim, dim, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        dtype = self._dtype_in_parts(x)
        if dtype is not None:
            kernel, bias = None, None
            if self.dwconv is not None:
                kernel, bias = with_identity(self.dwconv.weight), self.dwconv.bias
            x = x.contiguous(memory_format=torch.channels_last)
            inputs = x, self.fc1.weight, self.fc1.bias, kernel, bias, self.fc2.weight, self.fc2.bias
            return _FeedForward.apply(*(t if t is None else t.to(dtype) for t in inputs))
        x = self.act(self.fc1(x))
        if self.dwconv is not None:
            x = x + self.dwconv(x)
        return self.fc2(x)

    def _dtype_in_parts(self, x: Tensor) -> torch.dtype | None:
        """In which to compute a few channels at a time, or None for all of them at once."""
        given = {x.dtype, self.fc1.weight.dtype}
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            fits = given <= {torch.float32, dtype}
        else:
            dtype = torch.float32
            fits = given == {dtype}
        return dtype if fits and onednn.usable(x.detach(), dtype) else None


def feed_forward(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    kernel: Tensor | None,
    kernel_bias: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    add_to: Tensor | None = None,
) -> Tensor:
    """:class:`FeedForward` as a function of its parameters, for inference.

    Args:
        x: NxCxHxW.
        weight1, bias1: of the 1x1 convolution to hidden channels.
        kernel, kernel_bias: depth-wise, :func:`with_identity`; None leaves it out.
        weight2, bias2: of the 1x1 convolution from hidden channels.
        add_to: to which the result is added in place, of the dtype of ``x``.

    Returns:
        The result, or ``add_to``.
    """
    out = add_to
    for i, part in enumerate(_parts(x, weight1.shape[0])):
        hidden = onednn.conv(x, weight1[part], _of(bias1, part), activation="gelu")
        if kernel is not None:
            hidden = _depthwise(hidden, kernel[part], _of(kernel_bias, part))
        weight, bias = weight2[:, part].contiguous(), bias2 if i == 0 else None
        out = onednn.conv(hidden, weight, bias, add_to=out)
    return out


def _parts(x: Tensor, hidden: int) -> Iterator[slice]:
    """The hidden channels in parts that stay in the cache, of multiples of 32 channels."""
    if not onednn.usable(x):
        yield slice(0, hidden)
        return
    parts = math.ceil(hidden * x[:, 0].numel() * x.element_size() / _PART_BYTES)
    size = 32 * math.ceil(hidden / (32 * max(1, parts)))
    for start in range(0, hidden, size):
        yield slice(start, min(start + size, hidden))


def _of(tensor: Tensor | None, part: slice) -> Tensor | None:
    return None if tensor is None else tensor[part]


def _depthwise(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    return onednn.conv(x, kernel, bias, padding=1, groups=kernel.shape[0])


def _transposed(weight: Tensor) -> Tensor:
    """The weight of the 1x1 convolution that takes gradients from outputs to inputs."""
    return weight.transpose(0, 1).contiguous()


def _rows(x: Tensor) -> Tensor:
    """NxCxHxW in channels-last memory as (NHW)xC."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _weight_grad(grad: Tensor, x: Tensor) -> Tensor:
    """Of a 1x1 convolution's weight, from the gradient of its output and its input."""
    return onednn.weight_grad(_rows(grad), _rows(x))[..., None, None]


def _kernel_grad(grad: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
    """Of a depth-wise 3x3 convolution's kernel."""
    only_weight = [False, True, False]
    geometry = [1, 1], [1, 1], [1, 1], False, [0, 0], kernel.shape[0]
    grads = torch.ops.aten.convolution_backward(grad, x, kernel, None, *geometry, only_weight)
    return grads[1]


class _FeedForward(torch.autograd.Function):
    """:func:`feed_forward`; the backward pass goes through the hidden channels in parts too."""

    @staticmethod
    def forward(ctx, x, *parameters):
        ctx.save_for_backward(x, *parameters)
        return feed_forward(x, *parameters)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight1, bias1, kernel, kernel_bias, weight2, _ = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = None
        of_weight1, of_weight2 = torch.empty_like(weight1), torch.empty_like(weight2)
        of_bias1, of_kernel, of_kernel_bias = torch.empty_like(bias1), None, None
        if kernel is not None:
            of_kernel, of_kernel_bias = torch.empty_like(kernel), torch.empty_like(kernel_bias)
        for part in _parts(x, weight1.shape[0]):
            before = onednn.conv(x, weight1[part], bias1[part])
            hidden = mixed = F.gelu(before)
            grad_hidden = onednn.conv(grad, _transposed(weight2[:, part]))
            if kernel is not None:
                mixed = _depthwise(hidden, kernel[part], kernel_bias[part])
                of_kernel[part] = _kernel_grad(grad_hidden, hidden, kernel[part])
                of_kernel_bias[part] = grad_hidden.sum((0, 2, 3))
                grad_hidden = _depthwise(grad_hidden, kernel[part].flip(2, 3), None)
            of_weight2[:, part] = _weight_grad(grad, mixed)
            grad_before = torch.ops.aten.gelu_backward(grad_hidden, before)
            of_weight1[part] = _weight_grad(grad_before, x)
            of_bias1[part] = grad_before.sum((0, 2, 3))
            if ctx.needs_input_grad[0]:
                grad_x = onednn.conv(grad_before, _transposed(weight1[part]), add_to=grad_x)
        of_bias2 = grad.sum((0, 2, 3))
        return grad_x, of_weight1, of_bias1, of_kernel, of_kernel_bias, of_weight2, of_bias2

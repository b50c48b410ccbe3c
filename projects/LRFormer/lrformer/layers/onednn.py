"""Convolutions and linear layers on CPUs through oneDNN, with what follows them computed at once.

PyTorch exposes oneDNN's fused operators only to its own compiler; where they are missing, or where
a graph is recorded for use elsewhere, standard operators give the same values. Its own float32
matrix product is another library's, which on some processors is half as fast.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .recording import is_recorded

_ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu}


def usable(x: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether :func:`conv` runs ``x`` through oneDNN: eagerly, on the CPU, without gradients.

    Args:
        x: an input.
        dtype: that it is cast to before; None: its own.
    """
    if is_recorded() or x.device.type != "cpu":
        return False
    if torch.is_grad_enabled() and x.requires_grad:
        return False
    return torch.backends.mkldnn.enabled and _supports(dtype or x.dtype)


def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y, in the memory of x where no gradient will want that back."""
    if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad):
        return x + y
    return x.add_(y)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    activation: str | None = None,
    add_to: Tensor | None = None,
) -> Tensor:
    """2D convolution, then an activation or a sum.

    Args:
        x: NxCxHxW, best in channels-last memory.
        weight, bias, stride, padding, groups: as :func:`torch.nn.functional.conv2d` has them.
        activation: "gelu" (exact), "relu" or None.
        add_to: to which the result is added, in place; not together with an activation.

    Returns:
        The result or the sum.
    """
    if not usable(x):
        out = F.conv2d(x, weight, bias, stride, padding, 1, groups)
        if add_to is not None:
            return add(add_to, out)
        return out if activation is None else _ACTIVATIONS[activation](out)
    inputs = x, weight, bias, [padding] * 2, [stride] * 2, [1, 1], groups
    if add_to is not None:
        operator = torch.ops.mkldnn._convolution_pointwise_.binary
        return operator(add_to, *inputs, "add", 1.0, None, [], None)
    return torch.ops.mkldnn._convolution_pointwise(*inputs, activation or "none", [], "none")


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """:func:`torch.nn.functional.linear`, then an activation: "gelu" (exact), "relu" or None."""
    trained = torch.is_grad_enabled()
    trained = trained and any(t is not None and t.requires_grad for t in (x, weight, bias))
    if computes_linear(x, weight) and not trained:
        return _linear(x, weight, bias, activation)
    if trained and x.dtype == torch.float32 and computes_linear(x, weight):
        out = _Linear.apply(x, weight, bias)
    else:
        out = F.linear(x, weight, bias)
    return out if activation is None else _ACTIVATIONS[activation](out)


class Linear(nn.Linear):
    """:class:`torch.nn.Linear` by :func:`linear`."""

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        return linear(x, self.weight, self.bias, activation)


def weight_grad(grad: Tensor, x: Tensor) -> Tensor:
    """Of a linear layer's weight, OxI, from the gradient of its outputs, NxO, and inputs, NxI."""
    channels = grad.shape[1], x.shape[1]
    # The first factor is copied to be transposed, which pays if the second is wide.
    if max(channels) < 128 or x.dtype != torch.float32 or not computes_linear(grad, x):
        return grad.t() @ x
    if channels[0] > channels[1]:
        return _linear(x.t(), grad.t()).t()
    return _linear(grad.t(), x.t())


def computes_linear(x: Tensor, weight: Tensor) -> bool:
    """Whether :func:`linear` is more than PyTorch's: eagerly on the CPU, as autocast would."""
    low = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if low else weight.dtype
    return x.dtype == weight.dtype == dtype and usable(x.detach())


def _linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    operator = torch.ops.mkldnn._linear_pointwise
    return operator(x, weight, bias, activation or "none", [], "none")


class _Linear(torch.autograd.Function):
    """A linear layer whose three products, forward and backward, go through oneDNN."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        return (
            _linear(rows, weight.t()).view_as(x) if of_x else None,
            weight_grad(rows, x.reshape(-1, x.shape[-1])) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


@cache
def _supports(dtype: torch.dtype) -> bool:
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    x = torch.zeros(1, 16, 4, 4, dtype=dtype).contiguous(memory_format=torch.channels_last)
    inputs = x, x[:, :, :1, :1].expand(16, -1, -1, -1).contiguous(), None, [0, 0], [1, 1], [1, 1], 1
    try:
        with torch.no_grad():
            out = torch.ops.mkldnn._convolution_pointwise(*inputs, "gelu", [], "none")
            add = torch.ops.mkldnn._convolution_pointwise_.binary
            add(out, *inputs, "add", 1.0, None, [], None)
            _linear(x.flatten(2).transpose(1, 2), x[0, :, 0].t())
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    return True

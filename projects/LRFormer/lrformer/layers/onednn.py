"""Convolutions on CPUs through oneDNN, with what follows them computed on the way out.

PyTorch exposes oneDNN's fused operators only to its own compiler; where they are missing, or where
a graph is recorded for use elsewhere, standard operators give the same values.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

_ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu}


def usable(x: Tensor) -> bool:
    """Whether :func:`conv` runs ``x`` through oneDNN: eagerly, on the CPU, without gradients."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or x.device.type != "cpu":
        return False
    if torch.is_grad_enabled() and x.requires_grad:
        return False
    return torch.backends.mkldnn.enabled and _supports(x.dtype)


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
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    return True

"""Which way an operator takes: the one place that asks for device, recording and hooks."""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _module


def route(x: Tensor, dtype: torch.dtype | None = None) -> str:
    """How to compute with ``x``.

    Args:
        x: an input.
        dtype: in which oneDNN's fused operators would compute; None: they are not asked for.

    Returns:
        "plain" while ``torch.compile``, ``torch.export`` or ``torch.jit.trace`` records what runs,
        which then is to run elsewhere or otherwise; "onednn" on a CPU whose oneDNN computes in
        ``dtype``; else the type of the device.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "plain"
    kind = x.device.type
    if kind == "cpu" and dtype is not None and torch.backends.mkldnn.enabled and _supports(dtype):
        return "onednn"
    return kind


def is_stock(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether ``module`` is exactly of class ``kind`` and nobody looks on.

    Then its ``forward`` may be passed by: there are no hooks, no parametrizations (which change the
    class), and no ``forward`` of its own.
    """
    kinds = "forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks"
    hooks = any(getattr(module, f"_{kind}") for kind in kinds)
    watched = hooks or _module._has_any_global_hook() or "forward" in vars(module)
    return type(module) is kind and not watched


def is_stock_conv(
    conv: nn.Module, kernel: int = 1, bias: bool = True, kind: type[nn.Conv2d] = nn.Conv2d
) -> bool:
    """Whether it is a stock convolution that keeps the size: 1x1, or depth-wise and larger."""
    if not is_stock(conv, kind) or (conv.bias is not None) != bias:
        return False
    groups = 1 if kernel == 1 else conv.in_channels
    found = conv.kernel_size, conv.padding, conv.stride, conv.dilation, conv.groups
    plain = found == ((kernel,) * 2, (kernel // 2,) * 2, (1, 1), (1, 1), groups)
    return plain and conv.padding_mode == "zeros"


@cache
def _supports(dtype: torch.dtype) -> bool:
    """Whether PyTorch has oneDNN's fused operators, which it promises to its compiler only."""
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    from .onednn import conv  # which needs this module

    x = torch.zeros(1, 16, 4, 4, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.zeros(16, 16, 1, 1, dtype=dtype)
    try:
        with torch.no_grad():
            conv(x, weight, add_to=conv(x, weight, gelu=True))
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    return True

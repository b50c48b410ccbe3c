"""oneDNN's fused operators on CPUs, which PyTorch exposes to its own compiler only.

They have no gradients, and run where :func:`.route.route` says "onednn".
"""

import torch
from torch import Tensor


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    padding: int = 0,
    gelu: bool = False,
    add_to: Tensor | None = None,
) -> Tensor:
    """2D convolution of stride 1, then GELU or a sum.

    Args:
        x: NxCxHxW, best in channels-last memory.
        weight: Ox(C/groups)xkxk; where C/groups is 1 and C is not, the convolution is depth-wise.
        bias: O, or None.
        padding: on each side.
        gelu: whether GELU follows, the exact one.
        add_to: to which the result is added, in place; not together with ``gelu``.

    Returns:
        The result or the sum.
    """
    groups = x.shape[1] // weight.shape[1]
    inputs = x, weight, bias, [padding] * 2, [1, 1], [1, 1], groups
    if add_to is not None:
        operator = torch.ops.mkldnn._convolution_pointwise_.binary
        return operator(add_to, *inputs, "add", 1.0, None, [], None)
    activation = "gelu" if gelu else "none"
    return torch.ops.mkldnn._convolution_pointwise(*inputs, activation, [], "none")


def product_of_transposed(a: Tensor, b: Tensor) -> Tensor:
    """aᵀ b of an NxA and an NxB matrix.

    PyTorch's own float32 product is another library's, half as fast on some processors. oneDNN's
    copies the first factor to transpose it, which pays if the second is wide.
    """
    if max(a.shape[1], b.shape[1]) < 128 or a.dtype != torch.float32:
        return a.t() @ b
    if a.shape[1] > b.shape[1]:
        return product_of_transposed(b, a).t()
    return torch.ops.mkldnn._linear_pointwise(a.t(), b.t(), None, "none", [], "none")

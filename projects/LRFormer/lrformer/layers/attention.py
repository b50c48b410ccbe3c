"""Scaled dot-product attention, for bfloat16 on CPUs too."""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import onednn

# Scores at once; they stay in the cache.
_SCORES = 1 << 20
_STEP = 8


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query keyᵀ) value, for inference; the queries are scaled already.

    PyTorch's kernel for CPUs multiplies in float32 whatever the data type. In bfloat16 two products
    of matrices take half its time; scores and weights are rounded to bfloat16 then.

    Args:
        query: N x heads x Q x D.
        key, value: N x heads x S x D.

    Returns:
        N x heads x Q x D.
    """
    if query.dtype != torch.bfloat16 or not onednn.usable(query):
        return F.scaled_dot_product_attention(query, key, value, scale=1.0)
    heads = query.shape[:2]
    query, key, value = (x.flatten(0, 1) for x in (query, key, value))
    # Softmax needs its scores less any number near their largest: that of every eighth key does.
    # One more channel of queries and keys subtracts it, before the scores are rounded, and one of
    # the values sums the weights.
    near_largest = (query @ key[:, ::_STEP].transpose(1, 2)).amax(-1, keepdim=True)
    query = torch.cat([query, -near_largest], dim=-1)
    key, value = (F.pad(x, (0, 1), value=1.0) for x in (key, value))
    size = max(1, _SCORES // (query.shape[1] * key.shape[1]))
    outs, near = [], True
    for q, k, v in zip(*(x.split(size) for x in (query, key, value)), strict=True):
        if near:
            out = torch.exp_(q @ k.transpose(1, 2)) @ v
            near = bool((out[..., -1] < 1e30).all())
        if not near:
            out = (q @ k.transpose(1, 2)).float().softmax(-1).to(q.dtype) @ v
        outs.append(out)
    out = torch.cat(outs)
    return (out[..., :-1] / out[..., -1:]).unflatten(0, heads)

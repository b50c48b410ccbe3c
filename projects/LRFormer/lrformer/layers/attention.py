"""Scaled dot-product attention, for bfloat16 on CPUs too."""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import onednn

# Scores at once; they stay in the cache.
_SCORES = 1 << 20


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query keyᵀ) value, for inference; the queries are scaled already.

    PyTorch's kernel for CPUs multiplies in float32 whatever the data type. In bfloat16 two products
    of matrices take half its time; their scores are rounded to bfloat16, the softmax is float32.

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
    size = max(1, _SCORES // (query.shape[1] * key.shape[1]))
    parts = zip(*(x.split(size) for x in (query, key.transpose(1, 2), value)), strict=True)
    return torch.cat([_softmax(q @ k) @ v for q, k, v in parts]).unflatten(0, heads)


def _softmax(scores: Tensor) -> Tensor:
    return scores.float().softmax(-1).to(scores.dtype)

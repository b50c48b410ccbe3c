import pytest
import torch
import torch.nn.functional as F

from lrformer.layers import attention as module
from lrformer.layers.attention import attention


def _inputs(dtype=torch.float32):
    torch.manual_seed(0)
    return [torch.randn(2, 3, size, 8, dtype=dtype) for size in (50, 20, 20)]


def test_float32_is_pytorchs():
    q, k, v = _inputs()
    assert torch.equal(attention(q, k, v), F.scaled_dot_product_attention(q, k, v, scale=1.0))


@pytest.mark.parametrize("scores", [1, 2 * 50 * 20, 1 << 20])
def test_bfloat16_in_groups_of_heads(monkeypatch, scores):
    monkeypatch.setattr(module, "_SCORES", scores)
    q, k, v = _inputs()
    expected = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    found = attention(*(x.bfloat16() for x in (q, k, v)))
    assert found.dtype == torch.bfloat16
    # Inputs, scores and weights are rounded to 8 bits each.
    assert (found - expected).norm() < 4 * torch.finfo(torch.bfloat16).eps * expected.norm()

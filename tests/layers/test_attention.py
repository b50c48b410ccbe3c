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


@pytest.mark.parametrize("found", [True, False], ids=["near the largest", "far from it"])
@pytest.mark.parametrize("scale", [5, 10, 12, 14, 16, 60])
def test_bfloat16_scores_of_up_to_hundreds(scale, found):
    """As trained models have them; a number near a query's largest is looked for among few keys."""
    q, k, v = _inputs()
    keys = slice(0, 9, 8) if found else slice(1, 3)
    k[:, :, keys] = scale * torch.sign(k[:, :, keys])
    q, k, v = (x.bfloat16() for x in (q, k, v))
    expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), scale=1.0)
    out = attention(q, k, v)
    assert (out - expected).norm() < 0.02 * expected.norm()

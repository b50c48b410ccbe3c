import copy

import pytest
import torch

from lrformer.layers import FeedForward
from lrformer.ops import feed_forward
from lrformer.ops.feed_forward import FastFeedForward
from lrformer.ops.route import route


def has_onednn(dtype=torch.float32):
    return route(torch.zeros(1), dtype) == "onednn"


@pytest.mark.skipif(not has_onednn(), reason="needs oneDNN")
@pytest.mark.parametrize("conv", [True, False])
@pytest.mark.parametrize("part_bytes", [1 << 14, 1 << 23])
def test_in_parts_equals_all_at_once_forward_and_backward(monkeypatch, conv, part_bytes):
    """Float32 on a CPU takes its own way through the hidden channels; float64 PyTorch's."""
    monkeypatch.setattr(feed_forward, "_PART_BYTES", part_bytes)
    torch.manual_seed(0)
    ffn = FastFeedForward(20, 100, conv=conv)
    for parameter in ffn.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    oracle = FeedForward(20, 100, conv=conv).double()
    oracle.load_state_dict(ffn.state_dict())
    x = torch.randn(2, 20, 17, 13)
    weight = torch.randn(2, 20, 17, 13)
    results = []
    for module, image in ((ffn, x.clone()), (oracle, x.double())):
        image.requires_grad_()
        out = module(image)
        (out * weight).sum().backward()
        results.append([out, image.grad, *(p.grad for p in module.parameters())])
    for found, expected in zip(*results, strict=True):
        assert (found - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.skipif(not has_onednn(), reason="needs oneDNN")
def test_hidden_maps_are_not_kept_for_the_backward_pass():
    ffn, saved = FastFeedForward(8, 64), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        ffn(torch.randn(1, 8, 32, 32, requires_grad=True))
    assert max(t.numel() for t in saved) == 8 * 32 * 32


@pytest.mark.skipif(not has_onednn(torch.bfloat16), reason="needs oneDNN and bfloat16")
def test_bfloat16_under_autocast_is_as_near_to_float64_as_pytorchs():
    torch.manual_seed(0)
    ffn, x = FastFeedForward(24, 96), torch.randn(2, 24, 16, 12)
    weight = torch.randn(2, 24, 16, 12)

    def results(module, x, weight):
        x = x.clone().requires_grad_()
        module.zero_grad()
        out = module(x)
        (out * weight).sum().backward()
        return [out, x.grad, *(p.grad for p in module.parameters())]

    exact = results(copy.deepcopy(ffn).double(), x.double(), weight.double())
    with torch.autocast("cpu", torch.bfloat16):
        ours = results(ffn, x, weight)
        with torch.backends.mkldnn.flags(enabled=False):
            plain = results(ffn, x, weight)
    assert ours[0].dtype == torch.bfloat16
    for found, other, expected in zip(ours, plain, exact, strict=True):
        error = (found - expected).norm() / expected.norm()
        assert error < 1.5 * (other - expected).norm() / expected.norm() + 1e-3

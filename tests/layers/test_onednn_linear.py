import pytest
import torch
import torch.nn.functional as F

from lrformer.layers import onednn

needs_onednn = pytest.mark.skipif(not onednn.usable(torch.zeros(1, 1, 1, 1)), reason="needs oneDNN")
ACTIVATIONS = {None: lambda x: x, "relu": F.relu, "gelu": F.gelu}


@needs_onednn
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 7, 20), (5, 20)])
def test_linear_and_its_gradients_are_those_of_float64(activation, bias, shape):
    torch.manual_seed(0)
    layer = onednn.Linear(20, 150, bias=bias)
    x = torch.randn(shape, requires_grad=True)
    out = layer(x, activation)
    factor = torch.randn_like(out)
    parameters = list(layer.parameters())
    found = [out, *torch.autograd.grad((out * factor).sum(), [x, *parameters])]
    with torch.no_grad():
        torch.testing.assert_close(layer(x, activation), out)

    exact = [t.detach().double().requires_grad_() for t in (x, *parameters)]
    out = ACTIVATIONS[activation](F.linear(*exact))
    expected = [out, *torch.autograd.grad((out * factor.double()).sum(), exact)]
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert (a - b).norm() < 1e-5 * b.norm()


@needs_onednn
@pytest.mark.parametrize("outputs, inputs", [(200, 20), (20, 200), (200, 150), (8, 8)])
def test_weight_gradient_of_any_shape(outputs, inputs):
    torch.manual_seed(0)
    grad, x = torch.randn(300, outputs), torch.randn(300, inputs)
    expected = grad.double().t() @ x.double()
    found = onednn.weight_grad(grad, x)
    assert found.shape == expected.shape
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_only_what_needs_gradients_gets_them():
    layer = onednn.Linear(8, 4)
    layer.weight.requires_grad_(False)
    x = torch.randn(3, 8)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert torch.equal(layer.bias.grad, torch.full((4,), 3.0))


def test_other_data_types_and_autocast_are_pytorchs():
    x = torch.randn(3, 8)
    layer = onednn.Linear(8, 4)
    assert onednn.Linear(8, 4).double()(x.double()).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))

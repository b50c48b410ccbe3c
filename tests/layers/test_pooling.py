import pytest
import torch
import torch.nn.functional as F

from lrformer.layers.pooling import average_pools, pooled_shape, resize_matrix

SIDES = [16, 11, 8, 6, 4]


@pytest.mark.parametrize("size", [(128, 128), (48, 75), (33, 17), (9, 30)])
@pytest.mark.parametrize("trained", [False, True])
def test_pools_are_pytorchs_and_so_are_their_gradients(size, trained):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=trained)
    pools = average_pools(x, SIDES)
    shapes = [pooled_shape(*size, side) for side in SIDES]
    expected = [F.adaptive_avg_pool2d(x, shape) for shape in shapes]
    for a, b in zip(pools, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    if trained:
        grads = [
            torch.autograd.grad(sum(p.square().sum() for p in ps), x)[0] for ps in (pools, expected)
        ]
        torch.testing.assert_close(*grads, rtol=0, atol=1e-12)


def test_training_after_inference_mode_with_the_same_size():
    with torch.inference_mode():
        average_pools(torch.randn(1, 2, 40, 40), SIDES)
    x = torch.randn(1, 2, 40, 40, requires_grad=True)
    sum(p.sum() for p in average_pools(x, SIDES)).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(("length", "new"), [(5, 40), (64, 512), (7, 3)])
def test_resize_matrix(length, new):
    x = torch.randn(1, 2, length, dtype=torch.float64)
    expected = F.interpolate(x, size=new, mode="linear", align_corners=False)
    found = x @ resize_matrix(length, new, x.dtype).t()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(32, 48), (16, 16)])
def test_operators_of_compiled_graphs_are_what_they_claim(size):
    """Shapes and memory formats that they foretell, and that they change or share no input."""
    x = torch.randn(2, 5, *size).to(memory_format=torch.channels_last)
    torch.library.opcheck(torch.ops.lrformer.average_pools, (x, [16, 8, 8, 3]))
    torch.library.opcheck(torch.ops.lrformer.resize, (x, 7, 9))

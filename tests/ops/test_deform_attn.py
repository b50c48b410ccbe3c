import importlib.util
import math

import pytest
import torch

from lrformer.modeling.mask2former.ms_deform_attn import MSDeformAttn
from lrformer.ops import row_sampling
from lrformer.ops.deform_attn import check_backend, grid_sample, ms_deform_attn

SHAPES = [(2, 3), (4, 5), (7, 6)]


def inputs(n=2, heads=3, dim=4, queries=5, points=2, dtype=torch.float32, spread=0.3):
    """Values, locations (some outside the map) and weights."""
    torch.manual_seed(0)
    positions = sum(h * w for h, w in SHAPES)
    value = torch.randn(n, positions, heads, dim, dtype=dtype)
    locations = torch.rand(n, queries, heads, len(SHAPES), points, 2, dtype=dtype)
    locations = locations * (1 + 2 * spread) - spread
    weights = torch.rand(n, queries, heads, len(SHAPES), points, dtype=dtype)
    return value, locations, weights


def one_at_a_time(value, locations, weights):
    """Equation 3 of Deformable DETR for one query, head, level and point after the other."""
    n, _, heads, dim = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    out = torch.zeros(n, queries, heads, dim, dtype=value.dtype)
    for b in range(n):
        for q in range(queries):
            for m in range(heads):
                start = 0
                for level, (h, w) in enumerate(SHAPES):
                    for p in range(points):
                        x = locations[b, q, m, level, p, 0].item() * w - 0.5
                        y = locations[b, q, m, level, p, 1].item() * h - 0.5
                        for i in (math.floor(y), math.floor(y) + 1):
                            for j in (math.floor(x), math.floor(x) + 1):
                                if 0 <= i < h and 0 <= j < w:
                                    share = (1 - abs(y - i)) * (1 - abs(x - j))
                                    out[b, q, m] += (
                                        weights[b, q, m, level, p]
                                        * share
                                        * value[b, start + i * w + j, m]
                                    )
                    start += h * w
    return out.flatten(2)


def test_equals_the_equation_written_as_a_loop():
    value, locations, weights = inputs(dtype=torch.float64)
    out = ms_deform_attn(value, SHAPES, locations, weights, "pytorch")
    torch.testing.assert_close(out, one_at_a_time(value, locations, weights))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_values_sampled_at_exact_positions(dtype):
    value, locations, weights = inputs()
    expected = one_at_a_time(value, locations, weights)
    value, locations, weights = (x.requires_grad_() for x in (value, locations, weights))
    out = ms_deform_attn(value.to(dtype), SHAPES, locations, weights.to(dtype), "pytorch")
    assert out.dtype == dtype
    out.float().sum().backward()
    # Only values and weights are rounded: a position is not moved by 1/256 of the map.
    error = (out.float() - expected).norm() / expected.norm()
    assert error < 2 * torch.finfo(dtype).eps
    assert all(x.grad.isfinite().all() for x in (value, locations, weights))


@pytest.mark.parametrize("sample", [row_sampling.sample, grid_sample])
def test_gradients_are_those_of_finite_differences(sample):
    # There are kinks where a position crosses a pixel; the seed's positions are not near one.
    value, locations, weights = (x.requires_grad_() for x in inputs(dtype=torch.float64))
    torch.autograd.gradcheck(
        lambda *x: sample(x[0], SHAPES, x[1], x[2]), (value, locations, weights), nondet_tol=1e-12
    )


@pytest.mark.parametrize("sample", [row_sampling.sample, grid_sample])
def test_sampled_values_are_not_kept_for_the_backward_pass(sample):
    value, locations, weights = (x.requires_grad_() for x in inputs(heads=2, dim=64, queries=50))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        sample(value, SHAPES, locations, weights)
    all_sampled = value.shape[0] * 50 * len(SHAPES) * 2 * 2 * 64
    assert sum(x.numel() for x in saved) < 0.5 * all_sampled


def test_unknown_or_missing_backends_say_what_to_do(monkeypatch):
    with pytest.raises(ValueError, match="MS_DEFORM_ATTN_BACKEND.*auto, pytorch, deformops"):
        ms_deform_attn(*_call(), backend="cuda")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="pip install deformops"):
        check_backend("deformops")


def _call():
    value, locations, weights = inputs()
    return value, SHAPES, locations, weights


def test_levels_that_do_not_fit_the_values_are_refused():
    value, locations, weights = inputs()
    with pytest.raises(ValueError, match="have 26 positions, but value is"):
        ms_deform_attn(value, SHAPES[:2], locations, weights)


def test_deformops_agrees_with_pytorch():
    pytest.importorskip("deformops")  # its own eager implementation runs on the CPU
    value, shapes, locations, weights = _call()
    expected = ms_deform_attn(value, shapes, locations, weights, "pytorch")
    torch.testing.assert_close(
        ms_deform_attn(value, shapes, locations, weights, "deformops"), expected
    )


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 5e-2)],
)
def test_backends_agree_on_a_gpu(dtype, tolerance):
    backends = ["pytorch"]
    if importlib.util.find_spec("deformops"):
        backends.append("deformops")
    data = inputs(heads=8, dim=32, queries=40, points=4)
    expected = None
    for device, backend in [("cpu", "pytorch"), *[("cuda", b) for b in backends]]:
        value, locations, weights = (x.detach().to(device) for x in data)
        value, weights = value.to(dtype).requires_grad_(), weights.to(dtype).requires_grad_()
        locations.requires_grad_()
        out = ms_deform_attn(value, SHAPES, locations, weights, backend)
        grads = torch.autograd.grad(out.float().square().sum(), (value, locations, weights))
        got = [x.detach().float().cpu() for x in (out, *grads)]
        if expected is None:
            expected = got
        for a, b in zip(got, expected, strict=True):
            assert (a - b).norm() < tolerance * b.norm(), (device, backend)


def test_layer_starts_as_published():
    # Heads look along eight directions, point p at p pixels, all with the same weight.
    layer = MSDeformAttn(dim=32, num_levels=3, num_heads=8, num_points=4)
    offsets = layer.sampling_offsets.bias.view(8, 3, 4, 2)
    directions = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for head, (x, y) in enumerate(directions):
        for point in range(4):
            expected = torch.tensor([x, y]) * (point + 1.0)
            for level in range(3):
                torch.testing.assert_close(offsets[head, level, point], expected, atol=1e-5, rtol=0)
    assert layer.sampling_offsets.weight.abs().max() == 0
    assert all(p.abs().max() == 0 for p in layer.attention_weights.parameters())


@pytest.mark.parametrize("queries", [5, 4096 + 3])
def test_rows_of_a_table_and_grid_samples_agree_forward_and_backward(queries):
    """CPUs take the first way, GPUs and what is recorded the other."""
    value, locations, weights = (
        x.requires_grad_() for x in inputs(queries=queries, dtype=torch.float64)
    )
    results = []
    for sample in (row_sampling.sample, grid_sample):
        out = sample(value, SHAPES, locations, weights)
        factor = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        grads = torch.autograd.grad((out * factor).sum(), (value, locations, weights))
        results.append((out, *grads))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_positions_that_are_no_numbers_do_not_crash(wrong):
    """A training that diverges is to end with detectron2's message about its loss."""
    value, locations, weights = (x.requires_grad_() for x in inputs())
    with torch.no_grad():
        locations[0, 0, 0, 0, 0] = wrong
    out = ms_deform_attn(value, SHAPES, locations, weights, "pytorch")
    out.sum().backward()
    assert out[1].isfinite().all()

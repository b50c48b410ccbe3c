"""Class maps against the scores of detectron2's post-processing."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling.postprocessing import sem_seg_postprocess
from torch.utils._python_dispatch import TorchDispatchMode

from lrformer.inference.class_map import class_map
from lrformer.ops import resize


def check(logits, stride, size, output_size):
    """The map, after comparing the scores of its classes with the highest ones."""
    enlarged = F.interpolate(
        logits[None], scale_factor=stride, mode="bilinear", align_corners=False
    )[0]
    scores = sem_seg_postprocess(enlarged, size, *output_size)
    found = class_map(logits, stride, size, output_size)
    assert found.dtype == torch.int64 and found.shape == output_size
    chosen = scores.gather(0, found[None])[0]
    torch.testing.assert_close(chosen, scores.amax(0), rtol=1e-5, atol=1e-5)
    return found


@pytest.mark.parametrize("values", [2**10, 2**20])
@pytest.mark.parametrize(
    "shape, stride, size, output_size",
    [
        ((19, 16, 24), 8, (121, 187), (121, 187)),  # padding cut off
        ((19, 16, 24), 8, (121, 187), (253, 391)),  # and enlarged
        ((150, 13, 29), 8, (100, 231), (37, 53)),  # or reduced
        ((5, 1, 1), 32, (17, 30), (40, 41)),
        ((1, 2, 3), 4, (8, 12), (8, 12)),  # nothing to do
    ],
)
@pytest.mark.parametrize("kind", ["noise", "smooth", "ties"])
def test_class_maps_are_the_argmax_of_detectron2s_scores(
    monkeypatch, shape, stride, size, output_size, values, kind
):
    monkeypatch.setitem(resize._BAND_VALUES, "cpu", values)
    torch.manual_seed(0)
    logits = torch.randn(shape)
    if kind == "smooth":  # As trained models': most classes are far from winning.
        logits = 5 * F.avg_pool2d(logits, 3, 1, 1) + 3 * torch.randn(shape[0], 1, 1)
    elif kind == "ties":
        logits = logits.round()
    check(logits, stride, size, output_size)


def test_a_class_that_wins_only_between_the_logits_is_kept():
    logits = torch.zeros(3, 1, 4)
    logits[0, 0] = torch.tensor([10.0, 10, 0, 0])
    logits[1, 0] = torch.tensor([0.0, 0, 10, 10])
    logits[2] = 6  # Highest in the middle, at none of the four.
    assert check(logits, 8, (8, 32), (8, 32)).unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_logit_that_is_not_finite_spoils_its_surroundings_only(value):
    logits = torch.randn(7, 8, 8)
    expected = class_map(logits, 8, (64, 64), (60, 60))
    logits[3, 2, 2] = value
    found = class_map(logits, 8, (64, 64), (60, 60))
    assert torch.equal(found[30:], expected[30:])


def test_the_scores_of_all_classes_never_exist_at_full_size():
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.append(getattr(out, "nbytes", 0))
            return out

    with Sizes():
        class_map(torch.randn(150, 32, 64), 8, (256, 512), (1024, 2048))
    assert max(sizes) <= 8 * 1024 * 2048  # the class map itself

"""Test-time augmentation: what is averaged, at which sizes, and that flips are undone."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from lrformer.inference import SemanticTTA, SlidingWindow


class Pixelwise(nn.Module):
    """The colours themselves as scores: moves with the image, knows no position."""

    def __init__(self):
        super().__init__()
        self.images = []

    def forward(self, batched_inputs):
        outputs = []
        for x in batched_inputs:
            self.images.append(x["image"])
            scores = x["image"].float()[None]
            size = (x["height"], x["width"])
            scores = F.interpolate(scores, size, mode="bilinear", align_corners=False)[0]
            outputs.append({"sem_seg": scores})
        return outputs


class ShortSide(nn.Module):
    """One score, the short side of the input, everywhere."""

    def forward(self, batched_inputs):
        return [
            {"sem_seg": torch.full((1, x["height"], x["width"]), min(x["image"].shape[1:]) * 1.0)}
            for x in batched_inputs
        ]


def make_image(height, width):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def run(tta, image, **size):
    return tta.eval()([{"image": image, **size}])[0]["sem_seg"]


def test_mirroring_changes_nothing_for_a_model_that_moves_with_the_image():
    image = make_image(12, 17)
    tta = SemanticTTA(Pixelwise(), min_sizes=[12], max_size=100, flip=True, softmax=False)
    torch.testing.assert_close(run(tta, image), image.float())


def test_scores_of_the_mirrored_image_are_mirrored_back():
    class Ramp(nn.Module):  # prefers the left of its input, whatever is there
        def forward(self, batched_inputs):
            return [
                {"sem_seg": torch.arange(x["width"]).float().expand(1, x["height"], -1).clone()}
                for x in batched_inputs
            ]

    tta = SemanticTTA(Ramp(), min_sizes=[4], max_size=100, flip=True, softmax=False)
    # Column x of 5: (x + (4 - x)) / 2.
    assert torch.equal(run(tta, make_image(4, 5)), torch.full((1, 4, 5), 2.0))
    tta = SemanticTTA(Ramp(), min_sizes=[4], max_size=100, flip=False, softmax=False)
    assert run(tta, make_image(4, 5))[0, 0].tolist() == [0, 1, 2, 3, 4]


def test_every_size_counts_once_and_the_long_side_is_bounded():
    # 20 x 30: short sides 10, 20 and, because 40 x 60 is too long, 30 x 45.
    tta = SemanticTTA(ShortSide(), min_sizes=[10, 20, 40], max_size=45, softmax=False)
    assert torch.equal(run(tta, make_image(20, 30)), torch.full((1, 20, 30), 20.0))


def test_sizes_are_stretched_up_to_a_multiple():
    # 20 x 30 to 16 x 24, stretched to 32 x 32.
    model = Pixelwise()
    run(SemanticTTA(model, min_sizes=[16], max_size=100, flip=False, align=32), make_image(20, 30))
    assert [tuple(x.shape) for x in model.images] == [(3, 32, 32)]


def test_images_are_resized_as_the_test_mapper_does_it():
    # Pillow filters when it makes an image smaller; a plain interpolation would alias.
    image = make_image(40, 60)
    model = Pixelwise()
    run(SemanticTTA(model, min_sizes=[10], max_size=100, flip=True), image)
    expected = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((15, 10), Image.BILINEAR)
    expected = torch.from_numpy(np.array(expected)).permute(2, 0, 1)
    assert model.images[0].dtype == torch.uint8
    assert torch.equal(model.images[0], expected)
    assert torch.equal(model.images[1], expected.flip(-1))


class TwoLogits(nn.Module):
    """Logits (0, ln 3) at a short side of 8, (0, 0) at any other."""

    def forward(self, batched_inputs):
        outputs = []
        for x in batched_inputs:
            second = math.log(3) if min(x["image"].shape[1:]) == 8 else 0.0
            logits = torch.tensor([0.0, second])[:, None, None]
            outputs.append({"sem_seg": logits.repeat(1, x["height"], x["width"])})
        return outputs


@pytest.mark.parametrize(
    "softmax, expected",
    [
        (True, [0.375, 0.625]),  # the mean of (1/4, 3/4) and (1/2, 1/2)
        (False, [0.0, math.log(3) / 2]),
    ],
)
def test_probabilities_or_scores_are_averaged(softmax, expected):
    tta = SemanticTTA(TwoLogits(), min_sizes=[8, 16], max_size=100, softmax=softmax)
    result = run(tta, make_image(10, 10))
    torch.testing.assert_close(result[:, 3, 7], torch.tensor(expected))


def test_the_result_has_the_size_of_the_image_file():
    tta = SemanticTTA(Pixelwise(), min_sizes=[7, 9], max_size=100)
    assert run(tta, make_image(12, 17), height=24, width=35).shape == (3, 24, 35)


def test_it_runs_around_a_sliding_window():
    image = make_image(21, 33)
    arguments = {"min_sizes": [15, 30], "max_size": 200, "flip": True, "softmax": True}
    sliding = SlidingWindow(Pixelwise(), crop_size=(16, 16), stride=(12, 12))
    result = run(SemanticTTA(sliding, **arguments), image)
    torch.testing.assert_close(result, run(SemanticTTA(Pixelwise(), **arguments), image))


def test_float_images_as_detectron2s_predictor_gives_them():
    image = make_image(12, 17)
    tta = SemanticTTA(Pixelwise(), min_sizes=[7, 20], max_size=100)
    torch.testing.assert_close(run(tta, image.float()), run(tta, image))


def test_what_the_model_returned_is_not_written_to():
    class Cached(nn.Module):
        scores = torch.ones(1, 6, 6)

        def forward(self, batched_inputs):
            return [{"sem_seg": self.scores} for _ in batched_inputs]

    tta = SemanticTTA(Cached(), min_sizes=[6, 8], max_size=100, softmax=False)
    assert torch.equal(run(tta, make_image(6, 6)), torch.ones(1, 6, 6))
    assert torch.equal(Cached.scores, torch.ones(1, 6, 6))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"min_sizes": [], "max_size": 100}, r"TEST.AUG.MIN_SIZES is \[\]"),
        ({"min_sizes": [512, 0], "max_size": 100}, r"TEST.AUG.MIN_SIZES is \[512, 0\]"),
        ({"min_sizes": [512], "max_size": 0}, "TEST.AUG.MAX_SIZE is 0"),
    ],
)
def test_sizes_that_cannot_work_are_refused_by_the_name_of_their_key(arguments, message):
    with pytest.raises(ValueError, match=message):
        SemanticTTA(Pixelwise(), **arguments)

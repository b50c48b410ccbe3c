"""Windows and augmented images: layout, mirroring, averaging, resizing, and what is refused."""

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.evaluation.evaluator import inference_context
from PIL import Image
from torch import nn

from lrformer.inference import SemanticTTA, SlidingWindow


class Windowed(nn.Module):
    """Scores that depend on the pixel, on its place in the window, and on the whole window."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, batched_inputs):
        self.calls.append([tuple(x["image"].shape[-2:]) for x in batched_inputs])
        return [{"sem_seg": self.score(**x)} for x in batched_inputs]

    def score(self, image, height, width):
        place = torch.arange(height * width).reshape(1, height, width) / 7
        return torch.cat([image, place, image.float().mean() + 0 * place])


def make_image(height, width):
    return torch.randint(256, (3, height, width), dtype=torch.uint8)


def slide(model, image, crop, stride, batch_size=1, **x):
    sliding = SlidingWindow(model, crop_size=crop, stride=stride, batch_size=batch_size).eval()
    return sliding([{"image": image, **x}])[0]["sem_seg"]


def slide_by_hand(model, image, crop, stride):
    """mmsegmentation's grid, written out."""
    height, width = image.shape[-2:]
    rows = max(height - crop[0] + stride[0] - 1, 0) // stride[0] + 1
    columns = max(width - crop[1] + stride[1] - 1, 0) // stride[1] + 1
    total, count = torch.zeros(5, height, width, dtype=torch.float64), torch.zeros(height, width)
    for row, column in product(range(rows), range(columns)):
        bottom = min(row * stride[0] + crop[0], height)
        right = min(column * stride[1] + crop[1], width)
        top, left = max(bottom - crop[0], 0), max(right - crop[1], 0)
        window = image[:, top:bottom, left:right]
        total[:, top:bottom, left:right] += model.score(window, bottom - top, right - left)
        count[top:bottom, left:right] += 1
    return total / count


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize(
    "size, crop, stride",
    [
        ((13, 29), (8, 8), (5, 3)),  # the last window is shifted back
        ((16, 24), (8, 8), (4, 8)),  # the grid ends exactly at the border
        ((7, 31), (10, 10), (10, 1)),  # lower than a window
        ((5, 6), (8, 8), (6, 6)),  # smaller than a window both ways
    ],
)
def test_every_pixel_is_the_mean_over_the_windows_that_hold_it(size, crop, stride, batch_size):
    image, model = make_image(*size), Windowed()
    # detectron2's models take "sem_seg" in an input for training labels of the image's size.
    result = slide(model, image, crop, stride, batch_size, sem_seg=torch.zeros(size))
    number = sum(len(call) for call in model.calls)
    assert max(len(call) for call in model.calls) == min(batch_size, number)
    expected = slide_by_hand(model, image, crop, stride)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, rtol=1e-6, atol=1e-5)


def test_the_mean_of_each_image_is_resized_to_the_size_of_its_file():
    images = [make_image(20, 30), make_image(9, 9)]
    sliding = SlidingWindow(Windowed(), crop_size=(8, 8), stride=(8, 8)).eval()
    wholes = sliding([{"image": image} for image in images])
    results = sliding([{"image": image, "height": 41, "width": 23} for image in images])
    for image, whole, result in zip(images, wholes, results, strict=True):
        whole = whole["sem_seg"][None]
        assert whole.shape[2:] == image.shape[1:]
        expected = F.interpolate(whole, size=(41, 23), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(result["sem_seg"], expected)


@pytest.mark.parametrize(
    "output, message",
    [
        ({"instances": []}, "Windowed predicts no 'sem_seg'.*instances.*SEMANTIC_ON"),
        ({"sem_seg": torch.zeros(3, 2, 2)}, "Windowed was asked for .* K x 8 x 8.*3 x 2 x 2"),
    ],
)
def test_a_model_that_does_not_give_what_it_should_is_named(output, message):
    model = Windowed()
    model.register_forward_hook(lambda *_: [output])
    with pytest.raises(ValueError, match=message):
        slide(model, make_image(16, 16), (8, 8), (8, 8))


def test_evaluation_during_training_leaves_the_model_as_it_was():
    # A wrapper that always came back in training mode would switch a frozen model's BatchNorms on.
    for training in (True, False):
        model = Windowed().train(training)
        sliding = SlidingWindow(model, crop_size=(8, 8), stride=(8, 8))
        with inference_context(sliding):
            assert not model.training
        assert model.training is training
    with pytest.raises(RuntimeError, match="eval"):
        sliding.train()([{"image": make_image(8, 8)}])


class Pixelwise(nn.Module):
    """The colours themselves as scores: moves with the image, knows no position."""

    def __init__(self):
        super().__init__()
        self.images = []

    def forward(self, batched_inputs):
        self.images += [x["image"] for x in batched_inputs]
        return [
            {"sem_seg": F.interpolate(x["image"][None].float(), (x["height"], x["width"]))[0]}
            for x in batched_inputs
        ]


class Made(nn.Module):
    """Scores that are a function of the input: of its short side and the size asked for."""

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, batched_inputs):
        return [
            {"sem_seg": self.scores(min(x["image"].shape[1:]), x["height"], x["width"])}
            for x in batched_inputs
        ]


def run(model, image, min_sizes, max_size=100, softmax=False, size=None, **arguments):
    arguments |= {"min_sizes": min_sizes, "max_size": max_size, "softmax": softmax}
    return SemanticTTA(model, **arguments).eval()([{"image": image, **(size or {})}])[0]["sem_seg"]


def test_scores_of_the_mirrored_image_are_mirrored_back():
    # Column x of 5: (x + (4 - x)) / 2.
    image, columns = make_image(4, 5), Made(lambda _, h, w: torch.arange(w).expand(1, h, w) / 1)
    assert torch.equal(run(columns, image, [4], flip=True), torch.full((1, 4, 5), 2.0))
    assert run(columns, image, [4], flip=False)[0, 0].tolist() == [0, 1, 2, 3, 4]


def test_every_size_counts_once_and_the_long_side_is_bounded():
    # 20 x 30: short sides 10, 20 and, because 40 x 60 is too long, 30 x 45.
    model = Made(lambda side, h, w: torch.full((1, h, w), float(side)))
    file = {"height": 24, "width": 35}  # of which the result has the size
    found = run(model, make_image(20, 30), [10, 20, 40], max_size=45, size=file)
    assert torch.equal(found, torch.full((1, 24, 35), 20.0))


def test_images_are_resized_as_the_test_mapper_does_it():
    # Pillow filters when it makes an image smaller; a plain interpolation would alias.
    image, model = make_image(40, 60), Pixelwise()
    found = run(model, image, [10], flip=True)
    expected = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((15, 10), Image.BILINEAR)
    expected = torch.from_numpy(np.array(expected)).permute(2, 0, 1)
    assert torch.equal(model.images[0], expected)
    assert torch.equal(model.images[1], expected.flip(-1))
    # Floats, as detectron2's predictor gives them, are the same image.
    torch.testing.assert_close(run(Pixelwise(), image.float(), [10], flip=True), found)


@pytest.mark.parametrize(
    "softmax, expected",
    [
        (True, [0.375, 0.625]),  # the mean of (1/4, 3/4) and (1/2, 1/2)
        (False, [0.0, math.log(3) / 2]),
    ],
)
def test_probabilities_or_scores_are_averaged(softmax, expected):
    logits = {8: torch.tensor([0, math.log(3)]), 16: torch.zeros(2)}
    model = Made(lambda side, h, w: logits[side].view(2, 1, 1).repeat(1, h, w))
    found = run(model, make_image(10, 10), [8, 16], softmax=softmax)
    torch.testing.assert_close(found[:, 3, 7], torch.tensor(expected))


@pytest.mark.parametrize("memory", [1, 5 * 4 * 8 * 12, 2**28])  # strips of 8, 12 and all columns
@pytest.mark.parametrize(
    "size, crop, stride",
    [((13, 29), (8, 8), (5, 3)), ((16, 24), (8, 8), (4, 8)), ((5, 6), (8, 8), (6, 6))],
)
def test_large_images_have_the_class_of_the_highest_mean(size, crop, stride, memory):
    # Colours, places in the window and the windows' means all win somewhere.
    image, model = 8 * torch.rand(3, *size), Windowed()
    classes = np.full(size, 99, np.uint8)
    windows = SlidingWindow(model, crop_size=crop, stride=stride, batch_size=2).eval()
    windows.write_class_map(
        classes, lambda y, x, h, w: image[:, y : y + h, x : x + w], memory=memory
    )
    expected = slide_by_hand(model, image, crop, stride).argmax(0)
    assert len(expected.unique()) >= 4
    assert np.array_equal(classes, expected)

"""Sliding-window inference: layout, averaging, resizing, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.evaluation.evaluator import inference_context
from torch import nn

from lrformer.inference import SlidingWindow


class Windowed(nn.Module):
    """Scores that depend on the pixel, on its place in the window, and on the whole window."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, batched_inputs):
        self.calls.append([tuple(x["image"].shape[-2:]) for x in batched_inputs])
        outputs = []
        for x in batched_inputs:
            image = x["image"].float()
            assert (x["height"], x["width"]) == tuple(image.shape[-2:])
            height, width = image.shape[-2:]
            place = torch.arange(height * width).reshape(1, height, width) / 7
            outputs.append({"sem_seg": torch.cat([image, place, image.mean() + 0 * place])})
        return outputs


def make_image(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def slide_by_hand(model, image, crop, stride):
    """mmsegmentation's grid, written out pixel by pixel."""
    height, width = image.shape[-2:]
    rows = max(height - crop[0] + stride[0] - 1, 0) // stride[0] + 1
    columns = max(width - crop[1] + stride[1] - 1, 0) // stride[1] + 1
    values = [[[] for _ in range(width)] for _ in range(height)]
    for row in range(rows):
        for column in range(columns):
            bottom = min(row * stride[0] + crop[0], height)
            right = min(column * stride[1] + crop[1], width)
            top, left = max(bottom - crop[0], 0), max(right - crop[1], 0)
            window = image[:, top:bottom, left:right]
            size = {"height": bottom - top, "width": right - left}
            scores = model([{"image": window, **size}])[0]["sem_seg"]
            for y in range(top, bottom):
                for x in range(left, right):
                    values[y][x].append(scores[:, y - top, x - left].double())
    pixels = [torch.stack(cell).mean(dim=0) for line in values for cell in line]
    return torch.stack(pixels, dim=1).reshape(-1, height, width)


@pytest.mark.parametrize(
    "size, crop, stride",
    [
        ((13, 29), (8, 8), (5, 3)),  # the last window is shifted back
        ((16, 24), (8, 8), (4, 8)),  # the grid ends exactly at the border
        ((17, 9), (8, 9), (8, 9)),  # windows that do not overlap, but for the last
        ((7, 31), (10, 10), (10, 1)),  # lower than a window
        ((5, 6), (8, 8), (6, 6)),  # smaller than a window both ways
        ((1, 12), (4, 5), (4, 5)),
    ],
)
def test_every_pixel_is_the_mean_over_the_windows_that_hold_it(size, crop, stride):
    image, model = make_image(*size), Windowed()
    expected = slide_by_hand(model, image, crop, stride)
    sliding = SlidingWindow(model, crop_size=crop, stride=stride).eval()
    result = sliding([{"image": image, "height": size[0], "width": size[1]}])[0]["sem_seg"]
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, rtol=1e-6, atol=1e-5)


def test_an_image_smaller_than_the_window_is_seen_whole_and_once():
    model = Windowed()
    SlidingWindow(model, crop_size=(64, 64), stride=(32, 32)).eval()([{"image": make_image(9, 50)}])
    assert model.calls == [[(9, 50)]]


def test_windows_are_batched_without_changing_the_result():
    image = make_image(21, 34)
    results = []
    for batch_size in (1, 3, 100):
        model = Windowed()
        sliding = SlidingWindow(model, crop_size=(8, 8), stride=(6, 6), batch_size=batch_size)
        results.append(sliding.eval()([{"image": image}])[0]["sem_seg"])
        # 4 rows and 6 columns of windows
        assert sum(len(call) for call in model.calls) == 24
        assert max(len(call) for call in model.calls) == min(batch_size, 24)
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])


def test_the_mean_is_resized_to_the_size_of_the_image_file():
    image = make_image(20, 30)
    sliding = SlidingWindow(Windowed(), crop_size=(8, 8), stride=(8, 8)).eval()
    whole = sliding([{"image": image}])[0]["sem_seg"]
    result = sliding([{"image": image, "height": 41, "width": 23}])[0]["sem_seg"]
    expected = F.interpolate(whole[None], size=(41, 23), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(result, expected)


def test_each_image_of_a_batch_has_its_own_windows_and_labels_are_not_passed_on():
    images = [make_image(12, 20, seed=1), make_image(9, 9, seed=2)]
    sliding = SlidingWindow(Windowed(), crop_size=(8, 8), stride=(4, 4)).eval()
    # detectron2's models take "sem_seg" in an input for training labels of the image's size.
    inputs = [{"image": x, "sem_seg": torch.zeros(x.shape[-2:]), "file_name": "x"} for x in images]
    together = sliding(inputs)
    for image, output in zip(images, together, strict=True):
        torch.testing.assert_close(output["sem_seg"], sliding([{"image": image}])[0]["sem_seg"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"crop_size": (8, 8), "stride": (9, 8)}, r"STRIDE \[9, 8\] is larger than CROP_SIZE"),
        ({"crop_size": (0, 8), "stride": (0, 8)}, r"CROP_SIZE is \[0, 8\]"),
        ({"crop_size": (8, 8), "stride": (8, -1)}, r"STRIDE is \[8, -1\]"),
        ({"crop_size": (8, 8, 8), "stride": (8, 8)}, r"CROP_SIZE is \[8, 8, 8\]"),
        ({"crop_size": (8, 8), "stride": (8, 8), "batch_size": 0}, "BATCH_SIZE is 0"),
    ],
)
def test_sizes_that_cannot_work_are_refused_by_the_name_of_their_key(arguments, message):
    with pytest.raises(ValueError, match="TEST.SLIDING_WINDOW." + message):
        SlidingWindow(Windowed(), **arguments)


def test_a_model_that_does_not_segment_is_named():
    class Detector(nn.Module):
        def forward(self, batched_inputs):
            return [{"instances": []} for _ in batched_inputs]

    sliding = SlidingWindow(Detector(), crop_size=(8, 8), stride=(8, 8)).eval()
    with pytest.raises(ValueError, match="Detector predicts no 'sem_seg'.*instances.*SEMANTIC_ON"):
        sliding([{"image": make_image(8, 8)}])


def test_a_model_that_returns_its_own_stride_is_named():
    class Strided(nn.Module):
        def forward(self, batched_inputs):
            return [{"sem_seg": x["image"][:, ::4, ::4].float()} for x in batched_inputs]

    sliding = SlidingWindow(Strided(), crop_size=(8, 8), stride=(8, 8)).eval()
    with pytest.raises(ValueError, match="Strided was asked for 'sem_seg' of K x 8 x 8.*3 x 2 x 2"):
        sliding([{"image": make_image(16, 16)}])


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

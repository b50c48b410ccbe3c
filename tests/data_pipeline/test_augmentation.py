"""Sizes and values that the augmentations give, against hand-worked cases and other libraries."""

import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.utils.env import seed_all_rng
from PIL import Image

from lrformer.data.augmentation import (
    ContiguousFlip,
    ResizeAligned,
    ResizeInRatioRange,
    ResizeShortestEdge,
    ResizeThenCrop,
    resize_and_crop,
)


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("augmentation", "image", "expected"),
    [
        # scale = min(2048 r / long side, 512 r / short side), sides rounded half up
        (ResizeInRatioRange(512, 2048, (1.0, 1.0)), (480, 640), (512, 683)),
        (ResizeInRatioRange(512, 2048, (2.0, 2.0)), (640, 480), (1365, 1024)),
        (ResizeInRatioRange(512, 2048, (1.0, 1.0)), (100, 1000), (205, 2048)),  # long side binds
        (ResizeInRatioRange(512, 2048, (0.1, 0.1)), (1, 4000), (1, 205)),  # a side never vanishes
        (ResizeShortestEdge([64], 256, "choice"), (1, 2000), (1, 256)),  # nor here: 0.1 rows
        (ResizeShortestEdge([64], 256, "choice"), (2000, 2), (256, 1)),
        (ResizeAligned(64, 256, 32), (1, 2000), (32, 256)),
        # as ResizeShortestEdge, then up to a multiple of 32
        (ResizeAligned(512, 2048, 32), (360, 480), (512, 704)),  # 512 x 683
        (ResizeAligned(512, 2048, 32), (480, 360), (704, 512)),
        (ResizeAligned(512, 2048, 32), (300, 3000), (224, 2048)),  # 205 x 2048
        (ResizeAligned(0, 2048, 32), (100, 130), (128, 160)),  # the stretch alone
    ],
)
def test_sizes_of_resized_images(augmentation, image, expected):
    inputs = T.AugInput(np.zeros((*image, 3), dtype=np.uint8))
    augmentation(inputs)
    assert inputs.image.shape[:2] == expected


def test_random_resize_draws_from_its_whole_range():
    resize, image = ResizeInRatioRange(512, 2048, (0.5, 2.0)), np.zeros((512, 512, 3), np.uint8)
    sides = [resize.get_transform(image).new_h for _ in range(500)]
    assert 256 <= min(sides) < 290 and 990 < max(sides) <= 1024


def test_aligned_resize_interpolates_once():
    image = noise(90, 130)
    expected = np.asarray(Image.fromarray(image).resize((160, 96), Image.BILINEAR))
    inputs = T.AugInput(image)
    ResizeAligned(96, 2048, 32)(inputs)
    np.testing.assert_array_equal(inputs.image, expected)


# --- faster than detectron2's, and the same (whole samples are compared in test_mappers.py)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((40, 60), (80, 120)),
        ((40, 60), (97, 131)),  # no common divisor
        ((97, 131), (40, 60)),
        ((150, 200), (33, 44)),
        ((40, 60), (40, 90)),  # one pass only
        ((40, 60), (70, 60)),
        ((40, 60), (40, 60)),
    ],
)
def test_a_crop_of_a_resized_image_has_its_very_pixels(old, new):
    image = noise(*old)
    resize = T.ResizeTransform(*old, *new, Image.BILINEAR)
    whole = np.asarray(Image.fromarray(image).resize(new[::-1], Image.BILINEAR))
    for height, width in ((1, 1), (16, 32), (33, 44), new):
        for y in {0, 1, (new[0] - height) // 2, new[0] - height} - {-1}:
            for x in {0, 1, (new[1] - width) // 2, new[1] - width}:
                if y + height <= new[0] and x + width <= new[1]:
                    crop = T.CropTransform(x, y, width, height)
                    expected = whole[y : y + height, x : x + width]
                    np.testing.assert_array_equal(resize_and_crop(image, resize, crop), expected)


@pytest.mark.parametrize("channels", [0, slice(1)])
def test_grey_images_are_cropped_and_flipped_too(channels):
    image = noise(30, 40)[..., channels]
    resize, crop = T.ResizeTransform(30, 40, 50, 70), T.CropTransform(21, 9, 30, 40)
    expected = resize.apply_image(image)[9:49, 21:51]
    np.testing.assert_array_equal(resize_and_crop(image, resize, crop), expected)
    flip = ContiguousFlip(prob=1.0).get_transform(image)
    np.testing.assert_array_equal(flip.apply_image(image), image[:, ::-1])


def test_a_resize_to_nothing_leaves_the_crop():
    # INPUT.MIN_SIZE_TRAIN (0,) keeps the image's size.
    resize, crop = T.ResizeShortestEdge([0], 100, "choice"), T.RandomCrop("absolute", (10, 20))
    image = noise(30, 40)
    seed_all_rng(0)
    inputs = T.AugInput(image, sem_seg=image[..., 0])
    crop = ResizeThenCrop(resize, crop)(inputs).transforms[-1]
    expected = image[crop.y0 : crop.y0 + 10, crop.x0 : crop.x0 + 20]
    np.testing.assert_array_equal(inputs.image, expected)
    np.testing.assert_array_equal(inputs.sem_seg, expected[..., 0])

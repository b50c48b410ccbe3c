"""Sizes and values that the augmentations give, against hand-worked cases and other libraries."""

import colorsys
import random

import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from detectron2.utils.env import seed_all_rng
from PIL import Image

from lrformer.data.augmentation import ResizeAligned, ResizeInRatioRange
from lrformer.data.fused_augmentation import (
    ContiguousFlip,
    PhotometricDistortion,
    RandomCropOfSeveralClasses,
    ResizeThenCrop,
    resize_and_crop,
)


def output_size(augmentation: T.Augmentation, height: int, width: int) -> tuple[int, int]:
    image = np.zeros((height, width, 3), dtype=np.uint8)
    return augmentation(T.AugInput(image)).apply_image(image).shape[:2]


@pytest.mark.parametrize(
    ("image", "ratio", "expected"),
    [
        # scale = min(2048 r / long side, 512 r / short side), sides rounded half up
        ((480, 640), 1.0, (512, 683)),
        ((480, 640), 0.5, (256, 341)),
        ((640, 480), 2.0, (1365, 1024)),
        ((100, 1000), 1.0, (205, 2048)),  # the long side binds
        ((1, 4000), 0.1, (1, 205)),  # a side never vanishes
    ],
)
def test_random_resize_keeps_both_bounds(image, ratio, expected):
    assert output_size(ResizeInRatioRange(512, 2048, (ratio, ratio)), *image) == expected


def test_random_resize_covers_its_whole_range():
    seed_all_rng(0)
    resize = ResizeInRatioRange(512, 2048, (0.5, 2.0))
    image = np.zeros((512, 512, 3), dtype=np.uint8)
    sides = [resize.get_transform(image).new_h for _ in range(500)]
    assert min(sides) >= 256
    assert max(sides) <= 1024
    assert min(sides) < 280
    assert max(sides) > 1000
    assert np.mean(sides) == pytest.approx(640, abs=25)  # uniform


def test_random_resize_makes_no_new_labels():
    seed_all_rng(0)
    values = np.array([0, 7, 255], dtype=np.uint8)
    label = np.random.default_rng(0).choice(values, (50, 70))
    inputs = T.AugInput(np.zeros((50, 70, 3), dtype=np.uint8), sem_seg=label)
    ResizeInRatioRange(64, 256, (0.5, 2.0))(inputs)
    assert inputs.sem_seg.shape == inputs.image.shape[:2]
    assert set(np.unique(inputs.sem_seg)) <= {0, 7, 255}


@pytest.mark.parametrize(
    ("image", "short_edge", "long_edge", "expected"),
    [
        ((360, 480), 512, 2048, (512, 704)),  # 512 x 683, then up
        ((480, 360), 512, 2048, (704, 512)),
        ((512, 512), 512, 2048, (512, 512)),
        ((300, 3000), 512, 2048, (224, 2048)),  # 205 x 2048, then up
        ((100, 130), 0, 2048, (128, 160)),  # no resize but the stretch
    ],
)
def test_aligned_resize_stretches_up_to_a_multiple_of_32(image, short_edge, long_edge, expected):
    assert output_size(ResizeAligned(short_edge, long_edge, 32), *image) == expected


def test_aligned_resize_interpolates_once():
    image = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((160, 96), Image.BILINEAR))
    inputs = T.AugInput(image)
    ResizeAligned(96, 2048, 32)(inputs)
    np.testing.assert_array_equal(inputs.image, expected)


def test_detectron2_crop_counts_labelled_pixels_only(monkeypatch):
    # Nineteen of twenty pixels are unlabelled, the rest is half and half: the first draw stands.
    label = np.full((200, 200), 255, dtype=np.uint8)
    label[:, ::20] = 1
    label[::2, ::20] = 2
    draws = []
    monkeypatch.setattr(np.random, "randint", lambda high: draws.append(high) or 0)
    crop = T.RandomCrop_CategoryAreaConstraint("absolute", (100, 100), 0.75, 255)
    crop.get_transform(np.zeros((200, 200, 3), dtype=np.uint8), label)
    assert draws == [101, 101]


def test_detectron2_crop_avoids_a_dominant_class():
    # 16 of the 449 crops are more than a quarter class 1: one draw finds one of them with a
    # probability of 0.036, ten draws with 0.30.
    label = np.zeros((64, 512), dtype=np.uint8)
    label[:, -32:] = 1
    crop = T.RandomCrop_CategoryAreaConstraint("absolute", (64, 64), 0.75, 255)
    image = np.zeros((64, 512, 3), dtype=np.uint8)
    seed_all_rng(0)
    transforms = [crop.get_transform(image, label) for _ in range(400)]
    mixed = [t.apply_segmentation(label).mean() > 0.25 for t in transforms]
    assert np.mean(mixed) == pytest.approx(0.30, abs=0.07)


def test_detectron2_crop_takes_a_small_image_whole():
    image = np.zeros((40, 100, 3), dtype=np.uint8)
    crop = T.RandomCrop_CategoryAreaConstraint("absolute", (64, 64), 0.75, 255)
    transform = crop.get_transform(image, np.zeros((40, 100), dtype=np.uint8))
    assert transform.apply_image(image).shape == (40, 64, 3)


@pytest.mark.parametrize("delta", [-18, 18])
def test_detectron2_photometric_distortion_wraps_the_hue(monkeypatch, delta):
    monkeypatch.setattr(random, "randrange", lambda _: 1)
    monkeypatch.setattr(random, "randint", lambda low, high: delta)
    red = np.zeros((2, 2, 3), dtype=np.uint8)
    red[..., 2] = 255  # BGR
    changed = ColorAugSSDTransform(img_format="BGR").hue(red)[0, 0, ::-1]
    # OpenCV's 8-bit hue counts in steps of 2 degrees.
    expected = np.multiply(colorsys.hsv_to_rgb((2 * delta % 360) / 360, 1, 1), 255)
    np.testing.assert_allclose(changed, expected, atol=2)


def test_detectron2_photometric_distortion_clips_instead_of_overflowing(monkeypatch):
    monkeypatch.setattr(random, "randrange", lambda _: 1)
    distort = ColorAugSSDTransform(img_format="RGB")
    bright = np.full((2, 2, 3), 240, dtype=np.uint8)
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    assert (distort.brightness(bright) == 255).all()
    assert (distort.contrast(bright) == 255).all()
    monkeypatch.setattr(random, "uniform", lambda low, high: low)
    assert (distort.brightness(bright // 12) == 0).all()  # 20 - 32


# --- faster than detectron2's, and the same


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


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


@pytest.mark.parametrize(
    ("image", "interp"),
    [
        (noise(30, 40), Image.BICUBIC),
        (noise(30, 40)[..., :1], Image.BILINEAR),
        (noise(30, 40)[..., 0], Image.BILINEAR),
        (noise(30, 40) / 255, Image.BILINEAR),
        (noise(30, 40)[..., ::-1], Image.BILINEAR),
    ],
)
def test_other_images_and_interpolations_are_cropped_too(image, interp):
    resize, crop = T.ResizeTransform(30, 40, 50, 70, interp), T.CropTransform(21, 9, 30, 40)
    expected = resize.apply_image(image)[9:49, 21:51]
    np.testing.assert_array_equal(resize_and_crop(image, resize, crop), expected)


def test_a_resize_to_nothing_leaves_the_crop():
    # INPUT.MIN_SIZE_TRAIN (0,) keeps the image's size.
    both = ResizeThenCrop(
        T.ResizeShortestEdge([0], 100, "choice"), T.RandomCrop("absolute", (10, 20))
    )
    image, label = noise(30, 40), noise(30, 40)[..., 0]
    seed_all_rng(0)
    inputs = T.AugInput(image, sem_seg=label, boxes=np.array([[5.0, 6, 30, 28]]))
    crop = both(inputs).transforms[-1]
    there = np.s_[crop.y0 : crop.y0 + 10, crop.x0 : crop.x0 + 20]
    np.testing.assert_array_equal(inputs.image, image[there])
    np.testing.assert_array_equal(inputs.sem_seg, label[there])
    np.testing.assert_array_equal(inputs.boxes[0, :2], [5 - crop.x0, 6 - crop.y0])


def test_boxes_follow_the_resize_and_the_crop():
    resize = T.ResizeShortestEdge([60], 100, "choice")
    inputs = T.AugInput(noise(30, 40), boxes=np.array([[5.0, 6, 30, 28]]))
    crop = ResizeThenCrop(resize, T.RandomCrop("absolute", (20, 20)))(inputs).transforms[-1]
    expected = np.array([[10, 12, 60, 56]]) - [crop.x0, crop.y0, crop.x0, crop.y0]
    np.testing.assert_array_equal(inputs.boxes, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("ignored", [255, 2, None, 65535])
def test_crops_are_drawn_again_as_often_as_detectron2_does(dtype, ignored):
    crops = []
    for kind in (T.RandomCrop_CategoryAreaConstraint, RandomCropOfSeveralClasses):
        augmentation = kind("absolute", (12, 12), 0.6, ignored)
        rng = np.random.default_rng(0)
        seed_all_rng(0)
        crops.append([])
        for _ in range(100):
            # Blocks of mostly one label, so that some crops pass at once and some never.
            coarse = rng.choice([0, 1, 2, 255], (6, 6), p=rng.dirichlet([0.3] * 4))
            label = coarse.repeat(8, 0).repeat(8, 1).astype(dtype)
            crop = augmentation.get_transform(label[..., None], label)
            crops[-1].append((crop.x0, crop.y0, crop.w, crop.h))
    assert crops[0] == crops[1]


def test_an_image_flipped_is_copied_as_fast_as_another():
    image = noise(30, 40)
    flip = ContiguousFlip(prob=1.0).get_transform(image)
    grey = image[..., 0]
    for array in (image, image[..., ::-1], image[5:20], grey, np.asfortranarray(grey), image / 2):
        np.testing.assert_array_equal(flip.apply_image(array), array[:, ::-1])
    assert flip.apply_image(image).flags.c_contiguous
    np.testing.assert_array_equal(flip.apply_coords(np.array([[1.0, 2.0]])), [[39, 2]])
    flip = ContiguousFlip(prob=1.0, horizontal=False, vertical=True).get_transform(image)
    np.testing.assert_array_equal(flip.apply_image(image), image[::-1])


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_photometric_distortion_is_point_rends(order):
    # Every third value of each channel, and the last.
    values = np.arange(0, 256, 3, dtype=np.uint8)
    image = np.stack(np.meshgrid(values, values, values), -1).reshape(-1, 4 * values.size, 3)
    ours, theirs = PhotometricDistortion(order), ColorAugSSDTransform(img_format=order)
    for seed in range(24):
        found = []
        for transform in (theirs, ours):
            random.seed(seed)
            found.append((transform.apply_image(image), random.random()))
        np.testing.assert_array_equal(found[0][0], found[1][0])
        assert found[0][1] == found[1][1]

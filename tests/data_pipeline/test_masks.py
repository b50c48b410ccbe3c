"""Annotations as COCO's own tools understand them."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import transforms as T

from lrformer.data import DatasetError
from lrformer.data.masks import number_segments, object_mask, transform_numbers
from lrformer.data.reading import read_panoptic


def test_ids_are_read_from_three_bytes(tmp_path, save):
    # By hand: 3 + 256 * 2 + 65536 * 1 = 66051.
    pixels = np.array([[[3, 2, 1], [255, 0, 0]], [[0, 1, 0], [255, 255, 255]]], np.uint8)
    ids = read_panoptic(save(tmp_path / "map.png", pixels))
    assert ids.tolist() == [[66051, 255], [256, 16777215]]


def test_a_transparent_channel_is_no_part_of_the_id(tmp_path, save):
    ids = read_panoptic(save(tmp_path / "map.png", np.array([[[1, 1, 0, 9]]], np.uint8)))
    assert ids.tolist() == [[257]]


def test_segments_are_numbered_as_they_are_listed():
    ids = np.array([[7, 7, 0], [300, 7, 1]], np.int32)
    segments = [{"id": 300}, {"id": 1}, {"id": 7}]
    numbers = number_segments(ids, segments, "map.png")
    assert numbers.dtype == np.uint8
    assert numbers.tolist() == [[3, 3, 0], [1, 3, 2]]


def test_random_maps_are_numbered_like_a_dictionary_does():
    rng = np.random.default_rng(0)
    for count in (1, 7, 255, 256, 900):
        listed = rng.choice(2**24 - 1, count, replace=False) + 1
        ids = rng.permutation(np.concatenate([listed, rng.choice([0, *listed], 3 * count)]))
        ids = ids.reshape(4, -1).astype(np.int32)
        place = {0: 0} | {int(i): n for n, i in enumerate(listed, 1)}
        numbers = number_segments(ids, [{"id": int(i)} for i in listed], "map.png")
        np.testing.assert_array_equal(numbers, np.vectorize(place.get)(ids))


def test_a_map_of_nothing():
    assert not number_segments(np.zeros((3, 4), np.int32), [], "map.png").any()
    with pytest.raises(DatasetError, match=r"map\.png: found segment 2, 9, which"):
        number_segments(np.array([[2, 0, 9]], np.int32), [], "map.png")
    with pytest.raises(DatasetError, match=r"lists segment 5, of which the map has no pixel"):
        number_segments(np.zeros((3, 4), np.int32), [{"id": 5}], "map.png")


def test_numbers_take_the_same_pixel_however_many_there_are():
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 200, (37, 53)).astype(np.uint8)
    resize = T.ResizeTransform(37, 53, 61, 40)
    crop, flip = T.CropTransform(5, 9, 30, 44), T.HFlipTransform(30)
    transforms = T.TransformList([resize, crop, flip])
    small = transform_numbers(numbers, transforms)
    large = transform_numbers(numbers.astype(np.int32) * 300, transforms)
    np.testing.assert_array_equal(large, small.astype(np.int32) * 300)


def test_masks_are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    size = (50, 70)
    for _ in range(20):
        polygons = [
            (rng.random((6, 2)) * [70, 50]).ravel().tolist() for _ in range(rng.integers(1, 4))
        ]
        rle = mask_util.merge(mask_util.frPyObjects(polygons, *size))
        drawn = object_mask({"segmentation": polygons}, "a.jpg", size)
        decoded = object_mask({"segmentation": rle}, "a.jpg", size)
        assert drawn.sum() == decoded.sum() == mask_util.area(rle)
        np.testing.assert_array_equal(drawn, mask_util.decode(rle))
        np.testing.assert_array_equal(decoded, mask_util.decode(rle))


def test_run_lengths_of_any_length_are_taken():
    # Long runs take several characters, falling ones a sign.
    rng = np.random.default_rng(2)
    for height, width in ((1, 1), (3, 1000), (700, 900)):
        for share in (0.0, 0.001, 0.5, 1.0):
            mask = np.asfortranarray(rng.random((height, width)) < share, dtype=np.uint8)
            rle = mask_util.encode(mask)
            rle["counts"] = rle["counts"].decode()
            decoded = object_mask({"segmentation": rle}, "a.jpg", (height, width))
            np.testing.assert_array_equal(decoded, mask)


def test_cropped_polygons_are_crops_of_the_whole():
    rng = np.random.default_rng(1)
    for _ in range(20):
        x, y = rng.integers(0, 30), rng.integers(0, 20)
        polygon = [(rng.random((7, 2)) * [70, 50]).ravel().tolist()]
        whole = object_mask({"segmentation": polygon}, "a.jpg", (50, 70))
        transforms = T.TransformList([T.CropTransform(x, y, 40, 30), T.HFlipTransform(40)])
        cropped = object_mask({"segmentation": polygon}, "a.jpg", (50, 70), transforms, (30, 40))
        expected = whole[y : y + 30, x : x + 40][:, ::-1]
        # pycocotools rounds corners to a fifth of a pixel, to the other side once mirrored.
        assert (cropped != expected).mean() < 0.02


def test_annotations_are_not_changed():
    polygon = [1.0, 1.0, 5.0, 1.0, 5.0, 5.0]
    annotation = {"segmentation": [polygon]}
    transforms = T.TransformList([T.CropTransform(1, 1, 4, 4)])
    for _ in range(2):
        object_mask(annotation, "a.jpg", (8, 8), transforms, (4, 4))
    assert annotation == {"segmentation": [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0]]}


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        [[]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [["a", 2, 3, 4, 5, 6]],
        [[float("nan")] * 6],
        [[1, 1, 5, 5]],
        [[5]],
        {"counts": "abc"},
        {"size": [8, 8], "counts": [60]},
        {"size": [8, 8], "counts": None},
        {"size": [8, 8], "counts": "\x00"},
        {"size": [8, 8], "counts": ""},
        {"size": [8, 8], "counts": ":"},  # 10 of 64 pixels
        "polygon",
        5,
    ],
)
def test_nonsense_names_the_image(segmentation):
    with pytest.raises(DatasetError, match=r"^a\.jpg: the segmentation of an object \(category_id"):
        object_mask({"category_id": 3, "segmentation": segmentation}, "a.jpg", (8, 8))

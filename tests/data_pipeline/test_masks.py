"""Annotations as COCO's own tools understand them."""

import numpy as np
import pycocotools.mask as mask_util
import pytest

from lrformer.data import DatasetError
from lrformer.data.masks import number_segments, object_mask
from lrformer.data.reading import read_panoptic


def test_ids_are_read_from_three_bytes(tmp_path, save):
    # By hand: 3 + 256 * 2 + 65536 * 1 = 66051.
    pixels = np.array([[[3, 2, 1], [255, 0, 0]], [[0, 1, 0], [255, 255, 255]]], np.uint8)
    expected = [[66051, 255], [256, 16777215]]
    assert read_panoptic(save(tmp_path / "map.png", pixels)).tolist() == expected
    transparent = np.concatenate([pixels, np.full((2, 2, 1), 9, np.uint8)], -1)
    assert read_panoptic(save(tmp_path / "map.png", transparent)).tolist() == expected
    with pytest.raises(DatasetError, match=r"grey\.png: .* is an RGB image.* mode is L"):
        read_panoptic(save(tmp_path / "grey.png", pixels[..., 0]))


def test_maps_are_numbered_like_a_dictionary_does():
    ids = np.array([[7, 7, 0], [300, 7, 1]], np.int32)
    numbers = number_segments(ids, [{"id": 300}, {"id": 1}, {"id": 7}], "map.png")
    assert numbers.dtype == np.uint8 and numbers.tolist() == [[3, 3, 0], [1, 3, 2]]
    rng = np.random.default_rng(0)
    for count in (1, 7, 255, 256, 900):
        listed = rng.choice(2**24 - 1, count, replace=False) + 1
        ids = rng.permutation(np.concatenate([listed, rng.choice([0, *listed], 3 * count)]))
        ids = ids.reshape(4, -1).astype(np.int32)
        place = {0: 0} | {int(i): n for n, i in enumerate(listed, 1)}
        numbers = number_segments(ids, [{"id": int(i)} for i in listed], "map.png")
        np.testing.assert_array_equal(numbers, np.vectorize(place.get)(ids))
    assert not number_segments(np.zeros((3, 4), np.int32), [], "map.png").any()


@pytest.mark.parametrize(
    ("ids", "listed", "message"),
    [
        ([[2, 0, 9]], [], "found segment 2, 9, which"),
        ([[0, 0]], [5], "lists segment 5, of which the map has no pixel"),
        ([[5, 0]], [5, 5], "lists segment 5 twice"),
    ],
)
def test_a_map_and_a_list_that_differ_are_named(ids, listed, message):
    with pytest.raises(DatasetError, match=rf"^map\.png: .*{message}"):
        number_segments(np.array(ids, np.int32), [{"id": i} for i in listed], "map.png")


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


@pytest.mark.parametrize(
    "segmentation",
    [None, [], [[]], [[1, 1, 5, 5]], [[*range(7)]], [["a", 2, 3, 4, 5, 6]], [[np.nan] * 6], "text"],
)
def test_what_is_no_polygon_names_the_image(segmentation):
    named = r"^a\.jpg: the segmentation of an object \(category_id 3"
    with pytest.raises(DatasetError, match=named):
        object_mask({"category_id": 3, "segmentation": segmentation}, "a.jpg", (8, 8))


# The last is 10 of 64 pixels: pycocotools would read beyond them.
@pytest.mark.parametrize("counts", [[60], None, "abc", "\x00", "", ":"])
def test_run_lengths_that_do_not_fill_the_image_name_it(counts):
    annotation = {"segmentation": {"size": [8, 8], "counts": counts}}
    with pytest.raises(DatasetError, match=r"^a\.jpg: the segmentation of an object"):
        object_mask(annotation, "a.jpg", (8, 8))

"""Ground truth of COCO's instance and panoptic annotations."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from lrformer.data import DatasetError
from lrformer.visualization.truth import read_truth

METADATA = MetadataCatalog.get("truth_test_empty")


def read_instances(*annotations, size=(6, 8)):
    record = {"file_name": "street.jpg", "annotations": list(annotations)}
    return read_truth(record, "instances", size, METADATA)


def test_polygons_and_both_kinds_of_run_length_encoding():
    expected = np.zeros((6, 8), bool)
    expected[1:4, 2:6] = True
    # Column by column: 2 x 6 + 1 zeros, then 3 ones and 3 zeros in turn.
    counts = [13, 3, 3, 3, 3, 3, 3, 3, 14]
    for segmentation in (
        [[2, 1, 6, 1, 6, 4, 2, 4]],
        {"size": [6, 8], "counts": counts},
        mask_util.encode(np.asfortranarray(expected.astype(np.uint8))),
    ):
        (segment,) = read_instances({"segmentation": segmentation, "category_id": 5})
        assert np.array_equal(segment.mask, expected)
        assert segment.label == 5 and segment.thing and segment.score is None


def test_parts_of_an_object_crowds_and_what_has_no_mask():
    parts = [[0, 0, 2, 0, 2, 2, 0, 2], [5, 3, 8, 3, 8, 6, 5, 6]]
    crowd = {"size": [6, 8], "counts": [0, 48]}
    first, second = read_instances(
        {"segmentation": parts, "category_id": 0},
        {"segmentation": crowd, "category_id": 1, "iscrowd": 1},
        {"category_id": 2},
        {"segmentation": [], "category_id": 2},
        {"segmentation": {"size": [6, 8], "counts": [48]}, "category_id": 2},  # of no pixel
    )
    assert first.mask.sum() == 4 + 9 and not first.crowd
    assert second.mask.all() and second.crowd
    assert read_instances() == []


def test_an_encoding_of_another_size_is_named():
    segmentation = {"size": [8, 6], "counts": [48]}
    with pytest.raises(DatasetError, match="street.jpg: the image is 8x6 but .* for 6x8"):
        read_instances({"segmentation": segmentation, "category_id": 0})
    record = {"file_name": "street.jpg", "annotations": [], "height": 60, "width": 80}
    with pytest.raises(DatasetError, match="street.jpg: the image is 8x6 but .* for 80x60"):
        read_truth(record, "instances", (6, 8), METADATA)


@pytest.fixture
def panoptic_file(tmp_path):
    colors = np.zeros((4, 6, 3), np.uint8)
    colors[1] = (7, 0, 0)
    colors[2] = (1, 2, 0)
    colors[3] = (0, 0, 1)
    Image.fromarray(colors).save(tmp_path / "street.png")
    return str(tmp_path / "street.png")


def test_panoptic_ids_are_numbers_of_base_256(panoptic_file):
    record = {
        "pan_seg_file_name": panoptic_file,
        "segments_info": [
            {"id": 7, "category_id": 0, "isthing": False},
            {"id": 1 + 2 * 256, "category_id": 1, "isthing": True, "iscrowd": 1},
            {"id": 65536, "category_id": 2, "isthing": 1},
        ],
    }
    segments = read_truth(record, "panoptic_seg", (4, 6), METADATA)
    rows = [np.nonzero(s.mask.all(axis=1))[0].tolist() for s in segments]
    assert rows == [[1], [2], [3]]
    assert [s.mask.sum() for s in segments] == [6, 6, 6]
    assert [(s.label, s.thing, s.crowd) for s in segments] == [
        (0, False, False),
        (1, True, True),
        (2, True, False),
    ]


def test_a_panoptic_map_that_does_not_fit_is_named(panoptic_file):
    record = {"pan_seg_file_name": panoptic_file}
    with pytest.raises(DatasetError, match="street.png: no segments_info"):
        read_truth(record, "panoptic_seg", (4, 6), METADATA)
    record["segments_info"] = []
    with pytest.raises(DatasetError, match="street.png: the panoptic map is 6x4 but its image is"):
        read_truth(record, "panoptic_seg", (6, 4), METADATA)
    with pytest.raises(DatasetError, match="street.png: found segment 7, 513, 65536, which"):
        read_truth(record, "panoptic_seg", (4, 6), METADATA)

"""Predictions as files, read back with the tools of their format, and ground truth."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools.coco import COCO

from lrformer.data import DatasetError
from lrformer.visualization import segments_of
from lrformer.visualization.label_maps import LabelMapWriter
from lrformer.visualization.sources import read_truth

# As COCO panoptic's: both lists have all the names, the dataset's ids have gaps.
METADATA = Metadata(
    thing_classes=["road", "car", "person"],
    stuff_classes=["road", "car", "person"],
    thing_dataset_id_to_contiguous_id={30: 1, 40: 2},
    stuff_dataset_id_to_contiguous_id={90: 0},
)


def make_instances():
    masks = torch.zeros(2, 20, 30, dtype=torch.bool)
    masks[0, 5:10, 10:20] = True
    masks[1, :, 29:] = True
    return Instances(
        (20, 30),
        pred_masks=masks,
        pred_boxes=Boxes(torch.tensor([[10.0, 5, 20, 10], [29, 0, 30, 20]])),
        pred_classes=torch.tensor([2, 1]),
        scores=torch.tensor([0.75, 0.25]),
    )


def test_instances_are_cocos_results(tmp_path):
    writer = LabelMapWriter(tmp_path, "instances", METADATA)
    writer.write(make_instances(), Path("street"), image_id=17)
    writer.write(make_instances()[:0], Path("empty"), image_id=18)
    writer.close()
    truth = {
        "images": [{"id": i, "height": 20, "width": 30} for i in (17, 18)],
        "categories": [{"id": 30, "name": "car"}, {"id": 40, "name": "person"}],
        "annotations": [],
        "info": {},
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    results = COCO(tmp_path / "truth.json").loadRes(str(tmp_path / "instances.json"))
    person, car = results.loadAnns(results.getAnnIds())
    assert (person["category_id"], car["category_id"]) == (40, 30)
    assert (person["image_id"], person["score"], person["area"]) == (17, 0.75, 50)
    assert person["bbox"] == [10, 5, 10, 5]
    assert car["score"] == 0.25  # below any threshold of the picture
    assert np.array_equal(results.annToMask(person), make_instances().pred_masks[0])


def test_panoptic_segments_are_cocos(tmp_path):
    ids = np.zeros((4, 6), np.int32)
    ids[1:3] = 1
    ids[3, 2:5] = 65836
    info = [
        {"id": 1, "category_id": 0, "isthing": False, "score": 0.9},
        {"id": 65836, "category_id": 2, "isthing": True, "score": 0.9},
    ]
    writer = LabelMapWriter(tmp_path, "panoptic_seg", METADATA)
    writer.write((ids, info), Path("trip/street"), image_id=17)
    writer.write((ids, info), Path("other"))
    writer.close()
    colors = np.asarray(Image.open(tmp_path / "trip" / "street.png"))
    assert colors[[0, 1, 3], [0, 0, 2]].tolist() == [[0, 0, 0], [1, 0, 0], [44, 1, 1]]

    content = json.loads((tmp_path / "panoptic.json").read_text())
    first, second = content["annotations"]
    assert first["image_id"] == 17 and first["file_name"] == "trip/street.png"
    assert second["image_id"] == "other"
    assert first["segments_info"] == [
        {"id": 1, "category_id": 90, "area": 12, "bbox": [0, 1, 6, 2], "iscrowd": 0},
        {"id": 65836, "category_id": 40, "area": 3, "bbox": [2, 3, 3, 1], "iscrowd": 0},
    ]
    assert content["images"][0] == {"id": 17, "height": 4, "width": 6}
    assert content["categories"] == [
        {"id": 90, "name": "road", "isthing": 0},
        {"id": 30, "name": "car", "isthing": 1},
        {"id": 40, "name": "person", "isthing": 1},
    ]


def test_without_the_datasets_ids_the_contiguous_ones_are_written(tmp_path):
    writer = LabelMapWriter(tmp_path, "instances", Metadata())
    writer.write(make_instances(), Path("street"))
    writer.close()
    results = json.loads((tmp_path / "instances.json").read_text())
    assert [(r["image_id"], r["category_id"]) for r in results] == [("street", 2), ("street", 1)]


def test_parts_of_an_object_crowds_and_what_has_no_mask():
    parts = [[0, 0, 2, 0, 2, 2, 0, 2], [5, 3, 8, 3, 8, 6, 5, 6]]
    annotations = [
        {"segmentation": parts, "category_id": 5},
        {"segmentation": {"size": [6, 8], "counts": [0, 48]}, "category_id": 1, "iscrowd": 1},
        {"category_id": 2},
        {"segmentation": {"size": [6, 8], "counts": [48]}, "category_id": 2},  # of no pixel
    ]
    record = {"file_name": "street.jpg", "annotations": annotations}
    first, second = segments_of(read_truth(record, "instances", (6, 8), Metadata()), Metadata())
    assert first.mask.sum() == 4 + 9 and first.mask[:2, :2].all() and first.mask[3:, 5:].all()
    assert first.label == 5 and first.thing and first.score is None and not first.crowd
    assert second.mask.all() and second.crowd


def test_panoptic_truth_without_segments_names_its_file():
    with pytest.raises(DatasetError, match="street.png: no segments_info"):
        read_truth({"pan_seg_file_name": "street.png"}, "panoptic_seg", (6, 8), Metadata())

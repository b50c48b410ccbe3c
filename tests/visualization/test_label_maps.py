"""Predictions as files, read back with the tools of their format."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools.coco import COCO

from lrformer.visualization.label_maps import LabelMapWriter


@pytest.fixture
def metadata():
    """As COCO panoptic's: both lists have all the names, the dataset's ids have gaps."""
    name = "label_maps_test_metadata"
    MetadataCatalog.pop(name, None)
    names = ["road", "car", "person"]
    return MetadataCatalog.get(name).set(
        thing_classes=names,
        stuff_classes=names,
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


def test_instances_are_cocos_results(tmp_path, metadata):
    writer = LabelMapWriter(tmp_path, "instances", metadata)
    writer.write(make_instances(), Path("street"), image_id=17)
    writer.write(make_instances()[:0], Path("empty"), image_id=18)
    writer.close()
    (tmp_path / "truth.json").write_text(
        json.dumps(
            {
                "images": [{"id": i, "height": 20, "width": 30} for i in (17, 18)],
                "categories": [{"id": 30, "name": "car"}, {"id": 40, "name": "person"}],
                "annotations": [],
                "info": {},
            }
        )
    )
    results = COCO(tmp_path / "truth.json").loadRes(str(tmp_path / "instances.json"))
    (person,) = results.loadAnns(results.getAnnIds(catIds=[40]))
    (car,) = results.loadAnns(results.getAnnIds(catIds=[30]))
    assert (person["image_id"], person["score"], person["area"]) == (17, 0.75, 50)
    assert person["bbox"] == [10, 5, 10, 5]
    assert car["score"] == 0.25  # below any threshold of the picture
    mask = results.annToMask(person)
    assert mask[5:10, 10:20].all() and mask.sum() == 50


def test_panoptic_segments_are_cocos(tmp_path, metadata):
    ids = torch.zeros(4, 6, dtype=torch.int32)
    ids[1:3] = 1
    ids[3, 2:5] = 300
    info = [
        {"id": 1, "category_id": 0, "isthing": False, "score": 0.9},
        {"id": 300, "category_id": 2, "isthing": True, "score": 0.9},
    ]
    writer = LabelMapWriter(tmp_path, "panoptic_seg", metadata)
    writer.write((ids, info), Path("trip/street"), image_id=17)
    writer.write((ids, info), Path("other"))
    writer.close()
    colors = np.asarray(Image.open(tmp_path / "trip" / "street.png"))
    assert colors.shape == (4, 6, 3)
    assert colors[0, 0].tolist() == [0, 0, 0]
    assert colors[1, 0].tolist() == [1, 0, 0]
    assert colors[3, 2].tolist() == [44, 1, 0]  # 300 = 44 + 256

    content = json.loads((tmp_path / "panoptic.json").read_text())
    first, second = content["annotations"]
    assert first["image_id"] == 17 and first["file_name"] == "trip/street.png"
    assert second["image_id"] == "other"
    assert first["segments_info"] == [
        {"id": 1, "category_id": 90, "area": 12, "bbox": [0, 1, 6, 2], "iscrowd": 0},
        {"id": 300, "category_id": 40, "area": 3, "bbox": [2, 3, 3, 1], "iscrowd": 0},
    ]
    assert content["images"][0] == {"id": 17, "height": 4, "width": 6}
    assert content["categories"] == [
        {"id": 90, "name": "road", "isthing": 0},
        {"id": 30, "name": "car", "isthing": 1},
        {"id": 40, "name": "person", "isthing": 1},
    ]


def test_without_the_datasets_ids_the_contiguous_ones_are_written(tmp_path):
    writer = LabelMapWriter(tmp_path, "instances", MetadataCatalog.get("label_maps_test_empty"))
    writer.write(make_instances(), Path("street"))
    writer.close()
    results = json.loads((tmp_path / "instances.json").read_text())
    assert [(r["image_id"], r["category_id"]) for r in results] == [("street", 2), ("street", 1)]

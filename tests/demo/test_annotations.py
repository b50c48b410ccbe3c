"""The demo scenes' objects and segments, through the tools that people have for COCO's format."""

import json
import logging

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools.coco import COCO

from demo import Scene, panoptic_image, render_scene, write_demo_scenes
from demo.annotations import write_annotations
from demo.dataset import scene_seed
from lrformer.config import load_cfg
from lrformer.data import build_mapper, builtin, load_dataset, verify_dataset
from lrformer.data.builtin import default_root
from lrformer.data.metadata import DEMO_CLASSES, DEMO_COLORS

SIZE = {"height": 96, "width": 128}
NAMES = [f"demo_scenes_{task}_{s}" for task in ("instance", "panoptic") for s in ("train", "val")]


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    """Annotations of demo scenes (4 and 12), which the registered names read."""
    root = tmp_path_factory.mktemp("data")
    path, _ = write_demo_scenes(root, num_train=4, num_val=12, **SIZE)

    def register(folder):
        for name in NAMES:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        builtin.register_all(str(folder))

    register(root)
    yield path / "annotations"
    register(default_root())


def test_annotations_are_the_scenes(annotations):
    api = COCO(str(annotations / "instances_val.json"))
    assert [c["name"] for c in api.loadCats(api.getCatIds())] == ["car", "person"]
    panoptic = json.loads((annotations / "panoptic_val.json").read_text())
    assert [c["name"] for c in panoptic["categories"]] == list(DEMO_CLASSES)
    assert [tuple(c["color"]) for c in panoptic["categories"]] == list(DEMO_COLORS)
    assert [c["name"] for c in panoptic["categories"] if c["isthing"]] == ["car", "person"]
    for index, image in enumerate(api.loadImgs(sorted(api.getImgIds()))):
        scene = render_scene(scene_seed(0, "val", index), **SIZE)
        assert image["file_name"] == f"demo_{index:06d}.jpg"
        assert (image["height"], image["width"]) == (96, 128)
        numbers, counts = np.unique(scene.instance[scene.instance > 0], return_counts=True)
        seen = []
        for annotation in api.loadAnns(api.getAnnIds(imgIds=image["id"])):
            mask = api.annToMask(annotation).astype(bool)
            (number,) = np.unique(scene.instance[mask])
            np.testing.assert_array_equal(mask, scene.instance == number)
            assert (scene.semantic[mask] + 1 == annotation["category_id"]).all()
            rows, columns = np.nonzero(mask)
            x, y = columns.min(), rows.min()
            assert annotation["bbox"] == [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
            assert annotation["area"] == mask.sum() and annotation["iscrowd"] == 0
            seen.append(number)
        assert sorted(seen) == numbers[counts >= 10].tolist()

        annotation = panoptic["annotations"][index]
        assert annotation["image_id"] == panoptic["images"][index]["id"]
        file = annotations.parent / "panoptic" / "val" / annotation["file_name"]
        ids = np.asarray(Image.open(file)) @ np.array([1, 256, 65536])
        assert set(np.unique(ids)) - {0} == {s["id"] for s in annotation["segments_info"]}
        for segment in annotation["segments_info"]:
            mask = ids == segment["id"]
            assert (scene.semantic[mask] + 1 == segment["category_id"]).all()
            assert len(np.unique(scene.instance[mask])) == 1 and segment["area"] == mask.sum()


def test_slivers_are_no_objects_and_no_segments(tmp_path):
    instance = np.zeros((6, 8), np.int32)
    instance[0, :], instance[1, 0] = 1, 1  # 9 pixels
    instance[3:5, :5] = 700  # 10 pixels
    semantic = np.where(instance > 0, 5, 3).astype(np.uint8)
    panoptic = panoptic_image(Scene(np.zeros((6, 8, 3), np.uint8), semantic, instance))
    # By hand: road is 3 + 1; the car is 5 + 1, and 700 = 2 * 256 + 188.
    assert panoptic[5, 0].tolist() == [4, 0, 0]
    assert not panoptic[0].any() and not panoptic[1, 0].any()
    assert panoptic[3, 0].tolist() == [6, 188, 2]
    Image.fromarray(panoptic).save(tmp_path / "a.png")
    for name in ("instances.json", "panoptic.json"):
        write_annotations(tmp_path, tmp_path / name)
    (car,) = json.loads((tmp_path / "instances.json").read_text())["annotations"]
    assert (car["area"], car["bbox"]) == (10, [0, 3, 5, 2])
    (image,) = json.loads((tmp_path / "panoptic.json").read_text())["annotations"]
    sizes = [(segment["id"], segment["area"]) for segment in image["segments_info"]]
    assert sizes == [(4, 29), (6 + 256 * 700, 10)]


def test_true_objects_score_100(annotations):
    name = "demo_scenes_instance_val"
    evaluator = COCOEvaluator(name, ("segm",), distributed=False, use_fast_impl=False)
    evaluator.reset()
    for record in load_dataset(name):
        masks = [mask_util.decode(a["segmentation"]) for a in record["annotations"]]
        instances = Instances((96, 128))
        instances.pred_masks = torch.from_numpy(np.array(masks, bool).reshape(-1, 96, 128))
        instances.pred_boxes = Boxes(torch.zeros(len(masks), 4))
        instances.scores = torch.ones(len(masks))
        instances.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
        evaluator.process([record], [{"instances": instances}])
    scores = evaluator.evaluate()["segm"]
    assert scores["AP"] == scores["AP-car"] == scores["AP-person"] == pytest.approx(100)


@pytest.mark.parametrize("name", NAMES)
def test_the_registered_datasets_are_sound(annotations, name, caplog):
    with caplog.at_level(logging.WARNING):
        verify_dataset(name, 2 if "instance" in name else 8)
    assert not caplog.records


@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_the_mappers_read_the_scenes(annotations, task):
    make = build_mapper(load_cfg(f"demo/lrformer_plus_t_{task}.yaml"), is_train=True)
    samples = [make(record) for record in load_dataset(f"demo_scenes_{task}_train") * 3]
    assert sum(len(sample["instances"]) for sample in samples) > 20
    assert {sample["image_id"] for sample in samples} == {1, 2, 3, 4}

"""The demo scenes' objects and segments, through the tools that people have for COCO's format."""

import contextlib
import io
import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import load_coco_json
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lrformer.data import build_mapper, coco, demo_scenes, load_dataset, verify_dataset
from lrformer.data.builtin import default_root
from lrformer.data.demo_annotations import CocoFiles, panoptic_image
from lrformer.data.demo_scenes import (
    CLASSES,
    COLORS,
    DemoScenesError,
    Scene,
    render_scene,
    scene_seed,
    write_demo_scenes,
)

SIZE = {"height": 96, "width": 128}
SMALL = {"num_train": 3, "num_val": 2, "workers": 1, "progress": False, **SIZE}
NAMES = [
    f"demo_scenes_{task}_{split}" for task in ("instance", "panoptic") for split in ("train", "val")
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Demo scenes (4 and 12) in a folder that the registered names read from."""
    root = tmp_path_factory.mktemp("data")
    write_demo_scenes(root, num_train=4, num_val=12, workers=1, progress=False, **SIZE)

    def register(folder):
        for name in NAMES:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        coco.register_demo_scenes(str(folder))

    register(root)
    yield root
    register(default_root())


@pytest.fixture(scope="module")
def annotations(root):
    return root / "demo_scenes" / "annotations"


def load(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def scene(index: int) -> Scene:
    return render_scene(scene_seed(0, "val", index), **SIZE)


def test_objects_are_those_of_the_scenes(annotations):
    api = load(annotations / "instances_val.json")
    assert [c["name"] for c in api.loadCats(api.getCatIds())] == ["car", "person"]
    found = 0
    for index, image in enumerate(api.loadImgs(sorted(api.getImgIds()))):
        rendered = scene(index)
        assert image["file_name"] == f"demo_{index:06d}.jpg"
        assert (image["height"], image["width"]) == (96, 128)
        numbers, counts = np.unique(rendered.instance, return_counts=True)
        expected = {n for n, count in zip(numbers, counts, strict=True) if n and count >= 10}
        seen = set()
        for annotation in api.loadAnns(api.getAnnIds(imgIds=image["id"])):
            mask = api.annToMask(annotation).astype(bool)
            (number,) = np.unique(rendered.instance[mask])
            np.testing.assert_array_equal(mask, rendered.instance == number)
            (label,) = np.unique(rendered.semantic[mask])
            assert annotation["category_id"] == label + 1
            rows, columns = np.nonzero(mask)
            x, y = columns.min(), rows.min()
            assert annotation["bbox"] == [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
            assert annotation["area"] == mask.sum() and annotation["iscrowd"] == 0
            seen.add(number)
        assert seen == expected
        found += len(seen)
    assert found > 12


def test_panoptic_maps_are_the_scenes(annotations):
    content = json.loads((annotations / "panoptic_val.json").read_text())
    assert [c["name"] for c in content["categories"]] == list(CLASSES)
    assert [tuple(c["color"]) for c in content["categories"]] == list(COLORS)
    assert [c["name"] for c in content["categories"] if c["isthing"]] == ["car", "person"]
    for index, annotation in enumerate(content["annotations"]):
        rendered = scene(index)
        bgr = cv2.imread(str(annotations.parent / "panoptic" / "val" / annotation["file_name"]))
        ids = bgr[..., 2] + 256 * bgr[..., 1].astype(int) + 65536 * bgr[..., 0].astype(int)
        listed = {segment["id"]: segment for segment in annotation["segments_info"]}
        assert set(np.unique(ids)) - {0} == listed.keys()
        category = np.zeros(ids.shape, int)
        for number, segment in listed.items():
            category[ids == number] = segment["category_id"]
            assert segment["area"] == (ids == number).sum()
        shown = ids != 0
        np.testing.assert_array_equal(category[shown], rendered.semantic[shown] + 1)
        # Two pixels have the same segment where they have the same class and object.
        pairs = np.unique(np.stack([ids, rendered.semantic, rendered.instance])[:, shown], axis=1)
        assert len(np.unique(pairs[0])) == pairs.shape[1] == len(listed)
        assert annotation["image_id"] == content["images"][index]["id"]


def test_slivers_are_no_objects_and_no_segments():
    instance = np.zeros((6, 8), np.int32)
    instance[0, :], instance[1, 0] = 1, 1  # 9 pixels
    instance[3:5, :5] = 700  # 10 pixels
    semantic = np.where(instance > 0, 5, 3).astype(np.uint8)
    panoptic = panoptic_image(Scene(np.zeros((6, 8, 3), np.uint8), semantic, instance))
    # By hand: road is 3 + 1; the car is 5 + 1, and 700 = 2 * 256 + 188.
    assert panoptic[5, 0].tolist() == [4, 0, 0]
    assert panoptic[0, 0].tolist() == panoptic[1, 0].tolist() == [0, 0, 0]
    assert panoptic[3, 0].tolist() == [6, 188, 2]
    files = CocoFiles()
    files.add("a.jpg", "a.png", panoptic)
    (car,) = json.loads(files.instances_json())["annotations"]
    assert (car["area"], car["bbox"]) == (10, [0, 3, 5, 2])
    segments = json.loads(files.panoptic_json())["annotations"][0]["segments_info"]
    assert [(s["id"], s["area"]) for s in segments] == [(4, 29), (6 + 256 * 700, 10)]


def test_true_objects_score_100_in_coco(annotations):
    truth = load(annotations / "instances_val.json")
    keys = ("image_id", "category_id", "segmentation")
    results = [{k: a[k] for k in keys} | {"score": 1.0} for a in truth.dataset["annotations"]]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_true_objects_score_100_in_detectron2(root):
    evaluator = COCOEvaluator(
        "demo_scenes_instance_val", ("segm",), distributed=False, use_fast_impl=False
    )
    evaluator.reset()
    for record in load_dataset("demo_scenes_instance_val"):
        masks = [mask_util.decode(a["segmentation"]) for a in record["annotations"]]
        instances = Instances((96, 128))
        instances.pred_masks = torch.from_numpy(np.array(masks, bool).reshape(-1, 96, 128))
        instances.pred_boxes = Boxes(torch.zeros(len(masks), 4))
        instances.scores = torch.ones(len(masks))
        instances.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
        evaluator.process([record], [{"instances": instances}])
    with contextlib.redirect_stdout(io.StringIO()):
        scores = evaluator.evaluate()["segm"]
    assert scores["AP"] == scores["AP-car"] == scores["AP-person"] == pytest.approx(100)


def test_detectron2_loads_the_objects(root, annotations):
    images = root / "demo_scenes" / "images" / "val"
    theirs = load_coco_json(str(annotations / "instances_val.json"), str(images))
    ours = load_dataset("demo_scenes_instance_val")
    contiguous = {6: 0, 7: 1}  # car and person, labels 5 and 6
    for record in theirs:
        for annotation in record["annotations"]:
            annotation["category_id"] = contiguous[annotation["category_id"]]
    assert ours == theirs


def test_metadata():
    meta = MetadataCatalog.get("demo_scenes_instance_train")
    assert meta.evaluator_type == "coco"
    assert meta.thing_classes == ["car", "person"]
    assert meta.thing_colors == [[0, 0, 142], [220, 20, 60]]
    meta = MetadataCatalog.get("demo_scenes_panoptic_val")
    assert meta.evaluator_type == "coco_panoptic_seg"
    assert meta.thing_classes == meta.stuff_classes == list(CLASSES)
    assert meta.thing_dataset_id_to_contiguous_id == {6: 5, 7: 6}
    assert meta.stuff_dataset_id_to_contiguous_id == {1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 8: 7}
    assert (meta.ignore_label, meta.label_divisor) == (255, 1000)


@pytest.mark.parametrize(("name", "num_classes"), zip(NAMES, (2, 2, 8, 8), strict=True))
def test_the_registered_datasets_are_sound(root, name, num_classes, caplog):
    with caplog.at_level(logging.WARNING):
        verify_dataset(name, num_classes)
    assert not caplog.records


@pytest.mark.parametrize(
    ("task", "mapper", "num_classes"),
    [
        ("instance", "mask_former_instance", 2),
        ("instance", "coco_instance_lsj", 2),
        ("panoptic", "mask_former_panoptic", 8),
        ("panoptic", "coco_panoptic_lsj", 8),
    ],
)
def test_the_mappers_read_the_scenes(root, cfg, task, mapper, num_classes):
    cfg.INPUT.DATASET_MAPPER_NAME = mapper
    cfg.INPUT.IMAGE_SIZE = 64
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = num_classes
    make = build_mapper(cfg, is_train=True)
    samples = [make(record) for record in load_dataset(f"demo_scenes_{task}_train") * 3]
    assert sum(len(sample["instances"]) for sample in samples) > 20
    assert all(tuple(sample["image"].shape) == (3, 64, 64) for sample in samples)
    assert {sample["image_id"] for sample in samples} == {1, 2, 3, 4}


def files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_scenes_of_an_earlier_version_are_completed(tmp_path):
    path = write_demo_scenes(tmp_path, **SMALL).path
    whole = files(path)
    for file in [*path.rglob("panoptic/*/*.png"), *path.glob("annotations/*.json")]:
        file.unlink()
    earlier = files(path)
    written = write_demo_scenes(tmp_path, **SMALL, report=pytest.fail)
    assert written.rendered == 5
    assert files(path) == whole
    assert earlier.items() <= whole.items()


@pytest.mark.parametrize("name", ["instances_train.json", "panoptic_val.json"])
def test_json_that_is_missing_is_made_without_rendering(tmp_path, name):
    path = write_demo_scenes(tmp_path, **SMALL).path
    whole = files(path)
    (path / "annotations" / name).unlink()
    assert write_demo_scenes(tmp_path, **SMALL).rendered == 0
    assert files(path) == whole


def test_an_interruption_leaves_no_json(tmp_path, monkeypatch):
    # Else the annotations of the first scenes would be taken for those of all.
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_scenes, "_write_coco_files", stop)
    with pytest.raises(KeyboardInterrupt):
        write_demo_scenes(tmp_path, **SMALL)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("annotations/*.json"))
    assert write_demo_scenes(tmp_path, **SMALL).rendered == 0
    content = json.loads((tmp_path / "demo_scenes/annotations/panoptic_train.json").read_text())
    assert len(content["annotations"]) == 3


def test_other_parameters_replace_the_annotations(tmp_path):
    path = write_demo_scenes(tmp_path, **SMALL).path
    write_demo_scenes(tmp_path, **{**SMALL, "num_train": 1, "seed": 4}, report=lambda line: None)
    write_demo_scenes(tmp_path / "new", **{**SMALL, "num_train": 1, "seed": 4})
    assert files(path) == files(tmp_path / "new" / "demo_scenes")


@pytest.mark.parametrize("name", ["annotations/instances_val.json", "panoptic/val/mine.png"])
def test_annotations_of_the_user_are_never_touched(tmp_path, name):
    file = tmp_path / "demo_scenes" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"mine")
    with pytest.raises(DemoScenesError, match=rf"{file.name} was not written by make_demo_scenes"):
        write_demo_scenes(tmp_path, **SMALL)
    assert file.read_bytes() == b"mine"


def test_a_broken_map_is_named(tmp_path):
    path = write_demo_scenes(tmp_path, **SMALL).path
    (path / "annotations" / "panoptic_val.json").unlink()
    (path / "panoptic" / "val" / "demo_000001.png").write_bytes(b"\x89PNG")
    with pytest.raises(DemoScenesError, match=r"demo_000001\.png is not readable; delete it"):
        write_demo_scenes(tmp_path, **SMALL)

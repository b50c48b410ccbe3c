"""COCO-format datasets: what is found before the first iteration, and what a user reads."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.coco_panoptic import register_coco_panoptic

from lrformer.data import DatasetError, build_train_loader, coco, load_dataset, verify_dataset
from lrformer.data.builtin import default_root

MINE = ("mine_instance", "mine_panoptic")
DEMO = tuple(
    f"demo_scenes_{task}_{split}" for task in ("instance", "panoptic") for split in ("train", "val")
)


@pytest.fixture
def mine(tmp_path, save):
    """Three images of 4x6 with two segments each, one of them a thing, in a user's own tree."""
    folder = tmp_path / "mine"
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 4, "width": 6} for i in range(1, 4)]
    polygon = [[0, 0, 3, 0, 3, 4, 0, 4]]
    objects = [
        {"id": i, "image_id": i, "category_id": 10, "iscrowd": 0, "bbox": [0, 0, 3, 4],
         "area": 12, "segmentation": polygon}
        for i in range(1, 4)
    ]  # fmt: skip
    segments = [{"id": 300, "category_id": 10}, {"id": 2, "category_id": 20}]
    panoptic = [
        {"image_id": i, "file_name": f"{i}.png", "segments_info": segments} for i in range(1, 4)
    ]
    for i in range(1, 4):
        save(folder / "images" / f"{i}.jpg", np.zeros((4, 6, 3), np.uint8))
        ids = np.zeros((4, 6, 3), np.uint8)
        ids[:, :3], ids[:, 3:] = (300 - 256, 1, 0), (2, 0, 0)
        save(folder / "panoptic" / f"{i}.png", ids)
    categories = [{"id": 10, "name": "cat", "isthing": 1}, {"id": 20, "name": "sky", "isthing": 0}]
    for name, annotations, listed in (
        ("objects", objects, categories[:1]),
        ("panoptic", panoptic, categories),
    ):
        content = {"images": images, "annotations": annotations, "categories": listed}
        (folder / f"{name}.json").write_text(json.dumps(content))
    root = str(folder)
    register_coco_instances(MINE[0], {}, f"{root}/objects.json", f"{root}/images")
    meta = {
        "thing_classes": ["cat", "sky"],
        "stuff_classes": ["cat", "sky"],
        "thing_dataset_id_to_contiguous_id": {10: 0},
        "stuff_dataset_id_to_contiguous_id": {20: 1},
    }
    register_coco_panoptic(
        MINE[1], meta, f"{root}/images", f"{root}/panoptic", f"{root}/panoptic.json"
    )
    yield folder
    for name in MINE:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def edit(file, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_sound_datasets_pass(mine):
    verify_dataset("mine_instance", 1)
    verify_dataset("mine_panoptic", 2)
    verify_dataset("mine_instance", 1, "coco_instance_lsj")
    verify_dataset("mine_panoptic", 2, "mask_former_panoptic")


@pytest.mark.parametrize(
    ("name", "classes"), [("mine_instance", "1 classes (cat)"), ("mine_panoptic", "2 classes")]
)
def test_a_wrong_number_of_classes_names_the_key(mine, name, classes):
    with pytest.raises(DatasetError) as error:
        verify_dataset(name, 80)
    assert f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is 80, but {name} has {classes}" in str(error.value)


@pytest.mark.parametrize(
    ("dataset", "num_classes", "mapper", "message"),
    [
        (
            "mine_instance", 1, "sem_seg",
            "INPUT.DATASET_MAPPER_NAME is sem_seg, which reads label maps, but mine_instance has "
            "objects. Set INPUT.DATASET_MAPPER_NAME to mask_former_instance or coco_instance_lsj, "
            "or choose another dataset in DATASETS.TRAIN.",
        ),
        (
            "mine_panoptic", 2, "coco_instance_lsj",
            "INPUT.DATASET_MAPPER_NAME is coco_instance_lsj, which reads objects, but "
            "mine_panoptic has panoptic maps. Set INPUT.DATASET_MAPPER_NAME to "
            "mask_former_panoptic or coco_panoptic_lsj, or choose another dataset in "
            "DATASETS.TRAIN.",
        ),
        (
            "scenes", 4, "mask_former_instance",
            "INPUT.DATASET_MAPPER_NAME is mask_former_instance, which reads objects, but scenes "
            "has label maps. Set INPUT.DATASET_MAPPER_NAME to sem_seg or mask_former_semantic, or "
            "choose another dataset in DATASETS.TRAIN.",
        ),
    ],
)  # fmt: skip
def test_a_mapper_for_other_annotations_is_named(
    mine, scenes, dataset, num_classes, mapper, message
):
    with pytest.raises(DatasetError) as error:
        verify_dataset(dataset, num_classes, mapper)
    assert str(error.value) == message


def test_an_unknown_mapper_is_named(scenes):
    with pytest.raises(ValueError, match=r"INPUT\.DATASET_MAPPER_NAME: there is no mapper 'x'"):
        verify_dataset("scenes", 4, "x")


def test_a_missing_map_is_named(mine):
    (mine / "panoptic" / "2.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 6 files cannot be used: .*2\.png \(No such"):
        verify_dataset("mine_panoptic", 2)


def test_a_missing_image_is_named(mine):
    (mine / "images" / "3.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 of 3 files cannot be used: .*3\.jpg \(No such"):
        verify_dataset("mine_instance", 1)


def test_a_segment_that_only_the_json_has_is_named(mine):
    def change(content):
        content["annotations"][1]["segments_info"][0]["id"] = 301

    edit(mine / "panoptic.json", change)
    with pytest.raises(DatasetError, match=r"panoptic/2\.png: found segment 300, which"):
        verify_dataset("mine_panoptic", 2)


def test_a_map_of_another_size_is_named(mine, save):
    save(mine / "panoptic" / "2.png", np.ones((6, 4, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"2\.png: the panoptic map is 4x6 .* image is 6x4"):
        verify_dataset("mine_panoptic", 2)


def test_an_image_of_another_size_than_its_objects_is_named(mine, save):
    save(mine / "images" / "2.jpg", np.zeros((6, 4, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"2\.jpg: the image is 4x6 but its ann.* for 6x4"):
        verify_dataset("mine_instance", 1)


def test_objects_without_masks_are_named(mine):
    def change(content):
        del content["annotations"][2]["segmentation"]

    edit(mine / "objects.json", change)
    with pytest.raises(DatasetError, match=r"3\.jpg: the segmentation of an object .* is None"):
        verify_dataset("mine_instance", 1)


def test_a_category_that_is_not_declared_is_named(mine):
    def change(content):
        content["annotations"][0]["segments_info"][0]["category_id"] = 99

    edit(mine / "panoptic.json", change)
    with pytest.raises(
        DatasetError, match=r"mine_panoptic: .* could not be loaded from .*panoptic\.json: Key.*99"
    ):
        verify_dataset("mine_panoptic", 2)


def test_json_that_is_cut_short_is_named(mine):
    text = (mine / "objects.json").read_text()
    (mine / "objects.json").write_text(text[: len(text) // 2])
    with pytest.raises(DatasetError, match=r"mine_instance: .* from .*objects\.json: JSONDecode"):
        load_dataset("mine_instance")


def test_a_missing_json_of_your_own_is_named(mine):
    (mine / "objects.json").unlink()
    with pytest.raises(DatasetError) as error:
        load_dataset("mine_instance")
    assert str(error.value) == (
        f"mine_instance: there is no file of COCO annotations {mine / 'objects.json'}."
    )


@pytest.fixture
def demo(tmp_path):
    """The demo scenes' names, read from an empty folder."""

    def register(root):
        for name in DEMO:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        coco.register_demo_scenes(root)

    register(str(tmp_path / "data"))
    yield tmp_path / "data"
    register(default_root())


@pytest.mark.parametrize("name", DEMO)
def test_demo_scenes_that_are_not_made_name_the_command(demo, name):
    with pytest.raises(DatasetError) as error:
        verify_dataset(name, 2)
    split = name.rpartition("_")[2]
    message = str(error.value)
    expected = demo / "demo_scenes" / "images" / split
    assert message.startswith(f"{name}: there is no folder of images {expected}. ")
    assert f"looked for in {demo};" in message
    assert "To prepare it: python datasets/make_demo_scenes.py." in message


def test_demo_scenes_of_an_earlier_version_name_the_command(demo):
    (demo / "demo_scenes" / "images" / "val").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"no folder of panoptic maps .*make_demo_scenes\.py"):
        load_dataset("demo_scenes_panoptic_val")
    with pytest.raises(DatasetError, match=r"no file of COCO annotations .*instances_val\.json"):
        load_dataset("demo_scenes_instance_val")


@pytest.fixture
def coco_2017(tmp_path, monkeypatch):
    """detectron2's COCO names, moved to an empty folder."""
    root = tmp_path / "data" / "coco"
    for name in ("coco_2017_val", "coco_2017_val_panoptic"):
        meta = MetadataCatalog.get(name).__dict__
        monkeypatch.setitem(meta, "image_root", str(root / "val2017"))
        monkeypatch.setitem(meta, "json_file", str(root / "annotations/instances_val2017.json"))
    monkeypatch.setitem(meta, "panoptic_root", str(root / "panoptic_val2017"))
    monkeypatch.setitem(meta, "panoptic_json", str(root / "annotations/panoptic_val2017.json"))
    return root


def test_missing_coco_says_what_goes_where(coco_2017):
    with pytest.raises(DatasetError) as error:
        load_dataset("coco_2017_val")
    assert f"there is no folder of images {coco_2017 / 'val2017'}." in str(error.value)
    assert "cocodataset.org" in str(error.value) and "datasets/README.md" in str(error.value)
    (coco_2017 / "val2017").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"no file of COCO annotations .*instances_val2017"):
        load_dataset("coco_2017_val")
    with pytest.raises(DatasetError, match=r"no folder of panoptic maps .*panoptic_val2017"):
        load_dataset("coco_2017_val_panoptic")
    (coco_2017 / "panoptic_val2017").mkdir()
    with pytest.raises(DatasetError, match=r"no file of panoptic annotations .*panoptic_val2017"):
        load_dataset("coco_2017_val_panoptic")


def test_coco_one_folder_too_deep_is_found(coco_2017):
    (coco_2017 / "val2017").mkdir(parents=True)
    coco_2017.rename(coco_2017.parent / "elsewhere")
    coco_2017.mkdir()
    (coco_2017.parent / "elsewhere").rename(coco_2017 / "release")
    with pytest.raises(DatasetError, match=r"coco/release holds it: move what is inside"):
        load_dataset("coco_2017_val")


def test_detectron2s_coco_has_the_classes_that_are_checked(coco_2017):
    # verify_dataset compares these with MODEL.SEM_SEG_HEAD.NUM_CLASSES.
    meta = MetadataCatalog.get("coco_2017_train_panoptic")
    ids = {
        *meta.thing_dataset_id_to_contiguous_id.values(),
        *meta.stuff_dataset_id_to_contiguous_id.values(),
    }
    assert ids == set(range(133)) and len(meta.stuff_classes) == 133
    assert len(MetadataCatalog.get("coco_2017_train").thing_classes) == 80


def test_an_unknown_dataset_lists_those_with_objects():
    with pytest.raises(DatasetError, match=r"'demo'.*coco_2017_train.*demo_scenes_panoptic_val"):
        load_dataset("demo")


@pytest.mark.parametrize(
    ("name", "mapper", "num_classes"),
    [("mine_instance", "mask_former_instance", 1), ("mine_panoptic", "coco_panoptic_lsj", 2)],
)
def test_the_loader_gives_batches_of_masks(mine, cfg, name, mapper, num_classes):
    cfg.DATASETS.TRAIN = (name,)
    cfg.INPUT.DATASET_MAPPER_NAME = mapper
    cfg.INPUT.IMAGE_SIZE = 64
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = num_classes
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = True
    batch = next(iter(build_train_loader(cfg)))
    assert [tuple(sample["image"].shape) for sample in batch] == [(3, 64, 64)] * 2
    assert all(sample["instances"].image_size == (64, 64) for sample in batch)

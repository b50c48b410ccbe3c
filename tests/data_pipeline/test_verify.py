"""What is found before the first iteration."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.coco_panoptic import register_coco_panoptic

from lrformer.data import DatasetError, verify, verify_dataset


@pytest.fixture
def mine(tmp_path, save):
    """Three images of 4x6 with two segments each, one of them a thing, in a user's own tree."""
    folder, numbers = tmp_path / "mine", range(1, 4)
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 4, "width": 6} for i in numbers]
    shape = {"category_id": 10, "bbox": [0, 0, 3, 4], "segmentation": [[0, 0, 3, 0, 3, 4, 0, 4]]}
    objects = [shape | {"id": i, "image_id": i, "iscrowd": 0, "area": 12} for i in numbers]
    segments = [{"id": 300, "category_id": 10}, {"id": 2, "category_id": 20}]
    panoptic = [{"image_id": i, "file_name": f"{i}.png"} for i in numbers]
    panoptic = [image | {"segments_info": segments} for image in panoptic]
    ids = np.zeros((4, 6, 3), np.uint8)
    ids[:, :3], ids[:, 3:] = (300 - 256, 1, 0), (2, 0, 0)
    for i in numbers:
        save(folder / "images" / f"{i}.jpg", np.zeros((4, 6, 3), np.uint8))
        save(folder / "panoptic" / f"{i}.png", ids)
    categories = [{"id": 10, "name": "cat", "isthing": 1}, {"id": 20, "name": "sky", "isthing": 0}]
    objects = {"images": images, "annotations": objects, "categories": categories[:1]}
    (folder / "objects.json").write_text(json.dumps(objects))
    panoptic = {"images": images, "annotations": panoptic, "categories": categories}
    (folder / "panoptic.json").write_text(json.dumps(panoptic))
    register_coco_instances("mine_instance", {}, f"{folder}/objects.json", f"{folder}/images")
    meta = {
        "thing_classes": ["cat", "sky"],
        "stuff_classes": ["cat", "sky"],
        "thing_dataset_id_to_contiguous_id": {10: 0},
        "stuff_dataset_id_to_contiguous_id": {20: 1},
    }
    paths = (f"{folder}/images", f"{folder}/panoptic", f"{folder}/panoptic.json")
    register_coco_panoptic("mine_panoptic", meta, *paths)
    yield folder
    for name in ("mine_instance", "mine_panoptic"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_sound_datasets_pass(scenes, mine, save):
    save(scenes / "labels" / "3.png", np.resize(np.uint8([255, 3]), (120, 160)))
    for name, num_classes, mapper in (
        ("scenes", 4, "mask_former_semantic"),
        ("mine_instance", 1, "coco_instance_lsj"),
        ("mine_panoptic", 2, "mask_former_panoptic"),
    ):
        verify_dataset(name, num_classes)
        verify_dataset(name, num_classes, mapper)


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("scenes", r"4 classes \(a, b, c and 1 more\).* Set MODEL.SEM_SEG_HEAD.NUM_CLASSES 4"),
        ("mine_instance", r"1 classes \(cat\)"),
    ],
)
def test_a_wrong_number_of_classes_names_the_key(scenes, mine, name, classes):
    message = f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is 80, but {name} has {classes}"
    with pytest.raises(DatasetError, match=message):
        verify_dataset(name, 80)


@pytest.mark.parametrize(
    ("dataset", "mapper", "reads", "fitting"),
    [
        ("mine_instance", "sem_seg", "label maps", "mask_former_instance or coco_instance_lsj"),
        ("mine_panoptic", "coco_instance_lsj", "objects", "mask_former_panoptic or coco_panoptic"),
        ("scenes", "mask_former_instance", "objects", "sem_seg or mask_former_semantic"),
    ],
)
def test_a_mapper_for_other_annotations_is_named(mine, scenes, dataset, mapper, reads, fitting):
    keys = f"DATASET_MAPPER_NAME is {mapper}, which reads {reads}, but {dataset} .* to {fitting}"
    with pytest.raises(DatasetError, match=keys):
        verify_dataset(dataset, 4, mapper)


NAMES = {"labels": ("scenes", 4), "objects": ("mine_instance", 1), "panoptic": ("mine_panoptic", 2)}
ODD_LABELS = np.resize(np.uint8([4, 151, 2]), (120, 160))


@pytest.mark.parametrize(
    ("kind", "file", "content", "message"),
    [
        ("labels", "labels/5.png", ODD_LABELS, r"5\.png: found label 4, 151; expected 0\.\.3"),
        ("labels", "labels/1.png", np.zeros((160, 120), np.uint8), r"1\.png: .* 120x160 .* 160x12"),
        ("labels", "images/4.png", b"", r"1 of 12 files cannot be used: .*4\.png \(empty\)"),
        ("panoptic", "panoptic/2.png", None, r"1 of 6 files cannot be used: .*2\.png \(No such"),
        ("panoptic", "panoptic/2.png", np.ones((6, 4, 3), np.uint8), r"2\.png: .* 4x6 .* is 6x4"),
        ("objects", "images/2.jpg", np.zeros((6, 4, 3), np.uint8), r"2\.jpg: .* 4x6 .* for 6x4"),
        ("objects", "objects.json", None, r"mine_instance: .*objects\.json: FileNotFound"),
        ("objects", "objects.json", b'{"images', r"mine_instance: .*objects\.json: JSONDecode"),
        (
            "objects",
            "objects.json",
            (b'"segmentation"', b'"seg"'),
            r"1\.jpg: the segmentation of an obj",
        ),
        ("panoptic", "panoptic.json", (b'"id": 300', b'"id": 301'), r"\.png: found segment 300"),
        ("panoptic", "panoptic.json", (b'_id": 20}]', b'_id": 9}]'), r"panoptic\.json: Key.*9"),
    ],
)
def test_what_is_broken_is_named(scenes, mine, save, kind, file, content, message):
    file = (scenes if kind == "labels" else mine) / file
    if isinstance(content, tuple):
        content = file.read_bytes().replace(*content)
    file.unlink()
    if content is None:
        file.symlink_to("/nowhere")
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        save(file, content)
    with pytest.raises(DatasetError, match=message):
        verify_dataset(*NAMES[kind])


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_file_that_is_cut_off_is_named(scenes, mine, save, suffix):
    file = scenes / "images" / "4.png" if suffix == "png" else mine / "images" / "2.jpg"
    name = ("scenes", 4, "sem_seg") if suffix == "png" else ("mine_instance", 1)
    whole = file.read_bytes()
    file.write_bytes(whole + b"what some cameras append")
    verify_dataset(*name)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=rf"1 of \d+ files .*{file.name} \(damaged: "):
        verify_dataset(*name)


@pytest.mark.parametrize("sizes", [["small"] * 3, ["small", "large", "tiny", "medium"]])
def test_sizes_that_cannot_be_are_told(scenes, sizes):
    MetadataCatalog.get("scenes").stuff_sizes = sizes
    with pytest.raises(DatasetError, match=f"scenes: stuff_sizes .* 4 stuff_classes.*{sizes[2]}"):
        verify_dataset("scenes", 4)


def test_a_dataset_without_label_maps_is_named(scenes, monkeypatch):
    monkeypatch.setitem(DatasetCatalog.data, "scenes", lambda: [{"file_name": "a.jpg"}])
    with pytest.raises(DatasetError, match=r"scenes: 1 of 1 entries have no sem_seg_file_name"):
        verify_dataset("scenes", 4)


def test_a_large_dataset_is_sampled_evenly(scenes, monkeypatch):
    monkeypatch.setattr(verify, "_MAX_LABELS", 3)
    read = []
    monkeypatch.setattr(verify, "check_size", lambda file, *rest: read.append(file[-5:]))
    verify_dataset("scenes", 4)
    assert sorted(read) == ["0.png", "2.png", "5.png"]

"""Registrations, and what a user reads when a dataset's files are not where they should be."""

import importlib
import logging
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.cityscapes import load_cityscapes_semantic

from lrformer.data import (
    DatasetError,
    SemSegTree,
    builtin,
    load_dataset,
    metadata,
    register_sem_seg,
)

IMAGE = np.zeros((4, 6, 3), dtype=np.uint8)
LABEL = np.zeros((4, 6), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "num_classes", "index", "class_name", "color", "size"),
    [
        # Names and colours from the datasets' own publications; the paper says that sky is large.
        ("ade20k_sem_seg_val", 150, 149, "flag", (92, 0, 255), "medium"),
        ("cityscapes_fine_sem_seg_train", 19, 0, "road", (128, 64, 128), "large"),
        ("cityscapes_fine_sem_seg_test", 19, 18, "bicycle", (119, 11, 32), "medium"),
        ("coco_stuff_sem_seg_train", 171, 0, "person", (220, 20, 60), "medium"),
        ("coco_stuff_sem_seg_val", 171, 80, "banner", (0, 192, 0), "medium"),
        ("coco_stuff_sem_seg_val", 171, 170, "wood", (64, 64, 0), "large"),
        ("camvid_sem_seg_train", 11, 0, "Sky", (128, 128, 128), "large"),
        ("camvid_sem_seg_trainval", 11, 10, "Bicyclist", (0, 128, 192), "medium"),
        ("demo_scenes_sem_seg_val", 8, 7, "pole", (153, 153, 153), "small"),
    ],
)
def test_classes_colours_and_sizes(name, num_classes, index, class_name, color, size):
    meta = MetadataCatalog.get(name)
    assert len(meta.stuff_classes) == len(meta.stuff_colors) == num_classes
    assert len(meta.stuff_sizes) == num_classes and meta.stuff_sizes[index] == size
    assert meta.stuff_classes[index] == class_name
    assert meta.ignore_label == 255
    assert tuple(meta.stuff_colors[index]) == color
    if "ade20k" not in name:  # of which two share one
        assert len({tuple(color) for color in meta.stuff_colors}) == num_classes


def test_every_size_is_that_of_a_class():
    known = [MetadataCatalog.get(f"{name}_train").stuff_classes for name in builtin.DATASETS]
    names = {name.split(",")[0].strip().lower() for classes in known for name in classes}
    assert names.issuperset(metadata._SMALL + metadata._MEDIUM)


def test_registering_again_changes_nothing():
    before = dict(DatasetCatalog)
    importlib.reload(builtin)
    assert dict(DatasetCatalog) == before


def test_the_root_may_be_in_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/data")
    assert builtin.default_root() == "/home/me/data"


def test_own_datasets_can_be_registered(scenes):
    records = load_dataset("scenes")
    assert records[2] == {
        "file_name": str(scenes / "images" / "2.png"),
        "sem_seg_file_name": str(scenes / "labels" / "2.png"),
    }
    assert MetadataCatalog.get("scenes").image_root == str(scenes / "images")
    tree = SemSegTree("other", str(scenes), (("images", "labels"),))
    with pytest.raises(ValueError, match="other: 2 classes but 1 colours"):
        register_sem_seg(tree, ("a", "b"), ((0, 0, 0),))


@pytest.fixture
def camvid(tmp_path, save):
    """A CamVid tree with two training images and one for validation, below a data folder."""
    root = tmp_path / "data"
    for split, stem in (("train", "a"), ("train", "b"), ("val", "c")):
        save(root / "camvid" / "images" / split / f"{stem}.jpg", IMAGE)
        save(root / "camvid" / "annotations" / split / f"{stem}.png", LABEL)
    return root


def load(root, split="train"):
    return builtin.dataset_tree(str(root), "camvid_sem_seg", split).load()


def test_camvid_tree(camvid):
    assert [r["file_name"][-5:] for r in load(camvid)] == ["a.jpg", "b.jpg"]
    labels = [r["sem_seg_file_name"][-5:] for r in load(camvid, "trainval")]
    assert labels == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize(
    ("root", "moves", "message"),
    [
        (
            "nowhere",
            (),
            "^camvid_sem_seg_train: there is no folder .*nowhere/camvid/images/train.*"
            r"DETECTRON2_DATASETS is not set.*datasets/prepare_camvid\.py",
        ),
        ("data/camvid", (), "one level too deep: use {root} "),
        (".", (), "one level too high: use {root} "),
        # Unpacked into itself.
        ("data", (("camvid", "x"), ("x", "camvid/CamVid")), "CamVid holds it: move what is inside"),
        (
            "data",
            (("camvid/annotations/train", "x"), ("x/a.png", "camvid/annotations/train/a.txt")),
            r"no label maps \(\*\.png\).*annotations/train.*a\.txt",
        ),
        (
            "data",
            (("camvid/annotations/train/b.png", "x"),),
            r"1 of 2 images .* no label map: .*b\.jpg.*{root}/camvid/annotations/train/b\.png",
        ),
        ("data", (("camvid/images/val/c.jpg", "camvid/images/train/a.png"),), "only in their suff"),
    ],
)
def test_a_tree_that_is_not_as_it_should_be_is_described(camvid, monkeypatch, root, moves, message):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    for old, new in moves:
        (camvid / new).parent.mkdir(parents=True, exist_ok=True)
        (camvid / old).rename(camvid / new)
    with pytest.raises(DatasetError, match=message.format(root=camvid)):
        load(camvid.parent / root)


def test_a_label_without_image_is_only_warned_about(camvid, caplog):
    (camvid / "camvid/images/train/b.jpg").unlink()
    with caplog.at_level(logging.WARNING):
        assert len(load(camvid)) == 1
    assert "1 label maps have no image" in caplog.text and "b.png" in caplog.text


def test_an_image_in_two_formats_is_named(camvid, save):
    save(camvid / "camvid/images/train/a.png", IMAGE)
    with pytest.raises(DatasetError, match="differ only in their suffix"):
        load(camvid)


@pytest.fixture
def cityscapes(tmp_path, save, monkeypatch):
    """detectron2's cityscapes_fine_sem_seg_val, moved to a tree of two cities."""
    base = tmp_path / "cityscapes"
    for city in ("bonn", "ulm"):
        save(base / f"leftImg8bit/val/{city}/{city}_leftImg8bit.png", IMAGE)
        label = f"{base}/gtFine/val/{city}/{city}_gtFine"
        for kind in ("labelIds", "labelTrainIds", "instanceIds"):
            save(Path(f"{label}_{kind}.png"), LABEL)
        Path(f"{label}_polygons.json").write_text('{"imgHeight": 4, "imgWidth": 6}')
    name = "cityscapes_fine_sem_seg_val"
    images, labels = (str(base / part / "val") + "/" for part in ("leftImg8bit", "gtFine"))
    monkeypatch.setitem(MetadataCatalog.get(name).__dict__, "image_dir", images)
    monkeypatch.setitem(DatasetCatalog.data, name, lambda: load_cityscapes_semantic(images, labels))
    return base


def test_detectron2s_cityscapes_loads_or_says_what_is_wrong(cityscapes):
    name = "cityscapes_fine_sem_seg_val"
    records = load_dataset(name)
    assert [r["sem_seg_file_name"].rpartition("_")[2] for r in records] == ["labelTrainIds.png"] * 2
    assert (records[0]["height"], records[0]["width"]) == (4, 6)
    notes = cityscapes / "leftImg8bit/val/bonn/notes.txt"
    notes.touch()  # which detectron2 takes for an image
    with pytest.raises(DatasetError, match=rf"{name}: .*notes\.txt"):
        load_dataset(name)
    for file in cityscapes.rglob("*labelTrainIds.png"):
        file.unlink()
    with pytest.raises(DatasetError, match=r"labelTrainIds.*datasets/prepare_cityscapes\.py"):
        load_dataset(name)


def test_ade20k_that_is_not_converted_names_the_script(tmp_path, save, monkeypatch):
    base = tmp_path / "ADEChallengeData2016"
    save(base / "images/validation/a.jpg", IMAGE)
    name, images = "ade20k_sem_seg_val", str(base / "images" / "validation")
    monkeypatch.setitem(MetadataCatalog.get(name).__dict__, "image_root", images)
    missing = rf"{base}/annotations_detectron2/validation.*datasets/prepare_ade20k\.py"
    with pytest.raises(DatasetError, match=missing):
        load_dataset(name)

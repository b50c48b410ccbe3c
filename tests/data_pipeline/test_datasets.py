"""Registrations, and what a user reads when a dataset's files are not where they should be."""

import importlib
import logging

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from lrformer.data import DatasetError, SemSegTree, builtin, load_dataset, register_sem_seg

IMAGE = np.zeros((4, 6, 3), dtype=np.uint8)
LABEL = np.zeros((4, 6), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "num_classes", "index", "class_name", "color"),
    [
        # From the datasets' own publications.
        ("ade20k_sem_seg_train", 150, 6, "road, route", (140, 140, 140)),
        ("ade20k_sem_seg_val", 150, 149, "flag", (92, 0, 255)),
        ("cityscapes_fine_sem_seg_train", 19, 0, "road", (128, 64, 128)),
        ("cityscapes_fine_sem_seg_val", 19, 18, "bicycle", (119, 11, 32)),
        ("coco_stuff_sem_seg_train", 171, 0, "person", (220, 20, 60)),
        ("coco_stuff_sem_seg_train", 171, 79, "toothbrush", (191, 162, 208)),
        ("coco_stuff_sem_seg_val", 171, 80, "banner", (0, 192, 0)),
        ("coco_stuff_sem_seg_val", 171, 170, "wood", (64, 64, 0)),
        ("camvid_sem_seg_train", 11, 0, "Sky", (128, 128, 128)),
        ("camvid_sem_seg_trainval", 11, 10, "Bicyclist", (0, 128, 192)),
        ("demo_scenes_sem_seg_val", 8, 7, "pole", None),
    ],
)
def test_classes_and_colours(name, num_classes, index, class_name, color):
    meta = MetadataCatalog.get(name)
    assert len(meta.stuff_classes) == len(meta.stuff_colors) == num_classes
    assert meta.stuff_classes[index] == class_name
    assert meta.ignore_label == 255
    if color is not None:
        assert tuple(meta.stuff_colors[index]) == color


@pytest.mark.parametrize("name", ["coco_stuff_sem_seg_train", "camvid_sem_seg_train"])
def test_no_two_classes_look_the_same(name):
    colors = MetadataCatalog.get(name).stuff_colors
    assert len({tuple(color) for color in colors}) == len(colors)


def test_registering_again_changes_nothing():
    before = dict(DatasetCatalog)
    importlib.reload(builtin)
    assert dict(DatasetCatalog) == before


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


def load(root, name="camvid_sem_seg_train"):
    return builtin.dataset_trees(str(root))[name].load()


def test_camvid_tree(camvid):
    assert [r["file_name"][-5:] for r in load(camvid)] == ["a.jpg", "b.jpg"]
    records = load(camvid, "camvid_sem_seg_trainval")
    assert [r["sem_seg_file_name"][-5:] for r in records] == ["a.png", "b.png", "c.png"]


def test_a_missing_folder_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    with pytest.raises(DatasetError) as error:
        load(tmp_path)
    message = str(error.value)
    assert message.startswith("camvid_sem_seg_train: there is no folder ")
    assert str(tmp_path / "camvid/images/train") in message
    assert "DETECTRON2_DATASETS is not set" in message
    assert "datasets/prepare_camvid.py" in message


def test_a_root_that_is_too_deep_is_recognised(camvid):
    with pytest.raises(DatasetError, match="one level too deep") as error:
        load(camvid / "camvid")
    assert f"use {camvid} " in str(error.value)


def test_a_root_that_is_too_high_is_recognised(camvid):
    with pytest.raises(DatasetError, match="one level too high") as error:
        load(camvid.parent)
    assert f"use {camvid} " in str(error.value)


def test_a_tree_that_was_unpacked_into_itself_is_recognised(camvid):
    (camvid / "camvid").rename(camvid / "release")
    (camvid / "camvid").mkdir()
    (camvid / "release").rename(camvid / "camvid" / "CamVid")
    with pytest.raises(DatasetError, match=r"CamVid holds it: move what is inside"):
        load(camvid)


def test_an_empty_folder_is_named(camvid):
    for file in (camvid / "camvid/annotations/train").iterdir():
        file.rename(file.with_suffix(".txt"))
    with pytest.raises(DatasetError, match=r"no label maps \(\*\.png\).*annotations/train") as e:
        load(camvid)
    assert "found a.txt, b.txt" in str(e.value)


def test_an_image_without_label_is_named(camvid):
    (camvid / "camvid/annotations/train/b.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 2 images have no label map: .*b\.jpg") as error:
        load(camvid)
    assert str(camvid / "camvid/annotations/train/b.png") in str(error.value)


def test_a_label_without_image_is_only_warned_about(camvid, caplog):
    (camvid / "camvid/images/train/b.jpg").unlink()
    with caplog.at_level(logging.WARNING):
        assert len(load(camvid)) == 1
    assert "1 label maps have no image" in caplog.text
    assert "b.png" in caplog.text


def test_an_image_in_two_formats_is_named(camvid, save):
    save(camvid / "camvid/images/train/a.png", IMAGE)
    with pytest.raises(DatasetError, match="differ only in their suffix"):
        load(camvid)


@pytest.fixture
def cityscapes(tmp_path, save, monkeypatch):
    """detectron2's cityscapes_fine_sem_seg_val, moved to a tree of two cities."""
    base = tmp_path / "cityscapes"
    for city in ("bonn", "ulm"):
        stem = f"{city}/{city}_000000_000019"
        save(base / "leftImg8bit/val" / f"{stem}_leftImg8bit.png", IMAGE)
        for kind in ("labelIds", "labelTrainIds", "instanceIds"):
            save(base / "gtFine/val" / f"{stem}_gtFine_{kind}.png", LABEL)
        json = base / "gtFine/val" / f"{stem}_gtFine_polygons.json"
        json.write_text('{"imgHeight": 4, "imgWidth": 6}')
    name = "cityscapes_fine_sem_seg_val"
    images, labels = (str(base / part / "val") + "/" for part in ("leftImg8bit", "gtFine"))
    monkeypatch.setitem(MetadataCatalog.get(name).__dict__, "image_dir", images)
    from detectron2.data.datasets.cityscapes import load_cityscapes_semantic

    monkeypatch.setitem(DatasetCatalog.data, name, lambda: load_cityscapes_semantic(images, labels))
    return base


def test_detectron2s_cityscapes_loads(cityscapes):
    records = load_dataset("cityscapes_fine_sem_seg_val")
    assert [r["sem_seg_file_name"].rpartition("_")[2] for r in records] == ["labelTrainIds.png"] * 2
    assert (records[0]["height"], records[0]["width"]) == (4, 6)


def test_cityscapes_without_train_ids_names_the_script(cityscapes):
    for file in cityscapes.rglob("*labelTrainIds.png"):
        file.unlink()
    with pytest.raises(DatasetError, match="labelTrainIds") as error:
        load_dataset("cityscapes_fine_sem_seg_val")
    assert "python datasets/prepare_cityscapes.py" in str(error.value)


def test_what_detectron2_finds_wrong_is_named_too(cityscapes):
    (cityscapes / "leftImg8bit/val/bonn/notes.txt").write_text("")
    with pytest.raises(DatasetError, match=r"cityscapes_fine_sem_seg_val: .*notes\.txt"):
        load_dataset("cityscapes_fine_sem_seg_val")


def test_ade20k_that_is_not_converted_names_the_script(tmp_path, save, monkeypatch):
    base = tmp_path / "ADEChallengeData2016"
    save(base / "images/validation/a.jpg", IMAGE)
    save(base / "annotations/validation/a.png", LABEL)
    name = "ade20k_sem_seg_val"
    images = str(base / "images" / "validation")
    monkeypatch.setitem(MetadataCatalog.get(name).__dict__, "image_root", images)
    with pytest.raises(DatasetError, match=r"annotations_detectron2/validation") as error:
        load_dataset(name)
    assert "python datasets/prepare_ade20k.py" in str(error.value)

"""tools/data.py, on folders as users have them."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

import data as tool

GREEN = [0, 200, 0]


def write(file, array):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)


@pytest.fixture
def photo():
    rng = np.random.default_rng(0)

    def make():
        return rng.integers(0, 256, (5, 7, 3), np.uint8).repeat(8, 0).repeat(8, 1)

    return make


@pytest.fixture
def mask():
    label = np.zeros((40, 56), np.uint8)
    label[10:30, 20:40] = 1
    return label


def init(root, file, capsys):
    assert tool.main(["init", str(root), "--output", str(file)]) == 0, capsys.readouterr().err
    return yaml.safe_load(file.read_text())


LAYOUTS = {
    "{s}/images/{i}.jpg {s}/masks/{i}_mask.png": ("train/images", "train/masks"),
    "images/{s}/{i}.jpg labels/{s}/{i}.png": ("images/train", "labels/train"),
    "img_dir/{s}ing/{i}.jpg ann_dir/{s}ing/{i}.png": ("img_dir/training", "ann_dir/training"),
}


@pytest.mark.parametrize(("layout", "places"), LAYOUTS.items())
def test_init_finds_splits_and_colours(tmp_path, photo, mask, capsys, layout, places):
    image, labels = layout.split()
    for split in ("train", "test"):
        for i in range(3):
            write(tmp_path / "data" / image.format(s=split, i=i), photo())
            colored = np.array([[0, 0, 0], GREEN], np.uint8)[mask]
            write(tmp_path / "data" / labels.format(s=split, i=i), colored)
    content = init(tmp_path / "data", tmp_path / "mine.yaml", capsys)
    assert content["splits"]["train"] == dict(zip(("images", "labels"), places, strict=True))
    assert list(content["splits"]) == ["train", "test"]
    assert list(content["classes"].values()) == [[0, 0, 0], GREEN]
    assert tool.main(["init", str(tmp_path), "--output", str(tmp_path / "mine.yaml")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_init_finds_masks_beside_images(tmp_path, photo, mask, capsys):
    for i in range(4):
        write(tmp_path / "data" / f"{i}.jpg", photo())
        write(tmp_path / "data" / f"{i}.png", mask * 255)
    content = init(tmp_path / "data", tmp_path / "mine.yaml", capsys)
    assert content["split"]["images"] == content["split"]["labels"] == "."
    assert content["classes"] == ["background", "foreground"]


def test_init_finds_a_folder_a_class(tmp_path, photo, mask, capsys):
    for i in range(4):
        write(tmp_path / "data" / "images" / f"{i}.jpg", photo())
        for name in ("roof", "road"):
            write(tmp_path / "data" / "masks" / name / f"{i}.png", mask * 255)
    content = init(tmp_path / "data", tmp_path / "mine.yaml", capsys)
    split = {"images": "images", "labels": "masks", "fraction": 0.2, "seed": 0}
    assert content["split"] == split
    assert sorted(content["classes"]) == ["road", "roof"]


@pytest.mark.parametrize("kind", ["coco", "labelme"])
def test_init_finds_objects(tmp_path, photo, capsys, kind):
    box = [1, 1, 5, 1, 5, 5, 1, 5]
    for split, numbers in (("train", (0, 1)), ("valid", (2,))):
        folder = tmp_path / "data" / split
        annotations = []
        for i in numbers:
            write(folder / f"{i}.jpg", photo())
            points = np.reshape(box, (-1, 2)).tolist()
            shape = {"label": "cell", "points": points, "shape_type": "polygon"}
            if kind == "labelme":
                (folder / f"{i}.json").write_text(json.dumps({"shapes": [shape]}))
            one = {"id": i, "image_id": i, "category_id": 1, "segmentation": [box]}
            annotations.append(one | {"bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0})
        if kind == "coco":
            images = [
                {"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 56} for i in numbers
            ]
            # As Roboflow writes it.
            categories = [
                {"id": 0, "name": "cells", "supercategory": "none"},
                {"id": 1, "name": "cell", "supercategory": "cells"},
            ]
            content = {"images": images, "annotations": annotations, "categories": categories}
            (folder / "_annotations.coco.json").write_text(json.dumps(content))
    content = init(tmp_path / "data", tmp_path / "mine.yaml", capsys)
    assert list(content["splits"]) == ["train", "val"]
    assert content["classes"] == ["cell"]


def test_init_without_labels(tmp_path, photo, capsys):
    write(tmp_path / "data" / "0.jpg", photo())
    assert tool.main(["init", str(tmp_path / "data"), "--output", str(tmp_path / "x.yaml")]) == 2
    assert "found nothing that labels images" in capsys.readouterr().err


@pytest.fixture
def faulty(tmp_path, photo, mask):
    """Eight images to train on and two to test on, of which five are faulty."""
    pictures = [photo() for _ in range(10)]
    pictures[9] = np.clip(pictures[1].astype(int) + 3, 0, 255).astype(np.uint8)  # another exposure
    labels = [mask.copy() for _ in range(10)]
    labels[2][:] = 1
    labels[3][0, 0] = 7
    labels[4] = labels[4][:-8]
    labels[5][:] = 255
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        split = "train" if i < 8 else "val"
        write(tmp_path / split / f"{i}.png", picture)
        if i != 6:
            write(tmp_path / f"{split}_labels" / f"{i}.png", label)
    splits = {s: {"images": s, "labels": f"{s}_labels"} for s in ("train", "val")}
    content = {"splits": splits, "classes": ["ground", "roof", "tree"]}
    file = tmp_path / "faulty.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_check_names_every_fault(faulty, capsys):
    assert tool.main(["check", str(faulty)]) == 1
    lines = capsys.readouterr().out.splitlines()
    expected = (
        "train/2.png: all pixels have the label 1",
        "train/3.png: labels out of range: 7; expected 0..2",
        "train/4.png: the labels are (56, 32), the image (56, 40)",
        "train/5.png: 100 % of the pixels are ignored",
        "val/9.png look the same",
        "train/6.png: no labels (train)",
        "the class tree does not occur",
        "7 problems in 9 images",
    )
    for line, text in zip(lines, expected, strict=True):
        assert line.endswith(text)
    assert "train/1.png and " in lines[4]


def test_describe_counts_images_and_pixels(faulty, capsys):
    assert tool.main(["describe", str(faulty)]) == 0
    printed = capsys.readouterr().out
    rows = [[x.strip() for x in line.split("|")[1:-1]] for line in printed.splitlines()]
    assert ["train", "7", "56x40", "56x40", "56x40", "14.29", "1"] in rows
    # 400 of 2240 pixels are roof, in each of six maps; 2240 in the one that is all roof; one map
    # has a row of eight lines less, and a pixel that is no class.
    roof, ground = 7 * 400 + 2240, 7 * 1840 - 8 * 56 - 1
    shares = [f"{100 * x / (roof + ground):.2f}" for x in (ground, roof)]
    assert [row[2] for row in rows if row[1:2] in (["ground"], ["roof"])] == shares


def test_show_draws_random_images(faulty, tmp_path, capsys):
    for name in ("3", "4"):
        (tmp_path / "train" / f"{name}.png").unlink()
    argv = ["show", str(faulty), "--output", str(tmp_path / "drawn"), "--limit", "3"]
    assert tool.main(argv) == 0
    files = list((tmp_path / "drawn").iterdir())
    assert len(files) == 3
    assert all(Image.open(file).width > 2 * 56 for file in files)

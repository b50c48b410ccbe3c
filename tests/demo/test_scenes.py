"""The demo scenes: what a user trains on when they have no dataset yet."""

import json
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from PIL import Image

from demo import render_scene, write_demo_scenes
from demo.dataset import scene_seed
from lrformer.data import DatasetError
from lrformer.data.metadata import DEMO_CLASSES, DEMO_THINGS

SMALL = {"num_train": 3, "num_val": 2, "height": 32, "width": 48}
MAKE = Path(__file__).parents[2] / "datasets" / "make_demo_scenes.py"


@pytest.fixture(scope="module")
def scenes():
    return [render_scene(seed, 96, 128) for seed in range(24)]


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("height", "width"), [(96, 128), (65, 33), (32, 200)])
def test_shapes_and_types_at_any_size(height, width):
    image, semantic, instance, objects = render_scene(1, height, width)
    assert image.shape == (height, width, 3)
    assert semantic.shape == instance.shape == (height, width)
    assert (image.dtype, semantic.dtype, instance.dtype) == (np.uint8, np.uint8, np.int32)
    assert instance.max() <= len(objects) and all(o["distance"] > 0 for o in objects)


def test_every_class_can_be_learned_and_scored(scenes):
    # A class that is missing, or a sliver, would make the demo's mIoU a matter of luck.
    counts = np.array([np.bincount(s.semantic.ravel(), minlength=8) for s in scenes])
    assert (counts.sum(0) > 0.02 * counts.sum()).all()
    assert ((counts > 0).mean(0) > 0.7).all()


def test_cars_have_the_colours_that_are_told(scenes):
    """Of red, orange and yellow ones red is stronger than blue, of blue and teal ones weaker."""
    right = []
    for scene in scenes:
        for number, told in enumerate(scene.objects, start=1):
            pixels = scene.image[scene.instance == number].astype(int)
            if told["color"] not in (None, "white") and len(pixels) > 100:
                red, _, blue = np.percentile(pixels, 75, axis=0)  # not windows and tyres
                right.append((red > blue) == (told["color"] not in ("blue", "teal")))
    assert len(right) > 5 and np.mean(right) > 0.9


def test_instances_are_the_things(scenes):
    things = [DEMO_CLASSES.index(name) for name in DEMO_THINGS]
    for scene in scenes:
        assert ((scene.instance > 0) == np.isin(scene.semantic, things)).all()
        for number in np.unique(scene.instance[scene.instance > 0]):
            assert len(np.unique(scene.semantic[scene.instance == number])) == 1
    assert np.mean([len(np.unique(s.instance)) - 1 for s in scenes]) > 3


def test_labels_lie_on_what_the_image_shows(scenes):
    # Independent of the drawing code: contours of the labels must be where the image has edges.
    ratios = []
    for scene in scenes:
        grey = cv2.cvtColor(scene.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        gradient = np.hypot(cv2.Sobel(grey, -1, 1, 0), cv2.Sobel(grey, -1, 0, 1))
        contour = cv2.dilate(scene.semantic, None) != cv2.erode(scene.semantic, None)
        shifted = np.roll(contour, (7, 9), (0, 1))
        ratios.append(gradient[contour].mean() / gradient[shifted].mean())
    assert np.median(ratios) > 1.4


def test_the_same_seed_shows_the_same_street_at_another_size(scenes):
    large = render_scene(3, 192, 256).semantic
    shrunk = cv2.resize(large, (128, 96), interpolation=cv2.INTER_NEAREST)
    assert (shrunk == scenes[3].semantic).mean() > 0.93


def test_layout_on_disk_is_that_of_a_real_dataset(tmp_path):
    path, rendered = write_demo_scenes(tmp_path, **SMALL)
    assert (path, rendered) == (tmp_path / "demo_scenes", 5)
    for split, count in (("train", 3), ("val", 2)):
        for index in range(count):
            scene = render_scene(scene_seed(0, split, index), 32, 48)
            label = Image.open(path / "annotations" / split / f"demo_{index:06d}.png")
            assert (np.asarray(label) == scene.semantic).all() and label.mode == "L"
            image = Image.open(path / "images" / split / f"demo_{index:06d}.jpg").convert("YCbCr")
            brightness = np.asarray(Image.fromarray(scene.image).convert("L")).astype(int)
            assert np.abs(np.asarray(image)[..., 0] - brightness).mean() < 3  # JPEG
    assert len(tree(path)) == 1 + 4 * 5 + 6


def test_no_held_out_scene_is_trained_on():
    train = {scene_seed(0, "train", i) for i in range(2000)}
    val = {scene_seed(0, "val", i) for i in range(500)}
    assert len(train) == 2000 and len(val) == 500 and not train & val


@pytest.mark.parametrize(
    ("missing", "rendered"),
    [
        ((), 0),
        (("images/train/demo_000002.jpg", "annotations/val/demo_000000.png"), 2),
        (("panoptic/*/*.png", "annotations/*.json"), 5),  # as an earlier version left them
        (("annotations/instances_train.json", "annotations/panoptic_val.json"), 0),
    ],
)
def test_what_is_missing_is_made_and_the_rest_kept(tmp_path, missing, rendered):
    path, _ = write_demo_scenes(tmp_path, **SMALL)
    whole = tree(path)
    for pattern in missing:
        for file in path.glob(pattern):
            file.unlink()
    (path / "images" / "val" / "demo_000001.jpg.part").touch()  # of an interrupted run
    assert write_demo_scenes(tmp_path, **SMALL) == (path, rendered)
    assert {name: data for name, data in tree(path).items() if ".part" not in name} == whole


def test_an_interruption_leaves_only_whole_files(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("demo.dataset.write_annotations", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_demo_scenes(tmp_path, **SMALL)
    # Else the annotations of the first scenes would be taken for those of all.
    assert not list(tmp_path.rglob("annotations/*.json*"))
    path, rendered = write_demo_scenes(tmp_path, **SMALL)
    content = json.loads((path / "annotations" / "panoptic_train.json").read_text())
    assert (rendered, len(content["annotations"])) == (0, 3)


def test_other_parameters_replace_our_scenes_and_say_so(tmp_path, capsys):
    changed = {**SMALL, "num_train": 1, "seed": 4}
    write_demo_scenes(tmp_path / "old", **SMALL)
    for folder in ("old", "new"):
        write_demo_scenes(tmp_path / folder, **changed)
    assert "num_train 3 -> 1, seed 0 -> 4" in capsys.readouterr().out
    assert tree(tmp_path / "old") == tree(tmp_path / "new")


@pytest.mark.parametrize(
    "name", ["images/train/holiday.jpg", "panoptic/val/a.png", "annotations/instances_val.json"]
)
def test_files_of_the_user_are_never_touched(tmp_path, name):
    if "panoptic" in name:  # beside scenes of ours
        write_demo_scenes(tmp_path, **SMALL)
    file = tmp_path / "demo_scenes" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"mine")
    with pytest.raises(DatasetError, match=file.name):
        write_demo_scenes(tmp_path, **{**SMALL, "seed": 9})
    assert file.read_bytes() == b"mine"


def test_nonsense_is_refused_before_anything_is_written(tmp_path):
    for wrong in ({"height": 8}, {"width": 10**6}, {"num_train": 0}, {"num_val": -3}, {"seed": -1}):
        with pytest.raises(DatasetError, match=next(iter(wrong))):
            write_demo_scenes(tmp_path, **{**SMALL, **wrong})
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_named(tmp_path):
    path, _ = write_demo_scenes(tmp_path, **SMALL)
    (path / "annotations" / "panoptic_val.json").unlink()
    for name in ("panoptic/val/demo_000001.png", "demo_scenes.json"):
        (path / name).write_text("{")
        with pytest.raises((DatasetError, OSError), match=Path(name).name):
            write_demo_scenes(tmp_path, **SMALL)


def test_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(MAKE.parent)
    import make_demo_scenes

    size = ["--train", "2", "--val", "1", "--height", "32", "--width", "48"]
    for workers in ("1", "2"):  # which must not change the scenes
        root = ["--root", f"{tmp_path}/{workers}", "--workers", workers]
        assert make_demo_scenes.main([*size, *root]) == 0
        assert "3 scenes rendered, 0 reused\npixels: sky " in capsys.readouterr().out
    assert tree(tmp_path / "1") == tree(tmp_path / "2")
    for wrong, named in ((["--height", "5"], "height"), (["--root", str(MAKE)], MAKE.name)):
        assert make_demo_scenes.main([*size, *wrong]) == 2
        assert named in capsys.readouterr().err

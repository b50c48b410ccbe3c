"""The demo scenes: what a user trains on when they have no dataset yet."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from lrformer.data.demo_scenes import (
    CLASSES,
    COLORS,
    THINGS,
    DemoScenesError,
    class_shares,
    render_scene,
    scene_seed,
    write_demo_scenes,
)

SMALL = {"num_train": 3, "num_val": 2, "height": 48, "width": 64, "workers": 1, "progress": False}
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scenes():
    return [render_scene(seed, 96, 128) for seed in range(24)]


def digest(scene) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in scene)).hexdigest()


def tree(root: Path) -> dict[str, bytes]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


def test_a_seed_gives_the_same_scene_whatever_was_rendered_before():
    first = digest(render_scene(7, 64, 96))
    render_scene(8, 64, 96)
    assert digest(render_scene(7, 64, 96)) == first
    assert digest(render_scene(8, 64, 96)) != first


def test_another_process_renders_the_same_scene():
    # Without it two machines of one training run would see different data.
    code = (
        "import hashlib, numpy as np\n"
        "from lrformer.data.demo_scenes import render_scene\n"
        "s = render_scene(5, 64, 80)\n"
        "print(hashlib.sha256(b''.join(np.ascontiguousarray(a).tobytes() for a in s)).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "123", "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert output.split()[-1] == digest(render_scene(5, 64, 80))


@pytest.mark.parametrize(("height", "width"), [(96, 128), (65, 33), (32, 200)])
def test_shapes_and_types_at_any_size(height, width):
    scene = render_scene(1, height, width)
    assert scene.image.shape == (height, width, 3) and scene.image.dtype == np.uint8
    assert scene.semantic.shape == (height, width) and scene.semantic.dtype == np.uint8
    assert scene.instance.shape == (height, width) and scene.instance.dtype == np.int32
    assert scene.semantic.max() < len(CLASSES)


def test_class_lists_agree():
    assert len(CLASSES) == len(COLORS) == len(set(COLORS)) == 8
    assert set(THINGS) < set(CLASSES)
    assert all(0 <= channel <= 255 for colour in COLORS for channel in colour)


def test_every_class_can_be_learned_and_scored(scenes):
    # A class that is missing, or a sliver, would make the demo's mIoU a matter of luck.
    counts = np.array([np.bincount(s.semantic.ravel(), minlength=8) for s in scenes])
    shares = counts.sum(0) / counts.sum()
    assert (shares > 0.02).all(), shares
    assert ((counts > 0).mean(0) > 0.7).all()


def test_instances_are_the_things(scenes):
    things = [CLASSES.index(name) for name in THINGS]
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
        kernel = np.ones((3, 3), np.uint8)
        contour = cv2.dilate(scene.semantic, kernel) != cv2.erode(scene.semantic, kernel)
        shifted = np.roll(contour, (7, 9), (0, 1))
        ratios.append(gradient[contour].mean() / gradient[shifted].mean())
    assert np.median(ratios) > 1.4


def test_the_same_seed_shows_the_same_street_at_another_size():
    small, large = render_scene(3, 96, 128), render_scene(3, 192, 256)
    shrunk = cv2.resize(large.semantic, (128, 96), interpolation=cv2.INTER_NEAREST)
    assert (shrunk == small.semantic).mean() > 0.93


def test_seed_and_size_are_checked():
    with pytest.raises(ValueError, match="seed must be 0 or more"):
        render_scene(-1, 64, 64)
    with pytest.raises(ValueError, match="at least 32x32 pixels, not 64x16"):
        render_scene(0, 64, 16)


def test_layout_on_disk_is_that_of_a_real_dataset(tmp_path):
    written = write_demo_scenes(tmp_path, **SMALL)
    assert written.path == tmp_path / "demo_scenes" and written.rendered == 5
    for split, count in (("train", 3), ("val", 2)):
        images = sorted((written.path / "images" / split).iterdir())
        labels = sorted((written.path / "annotations" / split).iterdir())
        assert [p.stem for p in images] == [p.stem for p in labels] and len(images) == count
        for image, label in zip(images, labels, strict=True):
            assert cv2.imread(str(image)).shape == (48, 64, 3)
            pixels = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
            assert pixels.shape == (48, 64) and pixels.dtype == np.uint8 and pixels.max() < 8
    expected = render_scene(scene_seed(0, "val", 1), 48, 64)
    label = written.path / "annotations" / "val" / "demo_000001.png"
    assert (cv2.imread(str(label), cv2.IMREAD_UNCHANGED) == expected.semantic).all()
    image = cv2.imread(str(written.path / "images" / "val" / "demo_000001.jpg"))
    assert np.abs(image[..., ::-1].astype(int) - expected.image).mean() < 8  # JPEG


def test_no_held_out_scene_is_trained_on():
    train = {scene_seed(0, "train", i) for i in range(2000)}
    val = {scene_seed(0, "val", i) for i in range(500)}
    assert len(train) == 2000 and len(val) == 500 and not train & val


def test_number_of_workers_does_not_change_the_files(tmp_path):
    write_demo_scenes(tmp_path / "a", **SMALL)
    write_demo_scenes(tmp_path / "b", **{**SMALL, "workers": 2})
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_complete_dataset_is_reused_and_an_interrupted_one_completed(tmp_path):
    path = write_demo_scenes(tmp_path, **SMALL).path
    before = tree(tmp_path)
    again = write_demo_scenes(tmp_path, **SMALL)
    assert (again.rendered, again.reused) == (0, 5)
    (path / "images" / "train" / "demo_000002.jpg").unlink()
    assert write_demo_scenes(tmp_path, **SMALL).rendered == 1
    assert tree(tmp_path) == before


def test_other_parameters_replace_our_scenes_and_say_so(tmp_path):
    path = write_demo_scenes(tmp_path, **SMALL).path
    lines = []
    write_demo_scenes(tmp_path, **{**SMALL, "num_train": 1, "seed": 4}, report=lines.append)
    assert "num_train 3 -> 1, seed 0 -> 4" in lines[0]
    assert [p.name for p in (path / "images" / "train").iterdir()] == ["demo_000000.jpg"]
    assert json.loads((path / "demo_scenes.json").read_text())["seed"] == 4


@pytest.mark.parametrize("ours", [False, True])
def test_files_of_the_user_are_never_touched(tmp_path, ours):
    if ours:
        write_demo_scenes(tmp_path, **SMALL)
    photo = tmp_path / "demo_scenes" / "images" / "train" / "holiday.jpg"
    photo.parent.mkdir(parents=True, exist_ok=True)
    photo.write_bytes(b"mine")
    with pytest.raises(DemoScenesError, match=r"holiday\.jpg was not written by make_demo_scenes"):
        write_demo_scenes(tmp_path, **{**SMALL, "seed": 9})
    assert photo.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 8}, "height must be from 32 to 4096, not 8"),
        ({"width": 10**6}, "width must be from 32 to 4096"),
        ({"num_train": 0}, "num_train must be from 1"),
        ({"num_val": -3}, "num_val must be from 1"),
        ({"seed": -1}, "seed must be from 0"),
        ({"workers": 0}, "workers must be 1 or more"),
    ],
)
def test_nonsense_is_refused_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(DemoScenesError, match=message):
        write_demo_scenes(tmp_path, **{**SMALL, **change})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DemoScenesError, match=r"cannot write the demo scenes to .*file"):
        write_demo_scenes(tmp_path / "file", **SMALL)


def test_damaged_parameters_are_named(tmp_path):
    path = write_demo_scenes(tmp_path, **SMALL).path
    (path / "demo_scenes.json").write_text("{")
    with pytest.raises(DemoScenesError, match=r"demo_scenes\.json is not readable"):
        write_demo_scenes(tmp_path, **SMALL)


def test_pixel_shares_count_the_label_files(tmp_path):
    folder = tmp_path / "annotations" / "val"
    folder.mkdir(parents=True)
    label = np.zeros((4, 5), np.uint8)
    label[0] = 7
    cv2.imwrite(str(folder / "a.png"), label)
    shares = class_shares(tmp_path)
    assert shares["sky"] == pytest.approx(0.75) and shares["pole"] == pytest.approx(0.25)


def test_command_line(tmp_path, capsys):
    sys.path.insert(0, str(REPOSITORY / "datasets"))
    try:
        import make_demo_scenes
    finally:
        sys.path.pop(0)
    size = ["--train", "2", "--val", "1", "--height", "48", "--width", "64", "--workers", "1"]
    assert make_demo_scenes.main(["--root", str(tmp_path), *size]) == 0
    output = capsys.readouterr().out
    assert str(tmp_path / "demo_scenes") in output and "3 scenes rendered" in output
    assert "pixels: sky " in output
    assert make_demo_scenes.main(["--root", str(tmp_path), *size, "--height", "5"]) == 1
    assert "height must be from 32" in capsys.readouterr().err

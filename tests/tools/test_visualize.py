"""tools/visualize.py as a user runs it: what it reads, writes, skips, refuses and returns."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from PIL import Image
from torch import nn

import visualize
from lrformer.data import SemSegTree, register_sem_seg

COLORS = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]

if "StrongestChannel" not in META_ARCH_REGISTRY:

    @META_ARCH_REGISTRY.register()
    class StrongestChannel(nn.Module):
        """Class 0, 1 or 2 where red, green or blue is strongest."""

        def __init__(self, cfg):
            super().__init__()
            self.gain = nn.Parameter(torch.zeros(1))

        def forward(self, batched_inputs):
            return [{"sem_seg": x["image"] * self.gain} for x in batched_inputs]


@pytest.fixture
def folder(tmp_path):
    """A dataset of three images, a config, and weights with which StrongestChannel works."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        image = rng.integers(0, 256, (30, 44, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(image.argmax(axis=2).astype(np.uint8)).save(
            tmp_path / "labels" / f"{name}.png"
        )
    dataset = f"visualize_{tmp_path.name}"
    tree = SemSegTree(dataset, str(tmp_path), (("images", "labels"),))
    register_sem_seg(tree, ["red", "green", "blue"], COLORS)
    (tmp_path / "config.yaml").write_text(
        "MODEL:\n  META_ARCHITECTURE: StrongestChannel\n  DEVICE: cpu\n"
        "  SEM_SEG_HEAD:\n    NUM_CLASSES: 3\n"
        "INPUT:\n  FORMAT: RGB\n  MIN_SIZE_TEST: 0\n"
        f'DATASETS:\n  TEST: ("{dataset}",)\n'
    )
    torch.save({"model": {"gain": torch.ones(1)}}, tmp_path / "weights.pth")
    return tmp_path


def run(folder, *arguments, output="drawn"):
    """Run the tool with the folder's model; relative paths in ``arguments`` stay as they are."""
    return visualize.main(
        [
            *("--config-file", str(folder / "config.yaml")),
            *("--weights", str(folder / "weights.pth")),
            *("--output", str(folder / output)),
            *map(str, arguments),
        ]
    )


def files_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def read(file):
    return np.asarray(Image.open(file))


def test_every_pixel_is_its_images_colour_under_its_classs(folder):
    plain = ("--no-names", "--no-legend", "--alpha", 0.5)
    assert run(folder, "--input", folder / "images", *plain) == 0
    assert files_in(folder / "drawn") == ["a.png", "b.png", "c.png"]
    image = read(folder / "images" / "b.png")
    expected = (image + np.array(COLORS)[image.argmax(axis=2)]) / 2
    drawn = read(folder / "drawn" / "b.png")
    assert drawn.shape == image.shape
    assert np.abs(drawn - expected).max() <= 0.5


def test_folders_patterns_and_files_together(folder, capsys):
    image = read(folder / "images" / "a.png")
    for name in ("trip/day1/a.jpg", "trip/day2/a.jpg", "more/a.bmp", "more/d.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    (folder / "trip" / "notes.txt").write_text("not drawn, and not an error in a folder")
    inputs = [
        folder / "trip",  # its arrangement is kept
        folder / "images/a.png",
        folder / "more/*",  # another a
        folder / "images/../images/a.png",  # the same a again
        f"{folder}/**/d.png",  # found already
    ]
    assert run(folder, "--input", *inputs) == 0
    assert files_in(folder / "drawn") == [
        "a.png",
        "d.png",
        "day1/a.png",
        "day2/a.png",
        "more_a.png",
    ]
    assert "drew 5 of 5 inputs" in capsys.readouterr().out


def test_same_names_do_not_overwrite_each_other(folder):
    image = read(folder / "images" / "a.png")
    files = [folder / name for name in ("x/a.png", "y/a.png", "z/y/a.png", "x/A.jpg")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    assert run(folder, "--input", *files) == 0
    # The last is told apart from a.png too: some file systems do not tell upper from lower case.
    assert files_in(folder / "drawn") == ["a.png", "a_2.png", "x_A.png", "y_a.png"]


def test_a_second_run_does_not_draw_the_first_ones_pictures(folder):
    for _ in range(2):
        assert run(folder, "--input", folder / "images", output="images/drawn") == 0
        assert len(files_in(folder / "images" / "drawn")) == 3


def test_what_cannot_be_read_is_reported_and_the_rest_is_drawn(folder, capsys):
    images = folder / "images"
    data = (images / "a.png").read_bytes()
    (images / "cut.png").write_bytes(data[: len(data) // 2])
    (images / "text.jpg").write_text("hello")
    (images / "video.mp4").write_text("hello")
    inputs = [images, images / "video.mp4", folder / "none.png", folder / "*.tif"]
    assert run(folder, "--input", *inputs) == 1
    assert files_in(folder / "drawn") == ["a.png", "b.png", "c.png"]
    captured = capsys.readouterr()
    for name in ("cut.png", "text.jpg", "video.mp4", "none.png", "*.tif"):
        assert f"{name}" in captured.err
    assert "drew 3 of 8 inputs" in captured.out


def test_nothing_drawn_is_another_exit_code(folder, capsys):
    (folder / "empty").mkdir()
    assert run(folder, "--input", folder / "empty", folder / "none.png") == 2
    assert "empty: no images" in capsys.readouterr().err
    (folder / "text.jpg").write_text("hello")
    assert run(folder, "--input", folder / "text.jpg") == 2


def test_ground_truth_of_a_dataset_beside_image_and_prediction(folder):
    options = ("--ground-truth", "--side-by-side", "--no-names", "--no-legend")
    dataset = f"visualize_{folder.name}"
    assert run(folder, "--dataset", dataset, "--limit", 2, *options) == 0
    assert files_in(folder / "drawn") == ["a.png", "b.png"]
    drawn, image = read(folder / "drawn" / "a.png"), read(folder / "images" / "a.png")
    gap = (drawn.shape[1] - 3 * 44) // 2
    assert 0 < gap < 10
    panels = [drawn[-30:, i * (44 + gap) :][:, :44] for i in range(3)]
    assert np.array_equal(panels[0], image)
    # These labels are what StrongestChannel predicts.
    assert np.array_equal(panels[1], panels[2])
    assert not np.array_equal(panels[1], image)


def test_ground_truth_from_a_folder(folder, capsys):
    labels = folder / "labels"
    ignored = np.full((30, 44), 255, np.uint8)
    Image.fromarray(ignored).save(labels / "a.png")
    Image.fromarray(ignored[1:]).save(labels / "b.png")
    (labels / "c.png").unlink()
    options = ("--ground-truth", labels, "--no-names", "--no-legend")
    assert run(folder, "--input", folder / "images", *options) == 1
    err = capsys.readouterr().err
    assert "b.png" in err and "44x29" in err and "44x30" in err
    assert "c.png" in err and "FileNotFoundError" in err
    assert files_in(folder / "drawn") == ["a.png"]
    # Ignored pixels are not coloured.
    drawn = read(folder / "drawn" / "a.png")
    assert np.array_equal(drawn[-30:, -44:], read(folder / "images" / "a.png"))


def test_label_maps_hold_the_classes(folder):
    assert run(folder, "--input", folder / "images", "--label-maps", "--scale", 2) == 0
    for name in ("a.png", "b.png", "c.png"):
        class_map = read(folder / "drawn" / "label_maps" / name)
        assert class_map.dtype == np.uint8
        assert np.array_equal(class_map, read(folder / "labels" / name))
    # They are what --ground-truth takes.
    again = ("--ground-truth", folder / "drawn/label_maps")
    assert run(folder, "--input", folder / "images", *again, output="again") == 0


def test_the_legend_is_added_below_and_scale_enlarges(folder):
    file = folder / "images" / "a.png"
    assert run(folder, "--input", file, "--no-names", "--no-legend", output="plain") == 0
    assert run(folder, "--input", file, "--no-names", output="legend") == 0
    assert run(folder, "--input", file, "--no-legend", "--scale", 2.5, output="large") == 0
    plain, legend = read(folder / "plain/a.png"), read(folder / "legend/a.png")
    assert np.array_equal(legend[:30], plain)
    colors = {tuple(c) for c in legend[30:].reshape(-1, 3).tolist()}
    assert set(COLORS) <= colors
    assert read(folder / "large/a.png").shape == (75, 110, 3)


def test_jpeg(folder):
    assert run(folder, "--input", folder / "images/a.png", "--format", "jpg") == 0
    with Image.open(folder / "drawn" / "a.jpg") as picture:
        assert picture.format == "JPEG"


def write_video(file, size, fps=7.5, frames=5):
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), fps, size)
    for i in range(frames):
        frame = np.zeros((size[1], size[0], 3), np.uint8)
        frame[:, : 20 * (i + 1), 2] = 255  # red (BGR) from the left, more in every frame
        frame[:, 20 * (i + 1) :, 0] = 255
        writer.write(frame)
    writer.release()
    return file


def test_a_video_is_drawn_frame_by_frame(folder):
    file = write_video(folder / "drive.avi", (160, 96))
    assert run(folder, "--input", file, "--no-legend", "--alpha", 1, "--label-maps") == 0
    assert [f for f in files_in(folder / "drawn") if "label_maps" not in f] == ["drive.mp4"]
    video = cv2.VideoCapture(str(folder / "drawn" / "drive.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == 7.5
    for i in range(5):
        read_one, frame = video.read()
        assert read_one and frame.shape == (96, 160, 3)
        edge = 20 * (i + 1)
        left, right = frame[8:-8, : edge - 8, ::-1], frame[8:-8, edge + 8 :, ::-1]
        assert np.abs(left.mean(axis=(0, 1)) - COLORS[0]).max() < 12
        assert np.abs(right.mean(axis=(0, 1)) - COLORS[2]).max() < 12
        class_map = read(folder / "drawn" / "label_maps" / "drive" / f"{i:06d}.png")
        assert (class_map[:, : edge - 8] == 0).all() and (class_map[:, edge + 8 :] == 2).all()
    assert not video.read()[0]


def test_a_video_with_odd_sides_keeps_every_pixel(folder):
    file = write_video(folder / "drive.avi", (160, 96))
    # 0.5938 x (160, 96) is (95, 57): MPEG-4 has even sides only.
    assert run(folder, "--input", file, "--no-legend", "--scale", 0.5938) == 0
    read_one, frame = cv2.VideoCapture(str(folder / "drawn" / "drive.mp4")).read()
    assert read_one and frame.shape == (58, 96, 3)


def test_a_video_that_cannot_be_written_leaves_nothing(folder, monkeypatch, capsys):
    file = write_video(folder / "drive.avi", (160, 96))
    monkeypatch.setattr(cv2.VideoWriter, "isOpened", lambda self: False)
    assert run(folder, "--input", file) == 2
    assert "no encoder for mp4v" in capsys.readouterr().err
    assert files_in(folder / "drawn") == []


def test_inputs_are_never_overwritten(folder, capsys):
    file = folder / "images" / "a.png"
    before = file.read_bytes()
    assert run(folder, "--input", file, output="images") == 2
    assert "images/a.png would be overwritten" in capsys.readouterr().err
    truth = ("--ground-truth", folder / "labels")
    assert run(folder, "--input", file, *truth, output="labels") == 2
    assert file.read_bytes() == before


def test_random_predictions_are_refused(folder, capsys):
    arguments = ["--config-file", str(folder / "config.yaml"), "--output", str(folder / "drawn")]
    with pytest.raises(SystemExit) as exit:
        visualize.main([*arguments, "--input", str(folder / "images")])
    assert exit.value.code == 2
    assert "no weights: give --weights" in capsys.readouterr().err
    opts = ["MODEL.WEIGHTS", str(folder / "weights.pth")]
    assert visualize.main(["--input", str(folder / "images"), *arguments, *opts]) == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--alpha", "1.5"], "--alpha is 1.5, expected 0"),
        (["--scale", "0"], "--scale is 0.0"),
        (["--limit", "0"], "--limit is 0"),
        (["--ground-truth"], "--ground-truth without a folder"),
        (["--ground-truth", "nowhere"], "--ground-truth nowhere is not a folder"),
        (["MODEL.DEVICE", "cpu"], "MODEL.DEVICE would be read as an --input"),
        (["--no-names", "MODEL.DEVICE", "cpu", "--no-legend"], "--no-legend comes after"),
    ],
)
def test_options_that_make_no_sense(folder, arguments, message, capsys):
    with pytest.raises(SystemExit) as exit:
        run(folder, "--input", folder / "images", *arguments)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


def test_a_file_where_the_output_folder_should_be(folder, capsys):
    with pytest.raises(SystemExit):
        run(folder, "--input", folder / "images", output="config.yaml")
    assert "config.yaml is a file, expected a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--weights", "none.pth"], "MODEL.WEIGHTS: there is no file none.pth"),
        (["--config-file", "none.yaml"], "no config file none.yaml"),
        (["--device", "cpu", "MODEL.NO_SUCH_KEY", "1"], "Non-existent key: MODEL.NO_SUCH_KEY"),
    ],
)
def test_files_and_keys_that_do_not_exist_are_named(folder, arguments, message, capsys):
    assert run(folder, "--input", folder / "images", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "drawn").exists()


def test_an_unknown_dataset_is_named(folder, capsys):
    assert run(folder, "--dataset", "no_such_dataset") == 2
    assert "no_such_dataset" in capsys.readouterr().err

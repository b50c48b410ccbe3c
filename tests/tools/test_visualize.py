"""tools/visualize.py as a user runs it: what it reads, writes, skips, refuses and returns."""

import json
from itertools import chain

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

import visualize

COLORS = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
SIZE = (60, 80)
KINDS = ("images", "labels", "segments")
PLAIN = ("--no-names", "--no-legend", "--alpha", 0.5)

if "ColourReader" not in META_ARCH_REGISTRY:

    @META_ARCH_REGISTRY.register()
    class ColourReader(nn.Module):
        """Class 0, 1 or 2 where red, green or blue is strongest.

        Every red region is a car too; as a panoptic segment, green is nothing.
        """

        def __init__(self, cfg):
            super().__init__()
            self.gain = nn.Parameter(torch.zeros(1))

        def forward(self, batched_inputs):
            return [self.read(x["image"] * self.gain) for x in batched_inputs]

        def read(self, image):
            red = image[0] > 50
            count, regions = cv2.connectedComponents(red.numpy().astype(np.uint8))
            masks = torch.arange(1, count)[:, None, None] == torch.from_numpy(regions)
            instances = Instances(
                tuple(red.shape),
                pred_masks=masks,
                pred_boxes=Boxes(torch.zeros(len(masks), 4)),
                pred_classes=torch.zeros(len(masks), dtype=torch.int64),
                scores=torch.ones(len(masks)),
            )
            info = [{"id": 1, "category_id": 2, "isthing": False}]
            info += [{"id": i + 2, "category_id": 0, "isthing": True} for i in range(len(masks))]
            ids = torch.from_numpy(regions).int() + 1
            ids[image[1] > 0] = 0
            return {"sem_seg": image, "instances": instances, "panoptic_seg": (ids, info)}


def paint(left):
    """An image of a red car, and its mask."""
    image, car = np.full((*SIZE, 3), (0, 0, 200), np.uint8), np.zeros(SIZE, bool)
    car[10:40, left : left + 25] = True
    image[car], image[:5] = (200, 0, 0), (0, 255, 0)
    return image, car


@pytest.fixture
def folder(tmp_path):
    """A config and weights of ColourReader, and a dataset with two images and all annotations."""
    records, name = [], f"visualize_{tmp_path.name}"
    for kind in KINDS:
        (tmp_path / kind).mkdir()
    for stem, image_id, left in (("a", 10, 5), ("b", 11, 50)):
        files = [str(tmp_path / kind / f"{stem}.png") for kind in KINDS]
        image, car = paint(left)
        segments = np.zeros((*SIZE, 3), np.uint8)
        segments[5:], segments[car] = (0, 1, 0), (4, 0, 0)
        labels = image.argmax(axis=2).astype(np.uint8)
        for file, pixels in zip(files, (image, labels, segments), strict=True):
            Image.fromarray(pixels).save(file)
        polygon = [left, 10, left + 25, 10, left + 25, 40, left, 40]
        records.append(
            {
                "file_name": files[0],
                "image_id": image_id,
                "sem_seg_file_name": files[1],
                "pan_seg_file_name": files[2],
                "segments_info": [
                    {"id": 256, "category_id": 2, "isthing": False},
                    {"id": 4, "category_id": 0, "isthing": True},
                ],
                "annotations": [{"segmentation": [polygon], "category_id": 0}],
            }
        )
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(
        thing_classes=["car"],
        stuff_classes=["red", "green", "blue"],
        thing_colors=COLORS[:1],
        stuff_colors=COLORS,
        ignore_label=255,
        thing_dataset_id_to_contiguous_id={30: 0},
    )
    (tmp_path / "config.yaml").write_text(
        "MODEL:\n  META_ARCHITECTURE: ColourReader\n  DEVICE: cpu\n"
        "INPUT:\n  FORMAT: RGB\n  MIN_SIZE_TEST: 0\n"
        f'DATASETS:\n  TEST: ("{name}",)\n'
    )
    torch.save({"model": {"gain": torch.ones(1)}}, tmp_path / "weights.pth")
    yield tmp_path
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def run(folder, *arguments, output="drawn"):
    """Run the tool with the folder's model; relative paths in ``arguments`` stay as they are."""
    options = {"config-file": "config.yaml", "weights": "weights.pth", "output": output}
    paths = chain.from_iterable((f"--{key}", str(folder / x)) for key, x in options.items())
    return visualize.main([*paths, *map(str, arguments)])


def run_dataset(folder, *arguments):
    return run(folder, "--dataset", f"visualize_{folder.name}", *arguments)


def files_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def read(file):
    return np.asarray(Image.open(file))


def save_copies(folder, *names):
    image = Image.open(folder / "images" / "a.png")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)


def panels_of(picture, height, width):
    """The three pictures that stand side by side."""
    gap = (picture.shape[1] - 3 * width) // 2
    assert 0 < gap < 10
    return [picture[-height:, i * (width + gap) :][:, :width] for i in range(3)]


def test_every_pixel_is_its_images_colour_under_its_classs(folder):
    assert run(folder, "--input", folder / "images", *PLAIN) == 0
    assert files_in(folder / "drawn") == ["a.png", "b.png"]
    image = read(folder / "images" / "b.png")
    expected = (image + np.array(COLORS)[image.argmax(axis=2)]) / 2
    drawn = read(folder / "drawn" / "b.png")
    assert drawn.shape == image.shape
    assert np.abs(drawn - expected).max() <= 0.5


def test_folders_patterns_and_files_together(folder, capsys):
    save_copies(folder, "trip/day1/a.jpg", "trip/day2/a.jpg", "more/a.bmp", "more/d.png")
    save_copies(folder, "x/a.png", "z/x/a.png", "x/A.jpg")
    (folder / "trip" / "notes.txt").write_text("not drawn, and not an error in a folder")
    inputs = [
        folder / "trip",  # its arrangement is kept
        folder / "images/a.png",
        folder / "more/*",  # another a
        folder / "images/../images/a.png",  # the same a again
        f"{folder}/**/d.png",  # found already
        *(folder / name for name in ("x/a.png", "z/x/a.png", "x/A.jpg")),  # more of that name
    ]
    assert run(folder, "--input", *inputs) == 0
    # The first is told apart from a.png too: some file systems do not tell upper from lower case.
    expected = ["A_3", "a", "a_2", "d", "day1/a", "day2/a", "more_a", "x_a"]
    assert files_in(folder / "drawn") == [f"{name}.png" for name in expected]
    assert "drew 8 of 8 inputs" in capsys.readouterr().out


def test_a_second_run_does_not_draw_the_first_ones_pictures(folder):
    for _ in range(2):
        assert run(folder, "--input", folder / "images", output="images/drawn") == 0
        assert files_in(folder / "images" / "drawn") == ["a.png", "b.png"]


def test_what_cannot_be_read_is_reported_and_the_rest_is_drawn(folder, capsys):
    images = folder / "images"
    data = (images / "a.png").read_bytes()
    (images / "cut.png").write_bytes(data[: len(data) // 2])
    (images / "text.jpg").write_text("hello")
    (images / "video.mp4").write_text("hello")
    inputs = [images, images / "video.mp4", folder / "none.png", folder / "*.tif"]
    assert run(folder, "--input", *inputs) == 1
    assert files_in(folder / "drawn") == ["a.png", "b.png"]
    captured = capsys.readouterr()
    for name in ("cut.png", "text.jpg", "video.mp4", "none.png", "*.tif"):
        assert name in captured.err
    assert "drew 2 of 7 inputs" in captured.out


def test_what_cannot_be_drawn_is_reported_and_the_rest_is_drawn(folder, capsys):
    Image.new("RGB", (70000, 1)).save(folder / "images" / "a_wide.png")  # JPEG ends at 65535
    assert run(folder, "--input", folder / "images", *PLAIN, "--format", "jpg") == 1
    assert files_in(folder / "drawn") == ["a.jpg", "b.jpg"]
    captured = capsys.readouterr()
    assert f"skipped: {folder / 'images' / 'a_wide.png'}: " in captured.err
    assert "drew 2 of 3 inputs" in captured.out


def test_nothing_drawn_is_another_exit_code(folder, capsys):
    (folder / "empty").mkdir()
    assert run(folder, "--input", folder / "empty", folder / "none.png") == 2
    assert "empty: no images" in capsys.readouterr().err
    (folder / "text.jpg").write_text("hello")
    assert run(folder, "--input", folder / "text.jpg") == 2


@pytest.mark.parametrize("task", ["semantic", "instance", "panoptic"])
def test_ground_truth_of_a_dataset_beside_image_and_prediction(folder, task):
    options = ("--task", task, "--ground-truth", "--side-by-side")
    assert run_dataset(folder, *options, *PLAIN, "--limit", 1) == 0
    assert files_in(folder / "drawn") == ["a.png"]
    image, prediction, truth = panels_of(read(folder / "drawn" / "a.png"), *SIZE)
    assert np.array_equal(image, paint(5)[0])
    assert np.array_equal(prediction, truth)  # these labels are what is predicted
    assert not np.array_equal(prediction, image)


def test_ground_truth_from_a_folder(folder, capsys):
    labels = folder / "labels"
    save_copies(folder, "images/c.png")
    ignored = np.full(SIZE, 255, np.uint8)
    Image.fromarray(ignored).save(labels / "a.png")
    Image.fromarray(ignored[1:]).save(labels / "b.png")
    options = ("--ground-truth", labels, "--no-names", "--no-legend")
    assert run(folder, "--input", folder / "images", *options) == 1
    err = capsys.readouterr().err
    assert "b.png" in err and "80x59" in err and "80x60" in err and "labels/c.png" in err
    assert files_in(folder / "drawn") == ["a.png"]
    # Ignored pixels are not coloured.
    assert np.array_equal(read(folder / "drawn" / "a.png")[-60:, -80:], paint(5)[0])


def test_label_maps_hold_the_classes(folder):
    assert run(folder, "--input", folder / "images", "--label-maps", "--scale", 2) == 0
    for name in ("a.png", "b.png"):
        class_map = read(folder / "drawn" / "label_maps" / name)
        assert class_map.dtype == np.uint8
        assert np.array_equal(class_map, read(folder / "labels" / name))
    # They are what --ground-truth takes.
    again = ("--ground-truth", folder / "drawn/label_maps")
    assert run(folder, "--input", folder / "images", *again, output="again") == 0


def test_instances_have_the_datasets_ids(folder):
    assert run_dataset(folder, "--task", "instance", "--label-maps") == 0
    results = json.loads((folder / "drawn" / "label_maps" / "instances.json").read_text())
    assert [(r["image_id"], r["category_id"]) for r in results] == [(10, 30), (11, 30)]


def test_scale_and_jpeg(folder):
    options = ("--limit", 1, "--no-legend", "--scale", 2.5, "--format", "jpg")
    assert run(folder, "--input", folder / "images", *options) == 0
    with Image.open(folder / "drawn" / "a.jpg") as picture:
        assert picture.format == "JPEG" and picture.size == (200, 150)


def write_video(file, frames, fps=7.5):
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), fps, (width, height))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
    writer.release()
    return file


def red_from_the_left(width):
    """Red up to a column, blue after it."""
    frame = np.full((96, 160, 3), COLORS[2], np.uint8)
    frame[:, :width] = COLORS[0]
    return frame


def read_video(file):
    video = cv2.VideoCapture(str(file))
    frames = []
    while (frame := video.read()[1]) is not None:
        frames.append(frame[:, :, ::-1])
    return video.get(cv2.CAP_PROP_FPS), frames


@pytest.mark.parametrize("task", ["semantic", "instance", "panoptic"])
def test_a_video_is_drawn_frame_by_frame(folder, task):
    edges = range(20, 120, 20)
    file = write_video(folder / "drive.avi", [red_from_the_left(edge) for edge in edges])
    options = ("--task", task, "--no-legend", "--alpha", 1, "--label-maps")
    assert run(folder, "--input", file, *options) == 0
    fps, frames = read_video(folder / "drawn" / "drive.mp4")
    assert fps == 7.5
    for i, (edge, frame) in enumerate(zip(edges, frames, strict=True)):
        assert frame.shape == (96, 160, 3)
        left, right = frame[8:-8, 8 : edge - 8], frame[8:-8, edge + 8 :]
        assert np.abs(left.mean(axis=(0, 1)) - COLORS[0]).max() < 12
        assert np.abs(right.mean(axis=(0, 1)) - COLORS[2]).max() < 12
        if task == "semantic":
            class_map = read(folder / "drawn" / "label_maps" / "drive" / f"{i:06d}.png")
            assert (class_map[:, : edge - 8] == 0).all() and (class_map[:, edge + 8 :] == 2).all()


def test_a_video_with_odd_sides_keeps_every_pixel(folder):
    file = write_video(folder / "drive.avi", [red_from_the_left(20)])
    # 0.5938 x (160, 96) is (95, 57): MPEG-4 has even sides only.
    assert run(folder, "--input", file, "--no-legend", "--scale", 0.5938) == 0
    assert read_video(folder / "drawn" / "drive.mp4")[1][0].shape == (58, 96, 3)


def test_a_video_that_cannot_be_written_leaves_nothing(folder, monkeypatch, capsys):
    file = write_video(folder / "drive.avi", [red_from_the_left(20)])
    monkeypatch.setattr(cv2.VideoWriter, "isOpened", lambda self: False)
    assert run(folder, "--input", file) == 2
    assert "mp4v" in capsys.readouterr().err
    assert files_in(folder / "drawn") == []


def test_inputs_and_truths_are_never_overwritten(folder, capsys):
    file, labels = folder / "images" / "a.png", folder / "labels"
    before = file.read_bytes(), (labels / "a.png").read_bytes()
    assert run(folder, "--input", file, output="images") == 2
    assert "images/a.png is an input" in capsys.readouterr().err
    assert run(folder, "--input", file, "--ground-truth", labels, output="labels") == 2
    assert (file.read_bytes(), (labels / "a.png").read_bytes()) == before


def test_random_predictions_are_refused(folder, capsys):
    arguments = ["--config-file", str(folder / "config.yaml"), "--output", str(folder / "drawn")]
    arguments += ["--input", str(folder / "images")]
    with pytest.raises(SystemExit, match="2"):
        visualize.main(arguments)
    assert "no weights: give --weights" in capsys.readouterr().err
    assert visualize.main([*arguments, "MODEL.WEIGHTS", str(folder / "weights.pth")]) == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--alpha", "1.5"], "alpha is 1.5"),
        (["--scale", "0"], "scale is 0"),
        (["--score-threshold", "50"], "score_threshold is 50"),
        (["--limit", "0"], "--limit is 0"),
        (["--ground-truth"], "--ground-truth without a folder"),
        (["--ground-truth", "nowhere"], "--ground-truth nowhere is not a folder"),
        (["--config-file", "none.yaml"], "no config file none.yaml"),
        (["--device", "cpu", "MODEL.NO_SUCH_KEY", "1"], "Non-existent key: MODEL.NO_SUCH_KEY"),
        (["--output", __file__], "test_visualize.py is a file"),
    ],
)
def test_what_makes_no_sense_is_named(folder, arguments, message, capsys):
    try:
        code = run(folder, "--input", folder / "images", *arguments)
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (folder / "drawn").exists()


def test_datasets_and_truth_that_there_are_not(folder, capsys):
    assert run(folder, "--dataset", "no_such_dataset") == 2
    assert "no_such_dataset" in capsys.readouterr().err
    labels = ("--ground-truth", folder / "labels")
    assert run(folder, "--input", folder / "images", "--task", "panoptic", *labels) == 2
    assert "--task semantic only" in capsys.readouterr().err
    name = f"visualize_{folder.name}"
    del DatasetCatalog.get(name)[0]["sem_seg_file_name"]
    assert run_dataset(folder, "--ground-truth") == 2
    assert f"{name} has no sem_seg_file_name for " in capsys.readouterr().err


@pytest.mark.parametrize(
    "number, label_map", [(3, "panoptic.json"), (2, "instances.json"), (1, "a.png")]
)
def test_what_of_lrformer_plus_is_drawn(folder, tiny, tiny_opts, number, label_map):
    torch.save({"model": tiny().state_dict()}, folder / "weights.pth")
    opts = tiny_opts | {"DATASETS.TRAIN": f"('visualize_{folder.name}',)"}
    for i, key in enumerate(("SEMANTIC_ON", "INSTANCE_ON", "PANOPTIC_ON")):
        opts[f"MODEL.MASK_FORMER.TEST.{key}"] = i < number
    model = ("--config-file", "models/lrformer_plus_t.yaml")
    inputs = ("--input", folder / "images" / "a.png", "--label-maps")
    assert run(folder, *model, *inputs, *chain.from_iterable(opts.items())) == 0
    assert label_map in files_in(folder / "drawn" / "label_maps")


@pytest.mark.parametrize("augmented", [False, True])
def test_a_row_of_pixels_is_an_image_too(folder, tiny, tiny_opts, augmented):
    torch.save({"model": tiny().state_dict()}, folder / "weights.pth")
    Image.new("RGB", (2000, 1)).save(folder / "row.png")
    Image.new("RGB", (1, 2000)).save(folder / "column.png")
    inputs = ("--input", folder / "row.png", folder / "column.png", *PLAIN)
    opts = tiny_opts | {"INPUT.MIN_SIZE_TEST": 64, "INPUT.MAX_SIZE_TEST": 256}
    opts |= {"TEST.AUG.ENABLED": augmented, "TEST.AUG.MIN_SIZES": "(32,)", "TEST.AUG.MAX_SIZE": 256}
    model = ("--config-file", "models/lrformer_plus_t.yaml")
    assert run(folder, *model, *inputs, *chain.from_iterable(opts.items())) == 0
    assert read(folder / "drawn" / "row.png").shape == (1, 2000, 3)
    assert read(folder / "drawn" / "column.png").shape == (2000, 1, 3)


def test_options_choose_how_the_model_runs(folder, monkeypatch, capsys):
    def load_model(cfg):
        raise ValueError(cfg.TEST.RUNTIME, cfg.TEST.AUG.ENABLED)

    monkeypatch.setattr(visualize, "load_model", load_model)
    options = ("--dtype", "bfloat16", "--compile", "TEST.AUG.ENABLED", "True")
    assert run(folder, "--input", folder / "images", *options) == 2
    error = capsys.readouterr().err
    assert "'DTYPE': 'bfloat16'" in error and "'COMPILE': True" in error and ", True)" in error

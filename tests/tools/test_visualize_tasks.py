"""tools/visualize.py for instance and panoptic models: what it draws, writes and refuses."""

import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

import visualize
from lrformer import add_lrformer_config
from lrformer.inference import predicted_tasks

CAR = [200, 0, 0]
ROAD = [0, 0, 160]
SIZE = (60, 80)

if "RedCarsOnBlackRoad" not in META_ARCH_REGISTRY:

    @META_ARCH_REGISTRY.register()
    class RedCarsOnBlackRoad(nn.Module):
        """Every red region is a car, of a score of its red value / 255; black is the road."""

        def __init__(self, cfg):
            super().__init__()
            self.gain = nn.Parameter(torch.zeros(1))

        def forward(self, batched_inputs):
            return [self.predict(x["image"]) for x in batched_inputs]

        def predict(self, image):
            red = image[0].float() * self.gain
            count, regions = cv2.connectedComponents((red > 0).numpy().astype(np.uint8))
            masks = [torch.from_numpy(regions == i) for i in range(1, count)]
            instances = Instances(tuple(red.shape))
            instances.pred_masks = torch.stack(masks) if masks else torch.zeros(0, *red.shape) > 0
            instances.pred_boxes = Boxes(torch.zeros(len(masks), 4))
            instances.pred_classes = torch.zeros(len(masks), dtype=torch.int64)
            instances.scores = torch.tensor([red[mask].max() / 255 for mask in masks])
            info = [{"id": 1, "category_id": 1, "isthing": False}]
            info += [{"id": i + 2, "category_id": 0, "isthing": True} for i in range(len(masks))]
            ids = torch.from_numpy(regions).int() + 1
            ids[image[1] > 0] = 0
            return {"instances": instances, "panoptic_seg": (ids, info)}


def paint(seed):
    """An image, and the masks of its two cars: the second is doubtful."""
    image = np.zeros((*SIZE, 3), np.uint8)
    first, second = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    first[10 + seed : 40, 5:30] = True
    second[20:50, 50:75] = True
    image[first, 0], image[second, 0] = 250, 100
    image[:5, :, 1] = 255  # green: nothing
    return image, first, second


@pytest.fixture
def folder(tmp_path):
    """Two images with COCO's annotations of both kinds, a config, and weights."""
    (tmp_path / "images").mkdir()
    (tmp_path / "panoptic").mkdir()
    records = []
    for i, name in enumerate("ab"):
        image, first, second = paint(i)
        file, pan_file = tmp_path / "images" / f"{name}.png", tmp_path / "panoptic" / f"{name}.png"
        Image.fromarray(image).save(file)
        ids = np.zeros((*SIZE, 3), np.uint8)
        ids[5:] = (0, 1, 0)  # 256
        ids[first], ids[second] = (4, 0, 0), (5, 0, 0)
        Image.fromarray(ids).save(pan_file)
        boxes = ([[5, 10 + i, 30, 10 + i, 30, 40, 5, 40]], [[50, 20, 75, 20, 75, 50, 50, 50]])
        records.append(
            {
                "file_name": str(file),
                "image_id": 10 + i,
                "pan_seg_file_name": str(pan_file),
                "segments_info": [
                    {"id": 256, "category_id": 1, "isthing": False},
                    {"id": 4, "category_id": 0, "isthing": True},
                    {"id": 5, "category_id": 0, "isthing": True},
                ],
                "annotations": [{"segmentation": s, "category_id": 0} for s in boxes],
            }
        )
    dataset = f"visualize_tasks_{tmp_path.name}"
    DatasetCatalog.register(dataset, lambda: records)
    MetadataCatalog.get(dataset).set(
        thing_classes=["car", "road"],
        stuff_classes=["car", "road"],
        thing_colors=[CAR, ROAD],
        stuff_colors=[CAR, ROAD],
        thing_dataset_id_to_contiguous_id={30: 0},
        stuff_dataset_id_to_contiguous_id={70: 1},
    )
    (tmp_path / "config.yaml").write_text(
        "MODEL:\n  META_ARCHITECTURE: RedCarsOnBlackRoad\n  DEVICE: cpu\n"
        "  SEM_SEG_HEAD:\n    NUM_CLASSES: 2\n"
        "INPUT:\n  FORMAT: RGB\n  MIN_SIZE_TEST: 0\n"
        f'DATASETS:\n  TEST: ("{dataset}",)\n'
    )
    torch.save({"model": {"gain": torch.ones(1)}}, tmp_path / "weights.pth")
    yield tmp_path
    DatasetCatalog.remove(dataset)
    MetadataCatalog.remove(dataset)


def run(folder, *arguments):
    return visualize.main(
        [
            *("--config-file", str(folder / "config.yaml")),
            *("--weights", str(folder / "weights.pth")),
            *("--output", str(folder / "drawn")),
            *map(str, arguments),
        ]
    )


def read(file):
    return np.asarray(Image.open(file)).astype(int)


PLAIN = ("--no-names", "--no-legend", "--alpha", 0.5)


def test_instances_of_at_least_the_threshold(folder):
    image, first, second = paint(0)
    file = folder / "images" / "a.png"
    assert run(folder, "--input", file, "--task", "instance", *PLAIN) == 0
    drawn = read(folder / "drawn" / "a.png")
    assert np.array_equal((drawn != image).any(axis=2), first)
    assert drawn[25, 15].tolist() == [225, 0, 0]
    options = ("--score-threshold", 0.3, *PLAIN)
    assert run(folder, "--input", file, "--task", "instance", *options) == 0
    drawn = read(folder / "drawn" / "a.png")
    assert np.array_equal((drawn != image).any(axis=2), first | second)


def test_panoptic_segments(folder):
    file = folder / "images" / "a.png"
    assert run(folder, "--input", file, "--task", "panoptic", *PLAIN) == 0
    drawn = read(folder / "drawn" / "a.png")
    assert (drawn[:5] == [0, 255, 0]).all()  # nothing is there
    assert (drawn[52:] == [0, 0, 80]).all()
    assert drawn[25, 15].tolist() == [225, 0, 0]


@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_ground_truth_beside_the_prediction(folder, task):
    options = ("--task", task, "--ground-truth", "--side-by-side", "--score-threshold", 0)
    dataset = f"visualize_tasks_{folder.name}"
    assert run(folder, "--dataset", dataset, *options, *PLAIN) == 0
    for name, seed in (("a", 0), ("b", 1)):
        drawn = read(folder / "drawn" / f"{name}.png")[-SIZE[0] :]
        gap = (drawn.shape[1] - 3 * SIZE[1]) // 2
        panels = [drawn[:, i * (SIZE[1] + gap) :][:, : SIZE[1]] for i in range(3)]
        assert np.array_equal(panels[0], paint(seed)[0])
        # The prediction is perfect.
        assert np.array_equal(panels[1], panels[2])
        assert not np.array_equal(panels[1], panels[0])


def test_instances_as_cocos_results(folder):
    dataset = f"visualize_tasks_{folder.name}"
    assert run(folder, "--dataset", dataset, "--task", "instance", "--label-maps") == 0
    results = json.loads((folder / "drawn" / "label_maps" / "instances.json").read_text())
    assert [r["image_id"] for r in results] == [10, 10, 11, 11]
    assert {r["category_id"] for r in results} == {30}
    assert [round(r["score"] * 255) for r in results] == [250, 100, 250, 100]


def test_panoptic_segments_as_cocos_files(folder):
    inputs = ("--input", folder / "images", "--task", "panoptic", "--label-maps")
    assert run(folder, *inputs) == 0
    ids = read(folder / "drawn" / "label_maps" / "b.png") @ [1, 256, 65536]
    _, first, second = paint(1)
    expected = np.where(np.arange(SIZE[0])[:, None] < 5, 0, 1) + first + 2 * second
    assert np.array_equal(ids, expected)
    content = json.loads((folder / "drawn" / "label_maps" / "panoptic.json").read_text())
    assert [a["file_name"] for a in content["annotations"]] == ["a.png", "b.png"]
    categories = [info["category_id"] for info in content["annotations"][0]["segments_info"]]
    assert categories == [70, 30, 30]


@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_a_video_frame_by_frame(folder, task):
    file = str(folder / "drive.avi")
    writer = cv2.VideoWriter(file, cv2.VideoWriter_fourcc(*"MJPG"), 10, (80, 64))
    for red in (0, 250, 0):
        frame = np.zeros((64, 80, 3), np.uint8)
        frame[20:50, 20:50, 2] = red
        writer.write(frame)
    writer.release()
    assert run(folder, "--input", file, "--task", task, "--label-maps") == 0
    video = cv2.VideoCapture(str(folder / "drawn" / "drive.mp4"))
    frames = [video.read()[1][:, :, ::-1] for _ in range(3)]
    assert not video.read()[0]
    red = [frame[35, 35, 0] > 180 for frame in frames]
    assert red == [False, True, False]
    if task == "panoptic":
        content = json.loads((folder / "drawn" / "label_maps" / "panoptic.json").read_text())
        names = [f"drive/{i:06d}.png" for i in range(3)]
        assert [a["file_name"] for a in content["annotations"]] == names


def test_truth_that_the_dataset_does_not_have(folder, capsys):
    dataset = f"visualize_tasks_{folder.name}"
    assert run(folder, "--dataset", dataset, "--task", "semantic", "--ground-truth") == 2
    assert f"{dataset} has no sem_seg_file_name for " in capsys.readouterr().err
    labels = ("--ground-truth", folder / "panoptic")
    assert run(folder, "--input", folder / "images", "--task", "panoptic", *labels) == 2
    assert "label maps, which are ground truth of --task semantic only" in capsys.readouterr().err


def test_truth_that_does_not_fit_is_skipped_with_its_file(folder, capsys):
    image = Image.fromarray(np.full((*SIZE, 3), 9, np.uint8))
    image.save(folder / "panoptic" / "a.png")
    dataset = f"visualize_tasks_{folder.name}"
    assert run(folder, "--dataset", dataset, "--task", "panoptic", "--ground-truth") == 1
    assert "panoptic/a.png: found segment 592137" in capsys.readouterr().err


def test_a_panoptic_truth_is_never_overwritten(folder, capsys):
    before = (folder / "panoptic" / "a.png").read_bytes()
    dataset = f"visualize_tasks_{folder.name}"
    options = ("--dataset", dataset, "--task", "panoptic", "--ground-truth")
    assert run(folder, *options, "--output", folder / "panoptic") == 2
    assert "panoptic/a.png would be overwritten" in capsys.readouterr().err
    assert (folder / "panoptic" / "a.png").read_bytes() == before


def test_a_threshold_that_makes_no_sense(folder, capsys):
    with pytest.raises(SystemExit):
        run(folder, "--input", folder / "images", "--score-threshold", 50)
    assert "--score-threshold is 50.0, expected 0 (all) to 1" in capsys.readouterr().err


def write_plus_config(folder, **on):
    keys = "".join(f"      {key}: {value}\n" for key, value in on.items())
    file = folder / "plus.yaml"
    file.write_text(
        f"MODEL:\n  META_ARCHITECTURE: MaskFormer\n  DEVICE: cpu\n  MASK_FORMER:\n    TEST:\n{keys}"
    )
    return file


@pytest.mark.parametrize(
    "on, task",
    [
        ({"SEMANTIC_ON": True, "INSTANCE_ON": True, "PANOPTIC_ON": True}, "panoptic_seg"),
        ({"SEMANTIC_ON": True, "INSTANCE_ON": True}, "instances"),
        ({"SEMANTIC_ON": True}, "sem_seg"),
        ({"SEMANTIC_ON": False, "PANOPTIC_ON": True}, "panoptic_seg"),
    ],
)
def test_what_is_drawn_without_a_choice(folder, on, task, monkeypatch):
    jobs = []

    class Recorder:
        def __init__(self, **arguments):
            jobs.append(arguments)

        def run(self, sources):
            raise visualize.OutputError("enough")

    class NoPredictor:
        metadata = None

        def __init__(self, cfg, model):
            self.tasks = predicted_tasks(cfg)

    monkeypatch.setattr(visualize, "DrawJob", Recorder)
    monkeypatch.setattr(visualize, "Predictor", NoPredictor)
    monkeypatch.setattr(visualize, "load_model", lambda cfg: None)
    file = write_plus_config(folder, **on)
    assert run(folder, "--config-file", file, "--input", folder / "images") == 2
    assert jobs[0]["task"] == task


def test_a_task_that_is_not_predicted(folder, capsys):
    file = write_plus_config(folder, SEMANTIC_ON=True, INSTANCE_ON=True)
    arguments = ("--config-file", file, "--input", folder / "images", "--task", "panoptic")
    assert run(folder, *arguments) == 2
    err = capsys.readouterr().err
    assert "--task panoptic: the model predicts instance and semantic only" in err
    assert "MODEL.MASK_FORMER.TEST.PANOPTIC_ON True" in err


def test_windows_with_a_model_that_predicts_instances_only(folder, capsys):
    file = write_plus_config(folder, SEMANTIC_ON=False, INSTANCE_ON=True)
    arguments = ("--config-file", file, "--input", folder / "images", "--device", "cpu")
    assert run(folder, *arguments, "TEST.SLIDING_WINDOW.ENABLED", True) == 2
    assert "Set TEST.SLIDING_WINDOW.ENABLED to False" in capsys.readouterr().err


def test_a_model_that_turns_out_to_predict_something_else(folder, capsys):
    # What this architecture predicts is not known before its first image.
    assert predicted_tasks(add_lrformer_config(get_cfg())) is None
    assert run(folder, "--input", folder / "images") == 2
    err = capsys.readouterr().err
    assert "predicts no 'sem_seg' (it predicts: 'instances', 'panoptic_seg')" in err

import json
import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from PIL import Image
from scipy import ndimage

from lrformer.data import DatasetError
from lrformer.evaluation import build_evaluator, output_folder

NAME = "scored_sem_seg"
CLASSES = ["sky", "road", "tree", "boat", "kite"]


@pytest.fixture
def dataset(tmp_path):
    """Registers label maps."""
    records = []

    def register(labels, evaluator_type="sem_seg"):
        for number, label in enumerate(labels):
            file = tmp_path / f"label_{number}.png"
            Image.fromarray(np.array(label, dtype=np.uint8)).save(file)
            records.append({"file_name": f"{number}.jpg", "sem_seg_file_name": str(file)})
        metadata = MetadataCatalog.get(NAME)
        metadata.set(stuff_classes=CLASSES, ignore_label=255, evaluator_type=evaluator_type)

    DatasetCatalog.register(NAME, lambda: records)
    yield register
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.fixture
def cfg(tiny_cfg, tmp_path):
    return tiny_cfg("OUTPUT_DIR", str(tmp_path / "output"))


def _evaluate(evaluator, predictions):
    evaluator.reset()
    for number, prediction in enumerate(predictions):
        scores = torch.nn.functional.one_hot(torch.tensor(prediction), len(CLASSES))
        output = {"sem_seg": scores.permute(2, 0, 1)}
        evaluator.process([{"file_name": f"{number}.jpg"}], [output])
    return evaluator.evaluate()["sem_seg"]


def _saved(cfg):
    text = (output_folder(cfg, NAME) / "sem_seg_results.json").read_text(encoding="utf-8")
    return json.loads(text, parse_constant=pytest.fail)  # NaN is no JSON


@pytest.mark.parametrize("kind", ["sem_seg", "cityscapes_sem_seg"])
def test_scores_of_a_case_worked_out_by_hand(dataset, cfg, caplog, kind):
    # 0 sky, 1 road, 2 tree, 3 boat (predicted, never labelled), 4 kite (nowhere), 255 ignored.
    dataset([[[0, 0, 1, 1]], [[2, 2, 255, 1]]], kind)
    with caplog.at_level(logging.INFO):
        results = _evaluate(build_evaluator(cfg, NAME), [[[0, 1, 1, 1]], [[2, 3, 0, 0]]])
    # Labelled pixels: sky 2, road 3, tree 2. Correct: 1, 2, 1. Predicted there: sky 2 (one of them
    # right), road 3, tree 1, boat 1.
    iou, acc = [1 / 3, 2 / 4, 1 / 2, 0 / 1], [1 / 2, 2 / 3, 1 / 2]
    fw_iou = (2 * iou[0] + 3 * iou[1] + 2 * iou[2]) / 7
    expected = {"mIoU": sum(iou) / 4, "fwIoU": fw_iou, "mACC": sum(acc) / 3, "pACC": 4 / 7}
    expected = {name: pytest.approx(100 * value) for name, value in expected.items()}
    assert {name: results[name] for name in expected} == expected
    assert [results["IoU-road"], results["ACC-road"]] == pytest.approx([50, 200 / 3])
    assert np.isnan(results["IoU-kite"]) and np.isnan(results["ACC-boat"])
    saved = _saved(cfg)
    rows = [{key: row[key] for key in ("name", "IoU", "ACC")} for row in saved.pop("classes")]
    assert rows == [
        {"name": "sky", "IoU": pytest.approx(100 / 3), "ACC": pytest.approx(50)},
        {"name": "road", "IoU": pytest.approx(50), "ACC": pytest.approx(200 / 3)},
        {"name": "tree", "IoU": pytest.approx(50), "ACC": pytest.approx(50)},
        {"name": "boat", "IoU": 0, "ACC": None},
        {"name": "kite", "IoU": None, "ACC": None},
    ]
    del saved["sizes"]
    assert saved == {"dataset": NAME, "images": 2, **expected}
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in caplog.text.splitlines()]
    assert ["road", "50.00", "66.67"] in table
    assert ["kite", "-", "-"] in table


def test_agrees_with_detectron2_where_every_class_occurs(dataset, cfg, tmp_path):
    random = np.random.default_rng(0)
    labels = random.integers(0, len(CLASSES), (3, 40, 30))
    noise = random.integers(0, len(CLASSES), labels.shape)
    predictions = np.where(random.random(labels.shape) < 0.6, labels, noise)
    labels[:, :5] = 255
    dataset(labels)
    ours = _evaluate(build_evaluator(cfg, NAME), predictions)
    theirs = SemSegEvaluator(NAME, distributed=False, output_dir=str(tmp_path / "theirs"))
    theirs = _evaluate(theirs, predictions)
    both = ours.keys() & theirs.keys()
    assert len(both) == 4 + 2 * len(CLASSES)
    assert {key: ours[key] for key in both} == pytest.approx({key: theirs[key] for key in both})


def test_classes_by_size(dataset, cfg):
    dataset([[[0, 0, 1, 1, 2, 2, 3, 3]]])
    MetadataCatalog.get(NAME).stuff_sizes = ["large", "large", "medium", "small", "small"]
    results = _evaluate(build_evaluator(cfg, NAME), [[[0, 0, 0, 1, 2, 4, 3, 3]]])
    # IoU of sky 2/3, road 1/2, tree 1/2, boat 1, kite (never labelled) 0.
    iou = {"large": 100 * (2 / 3 + 1 / 2) / 2, "medium": 50, "small": 50}
    acc = {"large": 75, "medium": 50, "small": 100}
    sizes = _saved(cfg)["sizes"]
    for size in iou:
        expected = pytest.approx({"mIoU": iou[size], "mACC": acc[size]})
        assert sizes[f"{size} classes"] == expected
        assert {key: results[f"{key}-{size} classes"] for key in ("mIoU", "mACC")} == expected


@pytest.fixture
def patches(dataset):
    """Registers two maps of patches of very different areas, part of them ignored; predictions."""
    random = np.random.default_rng(0)
    labels = np.zeros((2, 160, 240), dtype=np.int64)
    for _ in range(60):
        height, width = random.integers(4, 110, 2)
        number, y, x = random.integers(0, [2, 160, 240])
        labels[number, y : y + height, x : x + width] = random.integers(0, 4)
    predictions = np.roll(labels, (3, 5), (1, 2))
    predictions[:, 40:60, 100:180] = 4
    labels[:, :30, :50] = 255
    dataset(labels)
    return labels, predictions


def _sizes(classes):
    """Each pixel's size, from SciPy's connected components of each class."""
    sizes = np.zeros(classes.shape, int)
    for label in np.unique(classes):
        segments, _ = ndimage.label(classes == label)
        for number, area in enumerate(np.bincount(segments.ravel())[1:], 1):
            sizes[segments == number] = 0 if area < 32 * 32 else 1 if area < 96 * 96 else 2
    return sizes


def test_scores_by_the_segments_size(patches, cfg):
    labels, predictions = patches
    true_sizes, predicted_sizes = (np.stack([_sizes(x) for x in maps]) for maps in patches)
    _evaluate(build_evaluator(cfg, NAME), predictions)
    saved = _saved(cfg)
    for number, size in enumerate(("small", "medium", "large")):
        scores = []
        for label, row in enumerate(saved["classes"]):
            true = (labels == label) & (true_sizes == number)
            false = (predictions == label) & (labels != label) & (labels != 255)
            false &= predicted_sizes == number
            hits = (true & (predictions == label)).sum()
            union = true.sum() + false.sum()
            scores.append([100 * hits / n if n else None for n in (union, true.sum())])
            found = [row[f"{metric}-{size} segments"] for metric in ("IoU", "ACC")]
            assert found == pytest.approx(scores[-1])
        means = [np.mean([x for x in column if x is not None]) for column in np.transpose(scores)]
        assert list(saved["sizes"][f"{size} segments"].values()) == pytest.approx(means)
        assert 0 < means[0] < means[1] < 100


def test_segments_that_touch_at_a_corner_are_two(dataset, cfg):
    # Two squares of 30 x 30, each small, would be a medium one together.
    label = np.zeros((60, 60), dtype=int)
    label[:30, :30] = label[30:, 30:] = 1
    dataset([label])
    _evaluate(build_evaluator(cfg, NAME), [label])
    road = _saved(cfg)["classes"][1]
    assert road["ACC-small segments"] == 100 and road["ACC-medium segments"] is None


def test_boundary_iou_of_a_case_worked_out_by_hand(dataset, cfg, caplog):
    # The distance is a pixel: rings of 12 pixels, of which 6 are shared. Sky, in the whole image:
    # around the squares 20 pixels, at the edge 36.
    label, prediction = np.zeros((2, 10, 10), dtype=int)
    label[3:7, 3:7] = prediction[3:7, 4:8] = 1
    dataset([label])
    assert "mBoundaryIoU" not in _evaluate(build_evaluator(cfg, NAME), [prediction])
    cfg.TEST.BOUNDARY_IOU.ENABLED = True
    with caplog.at_level(logging.INFO):
        results = _evaluate(build_evaluator(cfg, NAME), [prediction])
    assert results["IoU-road"] == pytest.approx(60)
    assert results["BoundaryIoU-road"] == pytest.approx(100 * 6 / 18)
    assert _saved(cfg)["mBoundaryIoU"] == pytest.approx(results["mBoundaryIoU"])
    assert "BoundaryIoU" in caplog.text


@pytest.mark.parametrize("ratio", [0.02, 0.005])
def test_boundary_iou_by_erosion_of_each_classs_mask(patches, cfg, ratio):
    cfg.TEST.BOUNDARY_IOU.ENABLED, cfg.TEST.BOUNDARY_IOU.DILATION_RATIO = True, ratio
    labels, predictions = patches
    results = _evaluate(build_evaluator(cfg, NAME), predictions)
    steps = round(ratio * (160**2 + 240**2) ** 0.5)
    iou = []
    for label in range(len(CLASSES)):
        true, predicted = (
            np.stack([x & ~ndimage.binary_erosion(x, np.ones((3, 3)), steps) for x in maps])
            for maps in (labels == label, predictions == label)
        )
        predicted &= labels != 255
        iou.append(100 * (true & predicted).sum() / (true | predicted).sum())
    assert [results[f"BoundaryIoU-{name}"] for name in CLASSES] == pytest.approx(iou)
    assert results["mBoundaryIoU"] == pytest.approx(np.mean(iou))
    assert 0 < results["mBoundaryIoU"] < results["mIoU"]


def test_nothing_labelled_gives_no_score_but_valid_json(dataset, cfg):
    dataset([[[255, 255]]])
    results = _evaluate(build_evaluator(cfg, NAME), [[[0, 1]]])
    assert np.isnan(results["mIoU"])
    assert _saved(cfg)["mIoU"] is None


def test_predictions_are_written_only_when_asked_for(dataset, cfg):
    dataset([[[0, 1, 1]]])
    file = output_folder(cfg, NAME) / "sem_seg_predictions.json"
    for cfg.TEST.SAVE_PREDICTIONS in (False, True):
        _evaluate(build_evaluator(cfg, NAME), [[[0, 1, 1]]])
        assert file.exists() == cfg.TEST.SAVE_PREDICTIONS
    segments = json.loads(file.read_text())
    assert [segment["category_id"] for segment in segments] == [0, 1]
    assert segments[1]["segmentation"]["size"] == [1, 3]


@pytest.mark.parametrize("label, message", [([[0, 7]], "found label 7"), ([[0]], "map is 1x1")])
def test_a_wrong_label_or_size_names_the_file(dataset, cfg, label, message):
    dataset([[[0, 1]], label])
    with pytest.raises(DatasetError, match=f"label_1.png: .*{message}"):
        _evaluate(build_evaluator(cfg, NAME), [[[0, 1]], [[0, 1]]])


def test_an_unknown_kind_of_dataset_is_told_with_the_known_ones(dataset, cfg):
    dataset([[[0]]], "panoptic")
    known = "cityscapes_sem_seg, coco, coco_panoptic_seg, referring, sem_seg"
    with pytest.raises(ValueError, match=f"{NAME}.*'panoptic'.*{known}"):
        build_evaluator(cfg, NAME)

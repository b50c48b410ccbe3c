import json
import logging
import sys

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from lrformer import add_lrformer_config
from lrformer.data import DatasetError
from lrformer.evaluation import build_evaluator

NAME = "scored_sem_seg"
CLASSES = ["sky", "road", "tree", "boat", "kite"]


@pytest.fixture
def dataset(tmp_path):
    """Registers label maps; returns a function that scores predictions for them."""
    records = []

    def register(labels, evaluator_type="sem_seg"):
        for number, label in enumerate(labels):
            file = tmp_path / f"label_{number}.png"
            Image.fromarray(np.array(label, dtype=np.uint8)).save(file)
            records.append({"file_name": f"{number}.jpg", "sem_seg_file_name": str(file)})
        MetadataCatalog.get(NAME).set(
            stuff_classes=CLASSES, ignore_label=255, evaluator_type=evaluator_type
        )

    DatasetCatalog.register(NAME, lambda: records)
    yield register
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.fixture
def cfg(tmp_path):
    cfg = add_lrformer_config(get_cfg())
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    return cfg


def _scores(prediction):
    """Scores whose argmax is the prediction."""
    return torch.nn.functional.one_hot(torch.tensor(prediction), len(CLASSES)).permute(2, 0, 1)


def _evaluate(cfg, predictions):
    evaluator = build_evaluator(cfg, NAME)
    evaluator.reset()
    for number, prediction in enumerate(predictions):
        evaluator.process([{"file_name": f"{number}.jpg"}], [{"sem_seg": _scores(prediction)}])
    return evaluator.evaluate()["sem_seg"]


def _saved(cfg):
    def no_constant(name):
        raise AssertionError(f"{name} is no JSON")

    file = f"{cfg.OUTPUT_DIR}/inference/{NAME}/sem_seg_results.json"
    with open(file, encoding="utf-8") as f:
        return json.load(f, parse_constant=no_constant)


@pytest.mark.parametrize("kind", ["sem_seg", "cityscapes_sem_seg"])
def test_scores_of_a_case_worked_out_by_hand(dataset, cfg, caplog, kind):
    # 0 sky, 1 road, 2 tree, 3 boat (predicted, never labelled), 4 kite (nowhere), 255 ignored.
    dataset([[[0, 0, 1, 1]], [[2, 2, 255, 1]]], kind)
    with caplog.at_level(logging.INFO):
        results = _evaluate(cfg, [[[0, 1, 1, 1]], [[2, 3, 0, 0]]])
    # Labelled pixels: sky 2, road 3, tree 2. Correct: 1, 2, 1. Predicted there: sky 2 (one of them
    # right), road 3, tree 1, boat 1.
    iou = [1 / 3, 2 / 4, 1 / 2, 0 / 1]
    acc = [1 / 2, 2 / 3, 1 / 2]
    expected = {
        "mIoU": sum(iou) / 4,
        "fwIoU": (2 * iou[0] + 3 * iou[1] + 2 * iou[2]) / 7,
        "mACC": sum(acc) / 3,
        "pACC": 4 / 7,
    }
    expected = {name: pytest.approx(100 * value) for name, value in expected.items()}
    assert {name: results[name] for name in expected} == expected
    assert results["IoU-road"] == pytest.approx(50)
    assert results["ACC-road"] == pytest.approx(100 * 2 / 3)
    assert np.isnan(results["IoU-kite"]) and np.isnan(results["ACC-boat"])

    saved = _saved(cfg)
    assert saved.pop("classes") == [
        {"name": "sky", "IoU": pytest.approx(100 / 3), "ACC": pytest.approx(50)},
        {"name": "road", "IoU": pytest.approx(50), "ACC": pytest.approx(200 / 3)},
        {"name": "tree", "IoU": pytest.approx(50), "ACC": pytest.approx(50)},
        {"name": "boat", "IoU": 0, "ACC": None},
        {"name": "kite", "IoU": None, "ACC": None},
    ]
    assert saved == {"dataset": NAME, "images": 2, **expected}
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in caplog.text.splitlines()]
    assert ["road", "50.00", "66.67"] in table
    assert ["kite", "-", "-"] in table


def test_agrees_with_detectron2_where_every_class_occurs(dataset, cfg, tmp_path):
    from detectron2.evaluation import SemSegEvaluator

    random = np.random.default_rng(0)
    labels = random.integers(0, len(CLASSES), (3, 40, 30))
    noise = random.integers(0, len(CLASSES), labels.shape)
    predictions = np.where(random.random(labels.shape) < 0.6, labels, noise)
    labels[:, :5] = 255
    dataset(labels)
    ours = _evaluate(cfg, predictions)
    theirs = SemSegEvaluator(NAME, distributed=False, output_dir=str(tmp_path / "theirs"))
    theirs.reset()
    for number, prediction in enumerate(predictions):
        theirs.process([{"file_name": f"{number}.jpg"}], [{"sem_seg": _scores(prediction)}])
    theirs = theirs.evaluate()["sem_seg"]
    assert ours == pytest.approx({name: theirs[name] for name in ours})
    assert set(ours) <= set(theirs)


def test_nothing_labelled_gives_no_score_but_valid_json(dataset, cfg):
    dataset([[[255, 255]]])
    results = _evaluate(cfg, [[[0, 1]]])
    assert np.isnan(results["mIoU"])
    assert _saved(cfg)["mIoU"] is None


def test_many_classes_are_shown_side_by_side(dataset, cfg, caplog, monkeypatch):
    names = [f"class {number}" for number in range(31)]
    monkeypatch.setattr(sys.modules[__name__], "CLASSES", names)
    dataset([[[0]]])
    evaluator = build_evaluator(cfg, NAME)
    evaluator.reset()
    with caplog.at_level(logging.INFO):
        evaluator.process([{"file_name": "0.jpg"}], [{"sem_seg": torch.zeros(31, 1, 1)}])
        evaluator.evaluate()
    lines = [line for line in caplog.text.splitlines() if line.startswith("| class ")]
    assert len(lines) == 1 + 11  # the header and a third of the classes
    assert all(caplog.text.count(f"| {name} ") == 1 for name in names)


def test_predictions_are_written_only_when_asked_for(dataset, cfg, tmp_path):
    dataset([[[0, 1, 1]]])
    file = tmp_path / "output" / "inference" / NAME / "sem_seg_predictions.json"
    _evaluate(cfg, [[[0, 1, 1]]])
    assert not file.exists()
    cfg.TEST.SAVE_PREDICTIONS = True
    _evaluate(cfg, [[[0, 1, 1]]])
    segments = json.loads(file.read_text())
    assert [segment["category_id"] for segment in segments] == [0, 1]
    assert segments[1]["segmentation"]["size"] == [1, 3]


def test_a_wrong_label_or_size_names_the_file(dataset, cfg):
    dataset([[[0, 7]], [[0, 1]]])
    evaluator = build_evaluator(cfg, NAME)
    evaluator.reset()
    with pytest.raises(DatasetError, match="label_0.png: found label 7; expected 0..4"):
        evaluator.process([{"file_name": "0.jpg"}], [{"sem_seg": _scores([[0, 1]])}])
        evaluator.evaluate()
    evaluator.reset()
    with pytest.raises(DatasetError, match="label_1.png: the label map is 2x1, .* 1.jpg 3x1"):
        evaluator.process([{"file_name": "1.jpg"}], [{"sem_seg": _scores([[0, 1, 1]])}])
        evaluator.evaluate()


def test_an_unknown_kind_of_dataset_is_told_with_the_known_ones(dataset, cfg):
    dataset([[[0]]], "panoptic")
    with pytest.raises(
        ValueError,
        match=f"{NAME}.*'panoptic'.*cityscapes_sem_seg, coco, coco_panoptic_seg, sem_seg",
    ):
        build_evaluator(cfg, NAME)

import json
import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from PIL import Image

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
    random = np.random.default_rng(0)
    labels = random.integers(0, len(CLASSES), (3, 40, 30))
    noise = random.integers(0, len(CLASSES), labels.shape)
    predictions = np.where(random.random(labels.shape) < 0.6, labels, noise)
    labels[:, :5] = 255
    dataset(labels)
    ours = _evaluate(build_evaluator(cfg, NAME), predictions)
    theirs = SemSegEvaluator(NAME, distributed=False, output_dir=str(tmp_path / "theirs"))
    theirs = _evaluate(theirs, predictions)
    assert ours == pytest.approx({name: theirs[name] for name in ours})


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
    known = "cityscapes_sem_seg, coco, coco_panoptic_seg, sem_seg"
    with pytest.raises(ValueError, match=f"{NAME}.*'panoptic'.*{known}"):
        build_evaluator(cfg, NAME)

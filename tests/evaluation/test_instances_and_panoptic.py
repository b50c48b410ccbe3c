import importlib.util
import json
import sys
import types

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BitMasks, Instances
from PIL import Image
from pycocotools import mask as coco_mask

from lrformer import add_lrformer_config
from lrformer.data import DatasetError
from lrformer.evaluation import PanopticEvaluator, best_metric, build_evaluator
from lrformer.evaluation.panoptic import count_segments, qualities

NAME = "scored_segments"
# Dataset ids; contiguous ids are given in another order, and things are not the first of them.
SKY, ROAD, CAR, PERSON = 3, 5, 7, 9
LABELS = {SKY: 0, CAR: 1, ROAD: 2, PERSON: 3}


@pytest.fixture
def cfg(tmp_path):
    cfg = add_lrformer_config(get_cfg())
    cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
    cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_ON = False
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    return cfg


@pytest.fixture
def dataset(tmp_path):
    """Registers one image with panoptic and instance annotations."""

    def register(ids, segments):
        ids = np.array(ids)
        png = np.stack([ids % 256, ids // 256, 0 * ids], axis=-1).astype(np.uint8)
        Image.fromarray(png).save(tmp_path / "a.png")
        categories = [
            {"id": i, "name": f"class {i}", "isthing": int(i in (CAR, PERSON))}
            for i in (PERSON, CAR, ROAD, SKY)
        ]
        image = {"id": 42, "file_name": "a.jpg", "height": ids.shape[0], "width": ids.shape[1]}
        panoptic = {
            "images": [image],
            "categories": categories,
            "annotations": [{"image_id": 42, "file_name": "a.png", "segments_info": segments}],
        }
        (tmp_path / "panoptic.json").write_text(json.dumps(panoptic))
        annotations = []
        for number, segment in enumerate(segments):
            if segment["category_id"] not in (CAR, PERSON):
                continue
            mask = np.asfortranarray(ids == segment["id"]).astype(np.uint8)
            rle = coco_mask.encode(mask)
            annotations.append(
                {
                    "id": number + 1,
                    "image_id": 42,
                    "category_id": segment["category_id"],
                    "iscrowd": segment.get("iscrowd", 0),
                    "area": int(mask.sum()),
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    "segmentation": {**rle, "counts": rle["counts"].decode()},
                }
            )
        instances = {
            "info": {},
            "images": [image],
            "categories": [c for c in categories if c["isthing"]],
            "annotations": annotations,
        }
        (tmp_path / "instances.json").write_text(json.dumps(instances))
        MetadataCatalog.get(NAME).set(
            evaluator_type="coco_panoptic_seg",
            panoptic_json=str(tmp_path / "panoptic.json"),
            panoptic_root=str(tmp_path),
            json_file=str(tmp_path / "instances.json"),
            thing_dataset_id_to_contiguous_id={CAR: LABELS[CAR], PERSON: LABELS[PERSON]},
            stuff_dataset_id_to_contiguous_id=LABELS,
        )

    DatasetCatalog.register(NAME, list)
    yield register
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def _segment(number, category, **more):
    return {"id": number, "category_id": category, **more}


def _predicted(number, category):
    return {"id": number, "category_id": LABELS[category], "isthing": category in (CAR, PERSON)}


def _panoptic(cfg, ids, segments):
    cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON = True
    evaluator = build_evaluator(cfg, NAME)
    evaluator.reset()
    output = {"panoptic_seg": (torch.tensor(ids, dtype=torch.int32), segments)}
    evaluator.process([{"image_id": 42, "file_name": "a.jpg"}], [output])
    return evaluator.evaluate()["panoptic_seg"]


# 4 x 6: sky over road, a car (300, so that an id needs two bytes) and a person on it.
TRUTH = [
    [1, 1, 1, 1, 1, 1],
    [1, 1, 1, 1, 4, 4],
    [2, 300, 300, 2, 4, 4],
    [2, 300, 300, 2, 2, 2],
]
SEGMENTS = [_segment(1, SKY), _segment(2, ROAD), _segment(300, CAR), _segment(4, PERSON)]


def test_the_truth_as_prediction_scores_100(cfg, dataset):
    dataset(TRUTH, SEGMENTS)
    predicted = [_predicted(s["id"], s["category_id"]) for s in SEGMENTS]
    scores = _panoptic(cfg, TRUTH, predicted)
    assert scores == pytest.approx(dict.fromkeys(scores, 100.0))
    assert list(scores) == [f"{m}{s}" for s in ("", "_th", "_st") for m in ("PQ", "SQ", "RQ")]


def test_panoptic_quality_of_a_case_worked_out_by_hand(cfg, dataset, tmp_path):
    dataset(TRUTH, SEGMENTS)
    prediction = [
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1],
        [2, 7, 7, 2, 2, 2],
        [2, 7, 2, 2, 2, 2],
    ]
    scores = _panoptic(
        cfg, prediction, [_predicted(1, SKY), _predicted(2, ROAD), _predicted(7, CAR)]
    )
    # Sky: 10 of 12. Road: 6 true, 9 predicted, all 6 within: 6 / 9. Car: 3 of 4. Person: missed.
    iou = {SKY: 10 / 12, ROAD: 6 / 9, CAR: 3 / 4, PERSON: 0}
    assert scores["PQ"] == pytest.approx(100 * sum(iou.values()) / 4)
    assert scores["SQ"] == pytest.approx(100 * sum(iou.values()) / 4)
    assert scores["RQ"] == pytest.approx(75)
    assert scores["PQ_th"] == pytest.approx(37.5)
    assert scores["PQ_st"] == pytest.approx(50 * (10 / 12 + 6 / 9))
    file = tmp_path / "output" / "inference" / NAME / "panoptic_results.json"
    saved = json.loads(file.read_text())
    assert saved["PQ"] == pytest.approx(scores["PQ"])
    assert {c["name"]: c["PQ"] for c in saved["classes"]} == pytest.approx(
        {f"class {i}": 100 * value for i, value in iou.items()}
    )


def test_pixels_without_annotation_and_crowds_do_not_count():
    # Class 0: segment 1 and a crowd (2); class 1: nothing annotated; 0 is not annotated.
    truth = np.array([[1, 1, 0, 0], [2, 2, 2, 0]])
    predicted = np.array([[5, 5, 5, 0], [6, 6, 7, 7]])
    counts = count_segments(
        truth, {1: (0, False), 2: (0, True)}, predicted, {5: 0, 6: 0, 7: 1}, num_classes=2
    )
    # 5 matches 1 with an IoU of 2/2 (its third pixel is not annotated); 6 lies on the crowd of its
    # class; 7, of another class, has half of its pixels where nothing is annotated: not more.
    assert counts.tolist() == [[1, 1.0, 0, 0], [0, 0, 1, 0]]
    scores = qualities(counts)
    assert scores["PQ"].tolist() == [100, 0]
    assert scores["SQ"].tolist() == [100, 0]


def test_a_class_that_never_occurs_has_no_score():
    scores = qualities(np.zeros((1, 4)))
    assert all(np.isnan(values).all() for values in scores.values())


def test_panoptic_quality_agrees_with_torchmetrics():
    detection = pytest.importorskip("torchmetrics.detection")
    rng = np.random.default_rng(0)
    ids = [np.kron(rng.integers(1, 9, (4, 4)), np.ones((4, 4), int)) for _ in range(2)]
    ids[1] = np.where(rng.random((16, 16)) < 0.8, ids[0], ids[1])
    classes = {i: int(rng.integers(0, 4)) for i in range(1, 9)}
    ours = qualities(
        count_segments(ids[0], {i: (c, False) for i, c in classes.items()}, ids[1], classes, 4)
    )
    # Its stuff classes merge segments: all classes are things here.
    metric = detection.PanopticQuality(things=set(range(4)), stuffs={9}, return_per_class=True)
    pairs = [np.stack([np.vectorize(classes.get)(x), x], axis=-1)[None] for x in ids]
    theirs = metric(torch.tensor(pairs[1]), torch.tensor(pairs[0]))[0, :4]
    present = ~np.isnan(ours["PQ"])
    assert ours["PQ"][present] / 100 == pytest.approx(theirs.numpy()[present])


def test_detectron2s_evaluator_is_used_where_panopticapi_is(cfg, dataset, monkeypatch):
    dataset(TRUTH, SEGMENTS)
    cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON = True
    assert isinstance(build_evaluator(cfg, NAME), PanopticEvaluator)
    package = types.ModuleType("panopticapi")
    package.__spec__ = importlib.util.spec_from_loader("panopticapi", loader=None)
    monkeypatch.setitem(sys.modules, "panopticapi", package)
    assert type(build_evaluator(cfg, NAME)).__name__ == "COCOPanopticEvaluator"


def test_without_panopticapi_it_says_what_computes_pq(cfg, dataset, caplog):
    dataset(TRUTH, SEGMENTS)
    cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON = True
    with caplog.at_level("INFO"):
        build_evaluator(cfg, NAME)
    assert "panopticapi" in caplog.text and "pip install" in caplog.text


def test_a_prediction_of_another_size_is_an_error(cfg, dataset):
    dataset(TRUTH, SEGMENTS)
    with pytest.raises(DatasetError, match=r"a\.png: the annotation is 6x4, the prediction.* 5x4"):
        _panoptic(cfg, np.ones((4, 5), int), [])


def _instances(masks, categories, scores):
    masks = torch.tensor(np.array(masks), dtype=torch.bool)
    return Instances(
        tuple(masks.shape[1:]),
        pred_masks=masks,
        pred_boxes=BitMasks(masks).get_bounding_boxes(),
        pred_classes=torch.tensor([LABELS[i] for i in categories]),
        scores=torch.tensor(scores),
    )


def _average_precision(cfg, instances):
    cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON = True
    evaluator = build_evaluator(cfg, NAME)
    evaluator.reset()
    evaluator.process([{"image_id": 42, "file_name": "a.jpg"}], [{"instances": instances}])
    return evaluator.evaluate()["segm"]


def test_instances_of_a_dataset_whose_first_classes_are_stuff(cfg, dataset):
    dataset(TRUTH, SEGMENTS)
    truth = np.array(TRUTH)
    # A model that does not tell things from stuff also predicts sky, surer than anything.
    perfect = _instances([truth == 1, truth == 300, truth == 4], [SKY, CAR, PERSON], [1, 0.9, 0.8])
    scores = _average_precision(cfg, perfect)
    assert scores["AP"] == pytest.approx(100)
    assert scores[f"AP-class {CAR}"] == scores[f"AP-class {PERSON}"] == pytest.approx(100)

    shifted = np.roll(truth == 300, 1, axis=1)  # an IoU of 2/6 with the car: never right
    scores = _average_precision(cfg, _instances([shifted, truth == 4], [CAR, PERSON], [0.9, 0.8]))
    assert scores["AP"] == pytest.approx(50)


def test_no_instance_at_all_is_no_crash(cfg, dataset):
    dataset(TRUTH, SEGMENTS)
    nothing = _instances(np.zeros((0, 4, 6)), [], [])
    assert np.isnan(_average_precision(cfg, nothing)["AP"])


def test_a_model_that_predicts_all_tasks_gets_all_scores(cfg, dataset):
    dataset(TRUTH, SEGMENTS)
    cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON = cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON = True
    evaluator = build_evaluator(cfg, NAME)
    evaluator.reset()
    truth = np.array(TRUTH)
    output = {
        "panoptic_seg": (
            torch.tensor(TRUTH),
            [_predicted(s["id"], s["category_id"]) for s in SEGMENTS],
        ),
        "instances": _instances([truth == 300, truth == 4], [CAR, PERSON], [0.9, 0.8]),
    }
    evaluator.process([{"image_id": 42, "file_name": "a.jpg"}], [output])
    results = evaluator.evaluate()
    assert results["panoptic_seg"]["PQ"] == pytest.approx(100)
    assert results["segm"]["AP"] == pytest.approx(100)
    # The first of the tasks decides which checkpoint is the best.
    assert best_metric(cfg, NAME) == "panoptic_seg/PQ"


def test_a_model_that_predicts_something_else_is_an_error(cfg, dataset):
    dataset(TRUTH, SEGMENTS)
    cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_ON = True
    message = "annotations for panoptic_seg and instances, but the model .MaskFormer. predicts "
    with pytest.raises(ValueError, match=message + "sem_seg; MODEL.MASK_FORMER.TEST"):
        build_evaluator(cfg, NAME)

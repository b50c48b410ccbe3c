import importlib.util
import json
import sys
import types

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator
from detectron2.structures import BitMasks, Instances
from PIL import Image
from pycocotools import mask as coco_mask

from lrformer.data import DatasetError
from lrformer.evaluation import best_metric, build_evaluator, output_folder
from lrformer.evaluation.panoptic import PanopticEvaluator, count_segments, qualities
from lrformer.inference.tasks import TASK_KEYS

NAME = "scored_segments"
# Dataset ids; contiguous ids are given in another order, and things are not the first of them.
SKY, ROAD, CAR, PERSON = 3, 5, 7, 9
LABELS = {SKY: 0, CAR: 1, ROAD: 2, PERSON: 3}


# 4 x 6: sky over road, a car (300, so that an id needs two bytes) and a person on it.
TRUTH = np.array(
    [
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 4, 4],
        [2, 300, 300, 2, 4, 4],
        [2, 300, 300, 2, 2, 2],
    ]
)
SEGMENTS = {1: SKY, 2: ROAD, 300: CAR, 4: PERSON}


@pytest.fixture(autouse=True)
def dataset(tmp_path):
    """One image with panoptic and instance annotations."""
    png = np.stack([TRUTH % 256, TRUTH // 256, 0 * TRUTH], axis=-1).astype(np.uint8)
    Image.fromarray(png).save(tmp_path / "a.png")
    things = {i: LABELS[i] for i in (PERSON, CAR)}
    categories = [{"id": i, "name": f"class {i}", "isthing": int(i in things)} for i in LABELS]
    images = [{"id": 42, "file_name": "a.jpg", "height": 4, "width": 6}]
    segments = [{"id": i, "category_id": category} for i, category in SEGMENTS.items()]
    objects = []
    for segment in segments[2:]:
        rle = coco_mask.encode(np.asfortranarray(segment["id"] == TRUTH).astype(np.uint8))
        rle["counts"] = rle["counts"].decode()
        objects.append({**segment, "image_id": 42, "iscrowd": 0, "area": 4, "segmentation": rle})
    files = {
        "panoptic": [{"image_id": 42, "file_name": "a.png", "segments_info": segments}],
        "instances": objects,
    }
    for kind, annotations in files.items():
        content = {"info": {}, "images": images, "annotations": annotations}
        content["categories"] = [c for c in categories if kind == "panoptic" or c["isthing"]]
        (tmp_path / f"{kind}.json").write_text(json.dumps(content))
    DatasetCatalog.register(NAME, list)
    MetadataCatalog.get(NAME).set(
        evaluator_type="coco_panoptic_seg",
        panoptic_json=str(tmp_path / "panoptic.json"),
        panoptic_root=str(tmp_path),
        json_file=str(tmp_path / "instances.json"),
        thing_dataset_id_to_contiguous_id=things,
        stuff_dataset_id_to_contiguous_id=LABELS,
    )
    yield
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.fixture
def make_cfg(tiny_cfg, tmp_path):
    def make(*tasks):
        choice = [x for task, key in TASK_KEYS.items() for x in (key, task in tasks)]
        return tiny_cfg("OUTPUT_DIR", str(tmp_path / "output"), *choice)

    return make


@pytest.fixture
def evaluate(make_cfg):
    """The scores of one image's prediction."""

    def evaluate(**output):
        evaluator = build_evaluator(make_cfg(*output), NAME)
        evaluator.reset()
        evaluator.process([{"image_id": 42, "file_name": "a.jpg"}], [output])
        return evaluator.evaluate()

    return evaluate


def _panoptic(ids, segments):
    """A prediction from {id: category}."""
    info = [
        {"id": i, "category_id": LABELS[category], "isthing": category in (CAR, PERSON)}
        for i, category in segments.items()
    ]
    return torch.tensor(ids, dtype=torch.int32), info


def _instances(masks, categories, scores):
    masks = torch.tensor(np.array(masks), dtype=torch.bool)
    return Instances(
        tuple(masks.shape[1:]),
        pred_masks=masks,
        pred_boxes=BitMasks(masks).get_bounding_boxes(),
        pred_classes=torch.tensor([LABELS[i] for i in categories]),
        scores=torch.tensor(scores),
    )


def test_a_model_that_predicts_the_truth_of_all_tasks(evaluate, make_cfg):
    instances = _instances([TRUTH == 300, TRUTH == 4], [CAR, PERSON], [0.9, 0.8])
    results = evaluate(panoptic_seg=_panoptic(TRUTH, SEGMENTS), instances=instances)
    names = [f"{metric}{kind}" for kind in ("", "_th", "_st") for metric in ("PQ", "SQ", "RQ")]
    assert results["panoptic_seg"] == pytest.approx(dict.fromkeys(names, 100.0))
    assert results["segm"]["AP"] == pytest.approx(100)
    # The first of the tasks decides which checkpoint is the best.
    assert best_metric(make_cfg("panoptic_seg", "instances"), NAME) == "panoptic_seg/PQ"


def test_panoptic_quality_of_a_case_worked_out_by_hand(evaluate, make_cfg):
    ids = [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [2, 7, 7, 2, 2, 2], [2, 7, 2, 2, 2, 2]]
    scores = evaluate(panoptic_seg=_panoptic(ids, {1: SKY, 2: ROAD, 7: CAR}))["panoptic_seg"]
    # Sky: 10 of 12. Road: 6 true, 9 predicted, all 6 within: 6 / 9. Car: 3 of 4. Person: missed.
    iou = {SKY: 10 / 12, ROAD: 6 / 9, CAR: 3 / 4, PERSON: 0}
    mean = 100 * sum(iou.values()) / 4
    expected = {"PQ": mean, "SQ": mean, "RQ": 75, "PQ_th": 37.5, "PQ_st": 50 * (10 / 12 + 6 / 9)}
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    file = output_folder(make_cfg("panoptic_seg"), NAME) / "panoptic_results.json"
    saved = json.loads(file.read_text())
    assert saved["PQ"] == pytest.approx(mean)
    assert {c["name"]: c["PQ"] for c in saved["classes"]} == pytest.approx(
        {f"class {i}": 100 * value for i, value in iou.items()}
    )


def test_pixels_without_annotation_and_crowds_do_not_count():
    # Class 0: segment 1 and a crowd (2); class 1: nothing annotated; 0 is not annotated.
    truth = np.array([[1, 1, 0, 0], [2, 2, 2, 0]])
    predicted = np.array([[5, 5, 5, 0], [6, 6, 7, 7]])
    classes = {1: (0, False), 2: (0, True)}
    counts = count_segments(truth, classes, predicted, {5: 0, 6: 0, 7: 1}, num_classes=3)
    # 5 matches 1 with an IoU of 2/2 (its third pixel is not annotated); 6 lies on the crowd of its
    # class; 7, of another class, has half of its pixels where nothing is annotated: not more.
    assert counts.tolist() == [[1, 1.0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    # A class that neither occurs nor is predicted has no score.
    for scores in qualities(counts).values():
        np.testing.assert_array_equal(scores, [100, 0, np.nan])


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


def test_detectron2s_evaluator_is_used_where_panopticapi_is(make_cfg, monkeypatch):
    cfg = make_cfg("panoptic_seg")
    assert isinstance(build_evaluator(cfg, NAME), PanopticEvaluator)
    package = types.ModuleType("panopticapi")
    package.__spec__ = importlib.util.spec_from_loader("panopticapi", loader=None)
    monkeypatch.setitem(sys.modules, "panopticapi", package)
    assert type(build_evaluator(cfg, NAME)) is COCOPanopticEvaluator


def test_a_prediction_of_another_size_is_an_error(evaluate):
    with pytest.raises(DatasetError, match=r"a\.png: the panoptic map is 6x4 .* 5x4"):
        evaluate(panoptic_seg=_panoptic(np.ones((4, 5)), {}))


def test_instances_of_a_dataset_whose_first_classes_are_stuff(evaluate):
    car, person = TRUTH == 300, TRUTH == 4
    # A model that does not tell things from stuff also predicts sky, surer than anything.
    perfect = _instances([TRUTH == 1, car, person], [SKY, CAR, PERSON], [1, 0.9, 0.8])
    scores = evaluate(instances=perfect)["segm"]
    assert scores["AP"] == pytest.approx(100)
    assert scores[f"AP-class {CAR}"] == scores[f"AP-class {PERSON}"] == pytest.approx(100)

    shifted = np.roll(car, 1, axis=1)  # an IoU of 2/6 with the car: never right
    scores = evaluate(instances=_instances([shifted, person], [CAR, PERSON], [0.9, 0.8]))["segm"]
    assert scores["AP"] == pytest.approx(50)
    nothing = _instances(np.zeros((0, 4, 6)), [], [])
    assert np.isnan(evaluate(instances=nothing)["segm"]["AP"])  # and no crash


def test_a_model_that_predicts_something_else_is_an_error(make_cfg):
    message = "annotations for panoptic_seg and instances, but the model .* predicts sem_seg .MODEL"
    with pytest.raises(ValueError, match=message):
        build_evaluator(make_cfg("sem_seg"), NAME)

"""Phrases from files as released, from the demo scenes, and their scores, against cases by hand."""

import itertools
import json
import pickle

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from demo.phrases import choose
from lrformer.config import load_cfg
from lrformer.data import (
    DatasetError,
    build,
    build_mapper,
    builtin,
    load_dataset,
    verify_dataset,
)
from lrformer.evaluation.referring import ReferringEvaluator
from lrformer.referring.datasets import read_phrases, read_target
from lrformer.referring.language import build_language_model
from lrformer.visualization import from_dataset

IMAGE = np.full((20, 30, 3), 90, np.uint8)


@pytest.fixture
def root(tmp_path):
    """Where the registered names look while a test runs."""

    def register(folder):
        ours = ("reason_seg", "refcoco", "llava", "ade20k_sem_seg_train_phrases")
        names = [n for n in DatasetCatalog.list() if n.startswith(ours)]
        for name in names:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        builtin.register_all(str(folder))

    register(tmp_path)
    yield tmp_path
    register(builtin.default_root())


def box(x0, y0, x1, y1):
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def write_reason_seg(root, part):
    folder = root / "reason_seg" / "ReasonSeg" / part
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "a.jpg"), IMAGE)
    shapes = [
        {"label": "target", "points": box(12, 5, 14, 7)},  # the smallest: over all others
        {"label": "ignore", "points": box(10, 2, 20, 12)},
        {"label": "target", "points": box(2, 2, 20, 15)},
        {"label": "flag", "points": box(0, 0, 29, 19)},
    ]
    content = {"text": ["what’s hot", "the hot part"], "is_sentence": True, "shapes": shapes}
    text = json.dumps(content, ensure_ascii=False)
    (folder / "a.json").write_bytes(text.encode("cp1252"))
    return folder


def test_reason_seg_as_released(root):
    for part, texts in (("train", ["what’s hot", "the hot part"]), ("val", ["what’s hot"])):
        write_reason_seg(root, part)
        verify_dataset(f"reason_seg_{part}", 80)
        (record,) = load_dataset(f"reason_seg_{part}")
        assert [phrase["phrase"] for phrase in record["referring"]] == texts
        assert record["referring"][0]["is_sentence"] and record["referring"][0]["kind"] == "long"
    expected = np.zeros((20, 30), np.uint8)
    expected[2:16, 2:21] = 1
    expected[2:13, 10:21] = 255
    expected[5:8, 12:15] = 1
    target = read_target(record["referring"][0], record["file_name"], (20, 30))
    np.testing.assert_array_equal(target, expected)


def test_what_is_amiss_in_reason_seg_is_told(root):
    with pytest.raises(DatasetError, match="no images"):
        load_dataset("reason_seg_test")
    folder = write_reason_seg(root, "val")
    (folder / "a.json").write_text('{"text": []}')
    with pytest.raises(DatasetError, match=r"a\.json"):
        load_dataset("reason_seg_val")


def write_refcoco(root, references):
    folder = root / "refer_seg" / "refcoco"
    folder.mkdir(parents=True)
    (root / "coco" / "train2014").mkdir(parents=True)
    cv2.imwrite(str(root / "coco" / "train2014" / "x.jpg"), IMAGE)
    instances = {
        "images": [{"id": 7, "file_name": "x.jpg", "height": 20, "width": 30}],
        "annotations": [{"id": 1, "segmentation": [[2, 3, 12, 3, 12, 9, 2, 9]]}],
    }
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "refs(unc).p").write_bytes(pickle.dumps(references, protocol=2))


def test_refcoco_as_released(root):
    sentences = [{"sent": "left box", "raw": "Left box", "sent_id": 0, "tokens": ["left", "box"]}]
    shared = {"ann_id": 1, "image_id": 7, "category_id": 1, "ref_id": 0}
    parts = ("train", "testA")
    write_refcoco(root, [{**shared, "split": part, "sentences": sentences} for part in parts])
    verify_dataset("refcoco_train", 80, "referring")
    (record,) = load_dataset("refcoco_testA")
    assert (record["height"], record["width"]) == (20, 30)
    assert [phrase["phrase"] for phrase in record["referring"]] == ["left box"]
    expected = np.zeros((20, 30), np.uint8)
    expected[3:9, 2:12] = 1
    target = read_target(record["referring"][0], record["file_name"], (20, 30))
    np.testing.assert_array_equal(target, expected)


def test_a_pickle_of_more_than_data_is_not_run(root):
    class Harmful:
        def __reduce__(self):
            return print, ("run",)

    write_refcoco(root, [Harmful()])
    with pytest.raises(DatasetError, match="print"):
        load_dataset("refcoco_train")


def test_names_of_classes_are_phrases(root, monkeypatch):
    """Of synonyms the first; not those that COCO-Stuff calls such as "wall-other"."""
    label = np.full((20, 30), 255, np.uint8)
    label[:5], label[5:10], label[10:15] = 2, 0, 1
    cv2.imwrite(str(root / "x.png"), label)
    cv2.imwrite(str(root / "x.jpg"), IMAGE)
    source = {"file_name": str(root / "x.jpg"), "sem_seg_file_name": str(root / "x.png")}
    monkeypatch.setitem(DatasetCatalog.data, "ade20k_sem_seg_train", lambda: [source])
    meta = Metadata(stuff_classes=["road, route", "wall-other", "window ", "sky"], ignore_label=255)
    monkeypatch.setitem(MetadataCatalog.data, "ade20k_sem_seg_train", meta)
    verify_dataset("ade20k_sem_seg_train_phrases", 80, "referring")
    (record,) = load_dataset("ade20k_sem_seg_train_phrases")
    found = {phrase["phrase"]: mask for phrase, mask in read_phrases(record, (20, 30))}
    assert set(found) == {"road", "window"}
    np.testing.assert_array_equal(found["road"], label == 0)
    assert len(read_phrases(record, (20, 30), most=1)) == 1
    cv2.imwrite(str(root / "x.png"), label | 255)
    mapper = build_mapper(load_cfg("demo/referring_t.yaml"), is_train=True)
    with pytest.raises(DatasetError, match="no phrase"):
        mapper(record)
    verify_dataset("ade20k_sem_seg_train_phrases", 80, "referring")  # one of many is no matter
    with pytest.raises(DatasetError, match="for training only"):
        from_dataset("ade20k_sem_seg_train_phrases")


def test_questions_answered_in_words(root):
    """LLaVA's file; the sample has no mask."""
    (root / "llava").mkdir()
    (root / "coco" / "train2017").mkdir(parents=True)
    cv2.imwrite(str(root / "coco" / "train2017" / "x.jpg"), IMAGE)
    said = ["What is it?\n<image>", "A wall.", "Which colour?", "Grey."]
    turns = [{"from": who, "value": x} for who, x in zip(["human", "gpt"] * 2, said, strict=True)]
    entries = [{"id": "x", "image": "x.jpg", "conversations": turns}]
    (root / "llava" / "llava_instruct_150k.json").write_text(json.dumps(entries))
    verify_dataset("llava_instruct", 80, "referring")
    (record,) = load_dataset("llava_instruct")
    asked = [(phrase["phrase"], phrase["answer"]) for phrase in record["referring"]]
    assert asked == [("What is it?\n<image>", "A wall."), ("Which colour?", "Grey.")]
    mapper = build_mapper(load_cfg("demo/referring_t.yaml", ["INPUT.MIN_SIZE_TRAIN", (20,)]), True)
    sample = mapper(record)
    assert sample["gt_masks"].shape == (0, 20, 30) and len(sample["referring"]) == 2


def test_datasets_are_drawn_by_their_weights(monkeypatch):
    for name, size in (("few", 4), ("many", 40)):
        records = [{"file_name": name, "image_id": i} for i in range(size)]
        monkeypatch.setitem(DatasetCatalog.data, name, lambda records=records: records)
    options = ["DATASETS.TRAIN", ("few", "many"), "DATASETS.TRAIN_WEIGHTS", (3.0, 1.0)]
    cfg = load_cfg("demo/referring_t.yaml", [*options, "DATALOADER.NUM_WORKERS", 0])
    monkeypatch.setattr(build, "build_mapper", lambda cfg, is_train: lambda record: record)
    batches = itertools.islice(iter(build.build_train_loader(cfg)), 100)
    names = [record["file_name"] for batch in batches for record in batch]
    assert names.count("few") / len(names) == pytest.approx(0.75, abs=0.03)
    cfg.DATASETS.TRAIN_WEIGHTS = (1.0,)
    with pytest.raises(ValueError, match="1 numbers for 2"):
        build.build_train_loader(cfg)


def test_the_mapper_gives_some_phrases_with_their_masks(root):
    folder = write_reason_seg(root, "train")
    opts = ["INPUT.MIN_SIZE_TRAIN", (40,), "INPUT.PHRASES_PER_IMAGE", 1]
    mapper = build_mapper(load_cfg("demo/referring_t.yaml", opts), is_train=True)
    sample = mapper(load_dataset("reason_seg_train")[0])
    assert sample["image"].shape == (3, 40, 60) and sample["gt_masks"].shape == (1, 40, 60)
    assert len(sample["referring"]) == 1 and sample["file_name"] == str(folder / "a.jpg")
    assert sample["gt_masks"][0, 28, 10] and not sample["gt_masks"][0, 8, 38]  # ignored
    with pytest.raises(ValueError, match="left of"):
        build_mapper(
            load_cfg("demo/referring_t.yaml", ["INPUT.RANDOM_FLIP", "horizontal"]), is_train=True
        )


def test_scores_by_hand(root, tmp_path):
    """ReasonSeg's mask above: 155 pixels are meant and 112 are ignored."""
    write_reason_seg(root, "val")
    (record,) = load_dataset("reason_seg_val")
    record |= {"height": 20, "width": 30}
    long = record["referring"][0]
    nothing = {"phrase": "nothing", "segmentation": [], "kind": "short"}
    left = np.zeros((20, 30), bool)
    left[:, :10] = True  # meets 14 rows of 8 columns; in the union are 88 others
    evaluator = ReferringEvaluator("reason_seg_val", str(tmp_path / "results"))
    evaluator.process(
        [{**record, "referring": [long, nothing, nothing]}],
        [{"referring": torch.from_numpy(np.stack([left, left & False, left]))}],
    )
    result = evaluator.evaluate()["referring"]
    target = read_target(long, "", (20, 30))
    meant, both = int((target == 1).sum()), 14 * 8
    union = meant + 200 - both
    assert result["gIoU"] == pytest.approx(100 * (both / union + 1 + 0) / 3)
    assert result["cIoU"] == pytest.approx(100 * both / (union + 200))
    written = json.loads((tmp_path / "results" / "referring_results.json").read_text())
    assert written["images"] == 1
    assert {x["name"]: x["phrases"] for x in written["classes"]} == {"long": 1, "short": 2}


def test_the_demos_phrases_mean_one_thing():
    """Two cars, the left one red, and a person between them; a third car is a sliver."""
    ids = np.full((50, 100), 4)
    car, person = 6, 7
    ids[20:30, 5:25], ids[20:30, 70:95] = car + 256, car + 2 * 256
    ids[10:40, 45:50], ids[0, 30:33] = person + 3 * 256, car + 4 * 256
    objects = [
        {"color": "red", "distance": 9.0},
        {"color": "blue", "distance": 5.0},
        {"color": None, "distance": 4.0},
        {"color": "blue", "distance": 20.0},
    ]
    found = {}
    for seed in range(60):
        chosen = choose(ids, objects, np.random.default_rng(seed))
        found |= {phrase: (kind, segments) for kind, phrase, segments in chosen}
    red, blue, walker, sliver = ([label + 256 * i] for i, label in enumerate((6, 6, 7, 6), 1))
    assert found["cars"] == ("class", red + blue + sliver)
    assert found["where do cars drive?"] == ("question", [4])
    assert found["red car"] == ("colour", red) and "blue car" not in found
    assert found["nearest car"] == ("place", blue) and "farthest car" not in found
    assert found["leftmost car"] == ("place", red) and found["person"] == ("place", walker)
    assert found["car right of the person"] == ("relation", blue)
    assert "car left of the person" not in found  # the sliver is there, too
    assert found["red car left of the person"] == ("relation", red)
    assert "sky" not in found


def test_the_demos_language_model_knows_every_word():
    pytest.importorskip("transformers", "5.0")
    from demo import phrases
    from demo.cars import COLORS

    tokenizer = build_language_model(load_cfg("demo/referring_t.yaml"))._tokenizer
    questions = [question for group in phrases._CLASSES.values() for question in group]
    places = "leftmost rightmost nearest farthest person car left of the person right of the car"
    for text in (*phrases._CLASSES, *questions, *COLORS, places):
        assert tokenizer.unk_token_id not in tokenizer(text).input_ids, text

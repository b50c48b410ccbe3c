"""The loaders that the trainer and the evaluators use."""

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.utils.env import seed_all_rng

from lrformer.data import DatasetError, build, build_test_loader, build_train_loader


def test_train_loader_joins_datasets_and_repeats_itself_with_the_same_seed(scenes, cfg):
    cfg.DATASETS.TRAIN, cfg.DATALOADER.NUM_WORKERS = ("scenes", "scenes"), 1
    runs = []
    for _ in range(2):
        seed_all_rng(5)
        batches = iter(build_train_loader(cfg))
        runs.append([sample for _ in range(6) for sample in next(batches)])
    names = [sample["file_name"] for sample in runs[0]]
    assert sorted(names) == sorted(2 * list(dict.fromkeys(names))) and len(set(names)) == 6
    for first, second in zip(*runs, strict=True):
        assert all(torch.equal(first[key], second[key]) for key in ("image", "sem_seg"))


def test_images_with_rare_classes_are_drawn_more_often(scenes, cfg, save):
    for index in range(6):  # class 3 is in the last image alone
        label = np.full((120, 160), 3 if index == 5 else 0, np.uint8)
        save(scenes / "labels" / f"{index}.png", label)
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 4 / 6  # sqrt(4) = 2 times as often
    cfg.INPUT.CROP.ENABLED = False
    batches, names = iter(build_train_loader(cfg)), []
    while len(names) < 70:
        names += [sample["file_name"] for sample in next(batches)]
    count = sum(name.endswith("5.png") for name in names)
    assert 15 <= count <= 25  # of 70, 2 of 7


@pytest.mark.parametrize("by_aspect", [False, True])
def test_only_workers_lose_opencvs_threads(scenes, cfg, monkeypatch, by_aspect):
    def make(cfg, is_train):
        return lambda record: {"threads": cv2.getNumThreads(), "width": 2, "height": 1}

    monkeypatch.setattr(build, "build_mapper", make)
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.ASPECT_RATIO_GROUPING = 1, by_aspect
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(3)
        # The process has threads; a worker is a copy of it without them.
        cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (9, 9), 3)
        loaders = build_train_loader(cfg), build_test_loader(cfg, "scenes")
        assert [sample["threads"] for loader in loaders for sample in next(iter(loader))] == [1] * 3
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_is_skipped(scenes, cfg, caplog, workers):
    bad = scenes / "images" / "0.png"
    bad.write_bytes(bad.read_bytes().replace(b"IDAT", b"IDAT\0", 1))
    cfg.DATALOADER.NUM_WORKERS = workers
    batches = islice(build_train_loader(cfg), 9)
    names = [Path(sample["file_name"]).name for batch in batches for sample in batch]
    assert len(names) == 18 and set(names) == {f"{number}.png" for number in range(1, 6)}
    if not workers:
        (warning,) = [record for record in caplog.records if "skipped" in record.msg]
        assert str(bad) in warning.msg


def test_many_images_that_cannot_be_read_are_no_accident(scenes, cfg, monkeypatch):
    monkeypatch.setattr(build, "_MAX_SKIPPED", 2)
    for number in range(4):
        (scenes / "images" / f"{number}.png").write_bytes(b"?")
    with pytest.raises(DatasetError, match=r"after 2 others .* cannot read the image .*images"):
        list(islice(build_train_loader(cfg), 9))


def test_test_loader_gives_every_image_once_in_order(scenes, cfg):
    batches = list(build_test_loader(cfg, "scenes"))
    assert [len(batch) for batch in batches] == [1] * 6
    names = [batch[0]["file_name"] for batch in batches]
    assert names == [str(scenes / "images" / f"{index}.png") for index in range(6)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), r"DATASETS\.TRAIN is empty"),
        (("camvid_train",), "no dataset named 'camvid_train'.* camvid_sem_seg_train"),
    ],
)
def test_what_is_no_dataset_is_named(cfg, names, message):
    cfg.DATASETS.TRAIN = names
    with pytest.raises(DatasetError, match=message):
        build_train_loader(cfg)

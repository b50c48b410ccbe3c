"""The loaders that the trainer and the evaluators use."""

import pytest
import torch
from detectron2.utils.env import seed_all_rng

from lrformer.data import DatasetError, build_test_loader, build_train_loader


def test_train_loader_gives_batches_for_ever(scenes, cfg):
    seed_all_rng(0)
    batches = iter(build_train_loader(cfg))
    seen = set()
    for _ in range(6):
        batch = next(batches)
        assert len(batch) == 2
        seen |= {sample["file_name"] for sample in batch}
    assert len(seen) == 6


@pytest.mark.parametrize("workers", [0, 1])
def test_train_loader_repeats_itself_with_the_same_seed(scenes, cfg, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.INPUT.COLOR_AUG_SSD = True
    runs = []
    for _ in range(2):
        seed_all_rng(5)
        batches = iter(build_train_loader(cfg))
        runs.append([sample for _ in range(3) for sample in next(batches)])
    for first, second in zip(*runs, strict=True):
        assert first["file_name"] == second["file_name"]
        assert torch.equal(first["image"], second["image"])
        assert torch.equal(first["sem_seg"], second["sem_seg"])


def test_train_loader_joins_datasets(scenes, cfg):
    cfg.DATASETS.TRAIN = ("scenes", "scenes")
    assert len(next(iter(build_train_loader(cfg)))) == 2


def test_test_loader_gives_every_image_once_in_order(scenes, cfg):
    batches = list(build_test_loader(cfg, "scenes"))
    assert [len(batch) for batch in batches] == [1] * 6
    names = [batch[0]["file_name"] for batch in batches]
    assert names == [str(scenes / "images" / f"{index}.png") for index in range(6)]


def test_no_training_set_is_named(cfg):
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(DatasetError, match=r"DATASETS\.TRAIN is empty"):
        build_train_loader(cfg)


def test_an_unknown_dataset_lists_the_known(cfg):
    cfg.DATASETS.TRAIN = ("camvid_train",)
    with pytest.raises(DatasetError, match=r"'camvid_train'.*camvid_sem_seg_train"):
        build_train_loader(cfg)

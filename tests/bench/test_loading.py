"""``bench.py load`` as a user runs it."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from bench import loading
from bench.inputs import write_scenes
from lrformer import load_cfg
from lrformer.data import SemSegTree, register_sem_seg
from lrformer.data.build import build_mapper, mapper_class

T = "demo/lrformer_t.yaml"
QUICK = ("--images", 3, "--rounds", 2)
MADE_UP = (*QUICK, "--made-up", 64, 96)


@pytest.fixture
def dataset(tmp_path):
    """Five images of 80x100, registered as "loading"."""
    labels = np.tile(np.arange(100, dtype=np.uint8) // 20, (80, 1))
    for folder, array in (("images", np.stack([labels] * 3, axis=-1)), ("labels", labels)):
        (tmp_path / folder).mkdir()
        for i in range(5):
            Image.fromarray(array).save(tmp_path / folder / f"{i}.png")
    tree = SemSegTree("loading", str(tmp_path), (("images", "labels"),))
    register_sem_seg(tree, [str(i) for i in range(8)], [(i, i, i) for i in range(8)])
    yield tmp_path
    DatasetCatalog.remove("loading")
    MetadataCatalog.remove("loading")


def test_a_row_for_each_config(bench, cells):
    rows = [dict(row) for row in cells(bench("load", T, "ade20k/lrformer_t.yaml", *MADE_UP))]
    assert [row["config"] for row in rows] == [T, "ade20k/lrformer_t.yaml"]
    assert [row["first sample"] for row in rows] == ["160 × 160", "512 × 512"]
    assert all(row["images"].startswith("made up, 64 × 96 .jpg, ") for row in rows)
    assert all(row["time"].endswith(" ms") for row in rows) and "workers" not in rows[0]


def test_workers_that_feed_a_step(bench, cells, monkeypatch):
    # Of 3 images.
    made_up = {T: 3 * np.array([0.25, 0.5, 0.2])}
    monkeypatch.setattr(loading, "time_in_turn", lambda *args, **options: made_up)
    (row,) = cells(bench("load", T, *MADE_UP, "--step-seconds", 0.5, "--batch", 6))
    # 12 images a second; a worker brings 4.
    assert [dict(row)[key] for key in ("images/s", "batch", "workers")] == ["4.00", "6", "3"]


def test_images_are_the_datasets_where_it_is_on_disk(dataset, bench, caplog, refused):
    arguments = ("load", T, *QUICK, "DATASETS.TRAIN", "('loading',)")
    assert "| of loading, 0 kB" in bench(*arguments)
    broken = dataset / "images" / "0.png"
    broken.write_bytes(b"no image")
    assert str(broken) in refused(*arguments)
    (dataset / "labels" / "3.png").unlink()
    assert "made up, 512 × 683 .jpg" in bench(*arguments)
    assert "1 of 5 images have no label map" in caplog.text


@pytest.mark.parametrize("task", ["", "_instance", "_panoptic"])
def test_every_kind_of_annotation_can_be_made_up(task, tmp_path):
    cfg = load_cfg(f"demo/lrformer_plus_t{task}.yaml")
    kind = mapper_class(cfg.INPUT.DATASET_MAPPER_NAME).annotation
    classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    scenes = write_scenes(6, (192, 256), classes, kind, tmp_path, ".jpg")
    mapper = build_mapper(cfg, is_train=True)
    assert min(len(mapper(scene)["instances"]) for scene in scenes) >= 2


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["no/such.yaml"], "no/such.yaml"),
        ([T, *MADE_UP, "--step-seconds", "0"], "--step-seconds"),
        ([T, *MADE_UP, "INPUT.FLIP", "none"], "INPUT.FLIP"),
    ],
)
def test_what_cannot_be_timed(arguments, name, refused):
    assert name in refused("load", *arguments)

"""tools/benchmark_loading.py as a user runs it."""

import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import benchmark_loading as tool
from lrformer.benchmark import loading
from lrformer.data import SemSegTree, register_sem_seg
from lrformer.data.builtin import DatasetCatalog, MetadataCatalog

T = "demo/lrformer_t.yaml"
QUICK = ["--images", "3", "--rounds", "2"]
MADE_UP = [*QUICK, "--size-of-source", "64", "96"]


@pytest.fixture
def dataset(tmp_path):
    """Five images of 80x100, registered as "loading"."""
    for folder, pixels in (("images", np.zeros((80, 100, 3), "u1")), ("labels", None)):
        (tmp_path / folder).mkdir()
        for i in range(5):
            label = np.tile(np.arange(100, dtype=np.uint8) // 20, (80, 1))
            array = label if pixels is None else pixels
            Image.fromarray(array).save(tmp_path / folder / f"{i}.png")
    tree = SemSegTree("loading", str(tmp_path), (("images", "labels"),))
    register_sem_seg(tree, [str(i) for i in range(8)], [(i, i, i) for i in range(8)])
    yield tmp_path
    DatasetCatalog.remove("loading")
    MetadataCatalog.remove("loading")


def test_json_and_markdown(tmp_path, capsys):
    file = tmp_path / "new" / "loading.json"
    arguments = ["--config-file", T, *MADE_UP, "--step-seconds", "0.001", "--batch", "6"]
    code = tool.main([*arguments, "--format", "json", "--output", str(file)])
    assert code == 0, capsys.readouterr().err
    result = json.loads(file.read_text())
    names = [step["name"] for step in result["steps"]]
    assert names == [
        *("read the image", "read the label map", "ResizeThenCrop", "ContiguousFlip"),
        *("make the target", "the rest"),
    ]
    assert sum(step["share"] for step in result["steps"]) == pytest.approx(1)
    assert all(step["seconds"]["median"] > 0 for step in result["steps"])
    rate = result["images_per_second"]
    assert rate == pytest.approx(1 / result["seconds"]["median"])
    feeding = result["feeding"]
    assert feeding["images_per_second"] == pytest.approx(6000)
    # Enough, and one fewer is not.
    assert (feeding["workers"] - 1) * rate < 6000 <= feeding["workers"] * rate

    assert tool.main(arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Printed by `python tools/benchmark_loading.py --config-file {T} --im")
    assert "made-up scenes of 64 x 96 as .jpg, 3 of them (as asked)" in out
    assert "mapper: sem_seg, first sample: 160 x 160, images: 3, " in out
    assert "images/s on one core" in out and "take 6000.0 images/s" in out
    assert len([line for line in out.splitlines() if line.startswith("|")]) == 2 + 7


def test_images_of_the_dataset_are_taken_where_it_is_on_disk(dataset, capsys):
    opts = ["--opts", "DATASETS.TRAIN", "('loading',)"]
    assert tool.main(["--config-file", T, *QUICK, *opts, "INPUT.COLOR_AUG_SSD", "True"]) == 0
    out = capsys.readouterr().out
    assert "Images: images of loading." in out and "images: 3," in out
    assert "| PhotometricDistortion" in out


def test_images_are_made_up_where_the_dataset_is_not_on_disk(dataset, capsys, caplog):
    (dataset / "labels" / "3.png").unlink()
    assert tool.main(["--config-file", T, *QUICK, "--opts", "DATASETS.TRAIN", "('loading',)"]) == 0
    out = capsys.readouterr().out
    assert "made-up scenes of 512 x 683 as .jpg, 3 of them (loading could not be read)" in out
    assert "1 of 5 images have no label map" in caplog.text


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("demo/lrformer_plus_t.yaml", "read the label map"),
        ("demo/lrformer_plus_t_instance.yaml", "check the objects"),
        ("demo/lrformer_plus_t_panoptic.yaml", "read the panoptic map"),
    ],
)
def test_every_kind_of_annotation_can_be_made_up(config, name, monkeypatch, capsys):
    samples = []
    build = loading.build_mapper

    def build_and_keep(cfg, is_train):
        mapper = build(cfg, is_train)
        make_target = mapper.make_target
        mapper.make_target = lambda *args: samples.append(make_target(*args)) or samples[-1]
        return mapper

    monkeypatch.setattr(loading, "build_mapper", build_and_keep)
    size = ["--size-of-source", "192", "256"]
    assert tool.main(["--config-file", config, "--images", "6", "--rounds", "1", *size]) == 0
    assert f"| {name} " in capsys.readouterr().out
    assert sum(len(sample["instances"]) for sample in samples) >= 6


def test_threads_are_given_back(capsys):
    before = torch.get_num_threads(), cv2.getNumThreads()
    assert tool.main(["--config-file", T, *MADE_UP]) == 0
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-file", "no/such.yaml"], "there is no config file no/such.yaml"),
        (["--images", "0"], "images must be at least 1, not 0"),
        (["--rounds", "0"], "rounds must be at least 1, not 0"),
        (["--size-of-source", "4", "64"], "must be at least"),
        (["--step-seconds", "0"], "step_seconds must be above 0, not 0.0"),
        (["--step-seconds", "nan"], "step_seconds must be above 0, not nan"),
        (["--batch", "4"], "batch is of a training that is to be fed: give step_seconds too"),
        (["--opts", "INPUT.RANDOM_FLIP", "diagonal"], "INPUT.RANDOM_FLIP must be"),
        (["--opts", "INPUT.FLIP", "none"], "INPUT.FLIP"),
    ],
)
def test_what_cannot_be_timed(arguments, message, capsys):
    assert tool.main(["--config-file", T, *MADE_UP, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_broken_image_is_named(dataset, capsys):
    (dataset / "images" / "0.png").write_bytes(b"no image")
    assert tool.main(["--config-file", T, *QUICK, "--opts", "DATASETS.TRAIN", "('loading',)"]) == 2
    assert "cannot read the image" in capsys.readouterr().err

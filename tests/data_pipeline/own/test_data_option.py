"""From a yaml to a config, and to a trained model, by the command line alone."""

import json
import runpy
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

import data
import predict
from lrformer import load_cfg
from lrformer.data import DatasetError
from lrformer.data.own import data_opts, load_spec
from lrformer.engine import run


@pytest.fixture
def small(tiny_opts, tmp_path):
    """KEY VALUE pairs of a small model that is trained for two iterations into ``out``."""
    del tiny_opts["MODEL.SEM_SEG_HEAD.NUM_CLASSES"]
    tiny_opts |= {"SOLVER.MAX_ITER": 2, "SOLVER.IMS_PER_BATCH": 2, "SOLVER.AMP.ENABLED": False}
    tiny_opts |= {"TEST.EVAL_PERIOD": 0, "DATALOADER.NUM_WORKERS": 0}
    return list(map(str, chain(*tiny_opts.items(), ("OUTPUT_DIR", tmp_path / "out"))))


@pytest.fixture
def cracks(folder):
    """Makes six images of 48x40 with coloured masks of as many classes as asked for."""

    def make(num_classes=2, size=(40, 48), count=6):
        colors = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)[:num_classes]
        rng = np.random.default_rng(0)
        for i in range(count):
            label = rng.integers(0, num_classes, size) * (rng.random(size) < 0.5)
            folder.image(f"photos/{i}.jpg", colors[label])
            folder.image(f"masks/{i}_mask.png", colors[label])
        names = [f"class {i}" for i in range(num_classes)]
        split = {"images": "photos", "labels": "masks", "fraction": 1 / 3}
        return folder.yaml(split=split, classes=dict(zip(names, colors.tolist(), strict=True)))

    return make


def fit(config, file, *opts):
    opts = list(opts)
    return load_cfg(config, [*data_opts(load_cfg(config, opts), file), *opts])


def test_what_follows_from_the_data(cracks):
    cfg = fit("lrformer_s", cracks(size=(300, 400), count=24))
    assert cfg.DATASETS.TRAIN == ("mine_sem_seg_train",)
    assert cfg.DATASETS.TEST == ("mine_sem_seg_val",)
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 2
    assert cfg.INPUT.MIN_SIZE_TRAIN == (300,) and cfg.INPUT.MAX_SIZE_TRAIN == 400
    assert cfg.INPUT.MIN_SIZE_TEST == 300 and cfg.INPUT.MAX_SIZE_TEST == 400
    assert cfg.INPUT.CROP.SIZE == [320, 320] and cfg.INPUT.SIZE_DIVISIBILITY == 320
    # 16 images to train on: the least number of iterations, 20 evaluations
    assert (cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD, cfg.SOLVER.WARMUP_ITERS) == (2000, 100, 100)
    # from scratch: one rate for all
    assert pytest.approx(6e-4) == cfg.SOLVER.BASE_LR and cfg.SOLVER.HEAD_MULTIPLIER == 1
    file = cracks(size=(300, 400), count=24)
    fine_tuned = fit("lrformer_s", file, "MODEL.WEIGHTS", "x.pth")
    assert pytest.approx(6e-5) == fine_tuned.SOLVER.BASE_LR
    assert fine_tuned.SOLVER.HEAD_MULTIPLIER == 10


def test_the_users_keys_win(cracks):
    opts = ("SOLVER.MAX_ITER", 7, "INPUT.CROP.SIZE", [64, 96], "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 9)
    cfg = fit("lrformer_s", cracks(), *opts)
    assert cfg.SOLVER.MAX_ITER == 7
    assert cfg.INPUT.CROP.SIZE == [64, 96]
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 9


def test_sizes_of_lrformer_plus_scale_together(cracks):
    cfg = fit("lrformer_plus_t", cracks(size=(256, 256), count=3))
    assert cfg.INPUT.MIN_SIZE_TRAIN[0] == 128 and cfg.INPUT.MIN_SIZE_TRAIN[-1] == 512
    assert cfg.INPUT.DATASET_MAPPER_NAME == "mask_former_semantic"


def scores_of(folder):
    return json.loads((folder / "out/inference/mine_sem_seg_val/sem_seg_results.json").read_text())


def test_train_evaluate_and_fine_tune_with_other_classes(cracks, small, tmp_path, capsys):
    def main(*argv):
        assert run.main(["--config-file", "lrformer_t", *map(str, argv), *small]) == 0
        return capsys.readouterr().out

    printed = main("--data", cracks())
    assert "2 classes; images: 4 of train, 2 of val" in printed
    scores = scores_of(tmp_path)
    assert [x["name"] for x in scores["classes"]] == ["class 0", "class 1"]
    final = tmp_path / "out" / "model_final.pth"
    printed = main("--data", cracks(), "--weights", final, "--eval-only")
    assert f"mIoU {scores['mIoU']:.2f}" in printed

    model = ["--config-file", "lrformer_t", "--data", tmp_path / "mine.yaml", "--weights", final]
    inputs = ["--input", tmp_path / "photos", "--output", tmp_path / "drawn", "--format", "coco"]
    assert predict.main([*map(str, (*model, *inputs)), *small]) == 0
    categories = json.loads((tmp_path / "drawn" / "coco.json").read_text())["categories"]
    assert [x["name"] for x in categories] == ["class 0", "class 1"]
    capsys.readouterr()

    printed = main("--data", cracks(3), "--weights", final)
    assert "of another shape, so initialised (2): sem_seg_head" in printed
    assert [x["name"] for x in scores_of(tmp_path)["classes"]][-1] == "class 2"


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """The folders of the made-up datasets: colour masks, COCO polygons, labelme."""
    file = Path(__file__).parents[3] / "datasets" / "make_examples.py"
    root = tmp_path_factory.mktemp("examples")
    assert runpy.run_path(str(file))["main"](["--root", str(root), "--count", "10"]) == 0
    return root


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("cracks", ["class 0", "class 1"]),
        ("cells", ["background", "red cell", "white cell"]),
        ("roofs", ["background", "metal", "tiles"]),
    ],
)
def test_from_a_folder_to_a_model_by_three_commands(examples, small, tmp_path, name, classes):
    file = tmp_path / "mine.yaml"
    assert data.main(["init", str(examples / name), "--output", str(file)]) == 0
    assert data.main(["check", str(file)]) in (0, 1)  # a random image may have no crack
    assert run.main(["--config-file", "lrformer_t", "--data", str(file), *small]) == 0
    names = [x["name"] for x in scores_of(tmp_path)["classes"]]
    assert names[:1] + sorted(names[1:]) == classes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- 1", r"mine\.yaml: a dataset's keys are root, splits.*found \[1\]"),
        ("roots: x", r"a dataset's keys are root, .*found 'roots'"),
        ("root: nowhere", r"root: there is no folder .*/nowhere"),
        ("classes: [a]", r"give either `splits` .* or `split`"),
        ("splits: {training: {}}", r"the names of splits are train, val, test; found 'training'"),
        ("splits: {train: {images: images}}", r"splits\.train: there is no `labels`"),
        ("splits: {train: {images: pictures, labels: x}}", r"no folder .*/pictures"),
        ("split: {images: images, labels: images, fraction: 20}", r"split\.fraction: found 20"),
        ("split: {images: images, labels: images}\nclasses: {a: red}", r"classes\.a: found 'red'"),
        ("split: {images: images, labels: images}\nclasses: {a: 1, b: 1}", r"1 is given twice"),
        ("split: {images: images, labels: images}\ntask: boxes", r"task: found 'boxes'"),
        ("split: [", r"mine\.yaml is no readable yaml"),
    ],
)
def test_a_yaml_that_cannot_be_used(folder, content, message):
    file = folder.text("mine.yaml", content)
    with pytest.raises(DatasetError, match=message):
        load_spec(file)


def test_labels_that_cannot_be_used(folder):
    def fails(message, task="semantic", **keys):
        with pytest.raises(DatasetError, match=message):
            folder.register(task, **keys)

    folder.json("labels.json", {"images": [], "annotations": [], "categories": []})
    fails("lists none of the 2 images", labels="labels.json")
    folder.text("labels.txt", "x")
    fails("labels.txt is neither a folder of label files nor", labels="labels.txt")
    folder.image("empty/other.png", np.zeros((6, 8), np.uint8))
    fails("none of the 2 images in .* has labels in .*empty", labels="empty", classes=["x", "y"])
    folder.json("labels.json", {"images": [{}], "annotations": [{}], "categories": []})
    fails("cannot be understood as coco labels: KeyError: 'id'", labels="labels.json")
    fails("none of the 2 images .* has labels", labels="images", classes=["x"])
    folder.image("labels/a.png", np.zeros((6, 8), np.uint8))
    fails("for semantic segmentation, not instance", task="instance", classes=["x", "y"])

"""tools/pretrain_imagenet.py as a user runs it, on a folder of one-coloured images."""

import csv
import json
import logging
import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import lrformer.timm_models  # noqa: F401
from lrformer import build_model
from lrformer.pretrain import RECIPES, checkpoint
from lrformer.pretrain.run import main

ROOT = Path(__file__).parents[2]
COLORS = {"n01": (220, 40, 40), "n02": (40, 220, 40), "n10": (40, 40, 220)}
MODEL = {"embed_dims": (16, 32, 40, 64), "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 4)}
# Without what makes such images hard to tell apart.
PLAIN = ("--mixup", 0, "--cutmix", 0, "--auto-augment", "", "--random-erasing", 0)


@pytest.fixture(autouse=True)
def _unchanged_process():
    """One thread, for a model as small as this; the tool's log handlers are removed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    logger = logging.getLogger("lrformer")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """24 training and 15 validation images of three classes."""
    root = tmp_path_factory.mktemp("classes")
    generator = np.random.default_rng(0)
    for split, number in (("train", 8), ("val", 5)):
        for name, color in COLORS.items():
            (root / split / name).mkdir(parents=True)
            for i in range(number):
                image = np.array(color) + generator.integers(-30, 30, (40, 40, 3))
                Image.fromarray(image.astype(np.uint8)).save(root / split / name / f"{i}.png")
    return root


def arguments(folder, output, *more):
    values = {
        "--data": folder,
        "--output": output,
        "--img-size": 64,
        "--device": "cpu",
        "--workers": 0,
        "--batch-size": 8,
        "--epochs": 3,
        "--warmup-epochs": 0,
        "--lr": 2e-3,
    }
    kwargs = [f"{name}={value}".replace(" ", "") for name, value in MODEL.items()]
    pairs = [text for pair in values.items() for text in pair]
    return list(map(str, [*pairs, "--model-kwargs", *kwargs, *more]))


def run(folder, output, *more):
    return main(arguments(folder, output, *more))


def load(file):
    return torch.load(file, weights_only=True)


@pytest.fixture(scope="session")
def trained(folder, tmp_path_factory):
    """The output of a training that succeeds."""
    output = tmp_path_factory.mktemp("trained")
    assert run(folder, output, "--epochs", 4, *PLAIN) == 0
    return output


def test_recipes_are_the_papers():
    values = {
        name: (recipe.epochs, recipe.lr, recipe.batch_size) for name, recipe in RECIPES.items()
    }
    assert values == {
        "imagenet1k": (300, 1e-3, 1024),
        "imagenet22k": (90, 1e-3, 1024),
        "finetune": (30, 5e-5, 512),
    }
    assert {recipe.weight_decay for recipe in RECIPES.values()} == {0.05}


def test_learning_rate_scales_with_the_batch_unless_given():
    assert RECIPES["imagenet1k"].changed(batch_size=256).lr == pytest.approx(2.5e-4)
    assert RECIPES["finetune"].changed(batch_size=1024).lr == pytest.approx(1e-4)
    assert RECIPES["imagenet1k"].changed(batch_size=256, lr=3e-3).lr == 3e-3
    assert RECIPES["imagenet1k"].changed(epochs=100).lr == 1e-3


def test_training_learns_and_reports(trained):
    with open(trained / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    losses = [float(row["loss"]) for row in rows]
    assert losses[-1] < 0.6 * losses[0] < 0.6 * 1.2
    assert float(rows[-1]["top1"]) == 100 and float(rows[-1]["top5"]) == 100
    for row in rows:  # a cosine from the rate to a hundredth of it
        turn = math.cos(math.pi * int(row["epoch"]) / 4)
        assert float(row["lr"]) == pytest.approx(2e-5 + 0.5 * (2e-3 - 2e-5) * (1 + turn))
    log = (trained / "log.txt").read_text()
    assert "epoch 4/4: loss" in log and "images/s" in log and "top-1 100.00" in log
    best = json.loads((trained / "summary.json").read_text())["best"]
    assert load(trained / "best.pth")["epoch"] == best["epoch"]
    assert load(trained / "last.pth")["epoch"] == 4


def test_checkpoint_is_a_model_for_timm(trained, folder):
    names = set(timm.create_model("lrformer_tiny", num_classes=3, **MODEL).state_dict())
    assert set(load(trained / "last.pth")["model"]) == names
    model = timm.create_model(
        "lrformer_tiny", num_classes=3, checkpoint_path=str(trained / "last.pth"), **MODEL
    ).eval()
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    for label, color in enumerate(COLORS.values()):  # in the order of the folders' names
        x = ((torch.tensor(color) / 255 - mean) / std).view(1, 3, 1, 1).expand(1, 3, 64, 64)
        assert model(x).argmax() == label


def test_checkpoint_is_model_weights_for_segmentation(trained):
    opts = [f"MODEL.LRFORMER.{key.upper()}" for key in MODEL]
    opts = [part for pair in zip(opts, map(list, MODEL.values()), strict=True) for part in pair]
    config = ROOT / "configs/camvid/lrformer_t.yaml"
    model = build_model(config, trained / "best.pth", "cpu", opts)
    saved = load(trained / "best.pth")["model"]
    own = model.backbone.state_dict()
    assert set(own) == {name for name in saved if not name.startswith("head.")}
    for name, value in own.items():
        assert torch.equal(value, saved[name]), name


def interrupt_after(monkeypatch, epochs):
    """Ctrl-C right after the checkpoint of that many epochs."""
    save = checkpoint.save

    def save_and_stop(state, file):
        save(state, file)
        if state["epoch"] == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save_and_stop)


@pytest.mark.parametrize("workers", [0, 1])
def test_resumed_training_equals_an_uninterrupted_one(folder, tmp_path, monkeypatch, workers):
    options = ("--workers", workers, "--seed", 5, "--warmup-epochs", 1)
    assert run(folder, tmp_path / "whole", *options) == 0
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        assert run(folder, tmp_path / "broken", *options) == 130
    assert run(folder, tmp_path / "broken", *options, "--resume") == 0

    whole, broken = (load(tmp_path / name / "last.pth") for name in ("whole", "broken"))
    for name, value in whole["model"].items():
        assert torch.equal(value, broken["model"][name]), name
    for index, state in whole["optimizer"]["state"].items():
        for key, value in state.items():
            assert torch.equal(value, broken["optimizer"]["state"][index][key]), (index, key)
    for a, b in zip(whole["history"], broken["history"], strict=True):
        assert {**a, "images_per_s": 0} == {**b, "images_per_s": 0}
    assert "resumed from" in (tmp_path / "broken" / "log.txt").read_text()


def test_epochs_and_processes_draw_other_random_numbers():
    from lrformer.pretrain.trainer import seed_epoch

    drawn = []
    for epoch in (0, 1):
        for rank in (0, 1):
            seed_epoch(0, epoch, rank)
            # timm draws from all three, NumPy's old generator among them.
            numbers = (torch.rand(()).item(), np.random.rand(), random.random())  # noqa: NPY002
            drawn.append(numbers)
    assert [len(set(values)) for values in zip(*drawn, strict=True)] == [4, 4, 4]


def test_resume_tells_what_is_not_as_before(trained, folder, tmp_path):
    output = shutil.copytree(trained, tmp_path / "copy")
    assert run(folder, output, "--resume", "--epochs", 5, "--lr", 1e-4, *PLAIN) == 0
    log = (output / "log.txt").read_text()
    assert "not as before the break: epochs: 4 -> 5" in log
    assert "not as before the break: lr: 0.002 -> 0.0001" in log
    assert len(json.loads((output / "summary.json").read_text())["epochs"]) == 5


def test_evaluation_alone(trained, folder, tmp_path):
    weights = trained / "last.pth"
    for options in (("--batch-size", 4), ("--batch-size", 7)):
        assert run(folder, tmp_path, "--eval-only", "--weights", weights, *options) == 0
        scores = json.loads((tmp_path / "eval.json").read_text())
        assert scores["images"] == 15
        assert scores["top1"] == pytest.approx(load(weights)["history"][-1]["top1"])
    assert not (tmp_path / "last.pth").exists()


def test_fine_tuning_starts_from_weights_with_another_classifier(trained, folder, tmp_path):
    two = tmp_path / "two"
    for split in ("train", "val"):
        for name in ("n01", "n02"):
            shutil.copytree(folder / split / name, two / split / name)
    options = ("--recipe", "finetune", "--weights", trained / "best.pth", "--lr", 1e-12)
    assert run(two, tmp_path / "out", "--epochs", 1, *options) == 0
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "the classifier starts anew: its classifier has 3 classes, the dataset has 2" in log
    before, after = load(trained / "best.pth")["model"], load(tmp_path / "out/last.pth")["model"]
    assert after["head.weight"].shape == (2, 64)
    name = "stages.2.blocks.0.ffn.fc1.weight"
    torch.testing.assert_close(after[name], before[name])


def test_float16_scales_its_gradients_and_resumes(folder, tmp_path):
    options = ("--amp", "float16", *PLAIN)
    assert run(folder, tmp_path, *options, "--epochs", 1) == 0
    assert load(tmp_path / "last.pth")["scaler"]["scale"] > 1
    assert run(folder, tmp_path, *options, "--epochs", 2, "--resume") == 0
    assert all(math.isfinite(row["loss"]) for row in load(tmp_path / "last.pth")["history"])


def test_divergence_stops_with_advice(folder, tmp_path, capsys):
    options = ("--lr", 1e30, "--clip-grad", 0, *PLAIN)
    assert run(folder, tmp_path, *options) == 1
    error = capsys.readouterr().err
    assert "error: the loss became" in error and "smaller --lr" in error


def broken(name):
    """A change to a copy of the dataset."""

    def no_val(root):
        shutil.rmtree(root / "val")

    def empty_class(root):
        (root / "train" / "n05").mkdir()

    def other_classes(root):
        (root / "val" / "n10").rename(root / "val" / "n11")

    def loose_image(root):
        shutil.copy(root / "train/n01/0.png", root / "train")

    def no_images(root):
        for file in root.glob("val/*/*.png"):
            file.unlink()

    def one_class(root):
        for name in ("n02", "n10"):
            shutil.rmtree(root / "train" / name)
            shutil.rmtree(root / "val" / name)

    return locals()[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no_val", "val does not exist; --data names a folder with train/ and val/"),
        ("empty_class", "train: n05 holds no images"),
        ("other_classes", "differ; only in train/: n10; only in val/: n11"),
        ("loose_image", "has images in the folder itself; expected all images in"),
        ("no_images", "val holds no images"),
        ("one_class", "has only the class n01; expected at least two"),
    ],
)
def test_wrong_folders_are_named(folder, tmp_path, capsys, change, message):
    root = shutil.copytree(folder, tmp_path / "data")
    broken(change)(root)
    assert run(root, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error and str(root) in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch-size", 26), "--batch-size 26 is larger than the training set of 24 images"),
        (("--batch-size", 7), "mixup and CutMix pair them and need an even number"),
        (("--epochs", 5, "--warmup-epochs", 5), "--warmup-epochs 5 leaves nothing of --epochs 5"),
        (("--batch-size", 0), "--batch-size must be positive, not 0"),
        (("--drop-path", 1), "--drop-path must lie in [0, 1), not 1.0"),
        (("--model-kwargs", "bogus=1"), "--model-kwargs: "),
        (("--model-kwargs", "depths=(1,1)"), "depths"),
        (("--eval-only",), "--eval-only needs --weights"),
        (("--weights", "missing.pth"), "missing.pth does not exist"),
    ],
)
def test_wrong_arguments_are_named(folder, tmp_path, capsys, options, message):
    assert run(folder, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_wrong_weights_are_refused(trained, folder, tmp_path, capsys):
    wide = ("--model-kwargs", "embed_dims=(16,32,40,96)", "depths=(1,1,1,1)", "num_heads=(1,2,4,4)")
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    torch.save({"model": {"conv.weight": torch.ones(1)}}, tmp_path / "other.pth")
    state = load(trained / "last.pth")["model"]
    del state["head.weight"], state["head.bias"]
    torch.save(state, tmp_path / "backbone.pth")
    last = trained / "last.pth"
    for options, message in [
        (("--weights", tmp_path / "page.pth"), "web page"),
        (("--weights", tmp_path / "other.pth"), "weights of another model?"),
        (("--weights", last, *wide), "expected (96, 40, 3, 3); is --model the right one?"),
        (
            ("--weights", tmp_path / "backbone.pth", "--eval-only"),
            "cannot be evaluated: it holds no classifier",
        ),
    ]:
        assert run(folder, tmp_path / "out", *options) == 2
        error = capsys.readouterr().err
        assert message in error, error


def test_a_training_is_not_overwritten_and_not_resumed_by_another(
    trained, folder, tmp_path, capsys
):
    assert run(folder, trained) == 2
    assert "last.pth exists; continue with --resume" in capsys.readouterr().err
    more = ("--model-kwargs", "depths=(1,1,1,2)")
    assert run(folder, trained, "--resume", *more) == 2
    assert "is of another model: --model-kwargs was" in capsys.readouterr().err

    root = shutil.copytree(folder, tmp_path / "data")
    for split in ("train", "val"):
        (root / split / "n10").rename(root / split / "n11")
    assert run(root, trained, "--resume") == 2
    assert "the dataset's list of classes was" in capsys.readouterr().err

    output = tmp_path / "out"
    output.mkdir()
    torch.save({"model": load(trained / "last.pth")["model"]}, output / "last.pth")
    assert run(folder, output, "--resume") == 2
    assert "cannot be resumed: it is no checkpoint of this tool" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="needs torch.distributed with gloo",
)
def test_two_processes_train_one_model(folder, tmp_path):
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        str(ROOT / "tools" / "pretrain_imagenet.py"),
        *arguments(folder, tmp_path / "two", "--epochs", 3, *PLAIN),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("epoch 1/3: loss") == 1  # the first process speaks for both
    assert "2 process(es) on cpu" in done.stdout
    state = load(tmp_path / "two" / "last.pth")
    assert state["history"][-1]["loss"] < state["history"][0]["loss"]
    # 15 images over two processes: each counted once.
    last = tmp_path / "two" / "last.pth"
    assert run(folder, tmp_path, "--eval-only", "--weights", last) == 0
    scores = json.loads((tmp_path / "eval.json").read_text())
    assert scores["top1"] == pytest.approx(state["history"][-1]["top1"])

"""tools/pretrain_imagenet.py as a user runs it, on a folder of one-coloured images."""

import itertools
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
from lrformer.pretrain import RECIPES, Pretraining
from lrformer.pretrain.run import main
from lrformer.pretrain.trainer import seed_epoch

ROOT = Path(__file__).parents[2]
COLORS = {"n01": (220, 40, 40), "n02": (40, 220, 40), "n10": (40, 40, 220)}
MODEL = {"embed_dims": (16, 32, 40, 64), "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 4)}
# Without what makes such images hard to tell apart.
PLAIN = ("--mixup", 0, "--cutmix", 0, "--auto-augment", "", "--random-erasing", 0)


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
    kwargs = [f"{name}={value}".replace(" ", "") for name, value in MODEL.items()]
    options = "--img-size 64 --device cpu --workers 0 --batch-size 8 --epochs 3 --warmup-epochs 0"
    own = ["--data", folder, "--output", output, *options.split(), "--lr", 2e-3]
    return list(map(str, [*own, "--amp", "float32", "--model-kwargs", *kwargs, *more]))


def run(folder, output, *more):
    """The tool's exit code; on one thread, as the model is small. Its log handlers are removed."""
    threads, logger = torch.get_num_threads(), logging.getLogger()
    level, handlers = logger.level, list(logger.handlers)
    logger.handlers.clear()
    torch.set_num_threads(1)
    try:
        return main(arguments(folder, output, *more))
    finally:
        torch.set_num_threads(threads)
        logging.basicConfig(handlers=[logging.NullHandler()], force=True)  # closes the tool's
        logger.handlers[:] = handlers
        logger.setLevel(level)


def load(file):
    return torch.load(file, weights_only=True)


@pytest.fixture(scope="session")
def trained(folder, tmp_path_factory):
    """The output of a training that succeeds."""
    output = tmp_path_factory.mktemp("trained")
    assert run(folder, output, "--epochs", 4, *PLAIN) == 0
    return output


def test_recipes_are_the_papers():
    values = {name: (x.epochs, x.lr, x.batch_size, x.weight_decay) for name, x in RECIPES.items()}
    assert values == {
        "imagenet1k": (300, 1e-3, 1024, 0.05),
        "imagenet22k": (90, 1e-3, 1024, 0.05),
        "finetune": (30, 5e-5, 512, 0.05),
    }


def test_learning_rate_scales_with_the_batch_unless_given():
    assert RECIPES["imagenet1k"].changed(batch_size=256).lr == pytest.approx(2.5e-4)
    assert RECIPES["finetune"].changed(batch_size=1024).lr == pytest.approx(1e-4)
    assert RECIPES["imagenet1k"].changed(batch_size=256, lr=3e-3).lr == 3e-3
    assert RECIPES["imagenet1k"].changed(epochs=100).lr == 1e-3


def test_training_learns_and_reports(trained):
    summary = json.loads((trained / "summary.json").read_text())
    rows = summary["epochs"]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"] < 0.6 * 1.2
    assert rows[-1]["top1"] == rows[-1]["top5"] == 100
    for row in rows:  # a cosine from the rate to a hundredth of it
        turn = math.cos(math.pi * row["epoch"] / 4)
        assert row["lr"] == pytest.approx(2e-5 + 0.5 * (2e-3 - 2e-5) * (1 + turn))
    log = (trained / "log.txt").read_text()
    assert "epoch 4/4: loss" in log and "images/s" in log and "top-1 100.00" in log
    assert load(trained / "best.pth")["epoch"] == summary["best"]["epoch"]
    assert load(trained / "last.pth")["epoch"] == 4


def test_checkpoint_is_a_model_for_timm(trained, folder):
    file = str(trained / "last.pth")
    model = timm.create_model("lrformer_tiny", num_classes=3, checkpoint_path=file, **MODEL).eval()
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


@pytest.mark.parametrize(("workers", "dtype"), [(0, "float16"), (1, "float32")])
def test_resumed_training_equals_an_uninterrupted_one(
    folder, tmp_path, monkeypatch, workers, dtype
):
    def save_and_stop(training, save=Pretraining._save):
        save(training)
        if len(training.history) == 2:
            raise KeyboardInterrupt

    options = ("--workers", workers, "--amp", dtype, "--seed", 5, "--img-size", 32)
    assert run(folder, tmp_path / "whole", *options) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "_save", save_and_stop)
        assert run(folder, tmp_path / "broken", *options) == 130
    assert run(folder, tmp_path / "broken", *options, "--resume") == 0

    whole, broken = (load(tmp_path / name / "last.pth") for name in ("whole", "broken"))
    for row in (*whole["history"], *broken["history"]):
        del row["images_per_s"]
    assert whole["history"] == broken["history"] and whole["scaler"] == broken["scaler"]
    assert bool(whole["scaler"]) == (dtype == "float16")
    torch.testing.assert_close(whole["model"], broken["model"], rtol=0, atol=0)
    states = (each["optimizer"]["state"] for each in (whole, broken))
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_epochs_and_processes_draw_other_random_numbers():
    drawn = set()
    for epoch, rank in itertools.product((0, 1), repeat=2):
        seed_epoch(0, epoch, rank)
        # timm draws from all three, NumPy's old generator among them.
        drawn |= {torch.rand(()).item(), np.random.rand(), random.random()}  # noqa: NPY002
    assert len(drawn) == 12


def test_resume_tells_what_is_not_as_before(trained, folder, tmp_path):
    output = shutil.copytree(trained, tmp_path / "copy")
    assert run(folder, output, "--resume", "--epochs", 5, "--lr", 1e-4, *PLAIN) == 0
    log = (output / "log.txt").read_text()
    assert "before the break: epochs: 4 -> 5" in log and "lr: 0.002 -> 0.0001" in log
    assert len(json.loads((output / "summary.json").read_text())["epochs"]) == 5


def test_evaluation_alone(trained, folder, tmp_path):
    weights = trained / "last.pth"
    assert run(folder, tmp_path, "--eval-only", "--weights", weights, "--batch-size", 7) == 0
    scores = json.loads((tmp_path / "eval.json").read_text())
    assert scores["images"] == 15
    assert scores["top1"] == pytest.approx(load(weights)["history"][-1]["top1"])
    assert not (tmp_path / "last.pth").exists()


def test_fine_tuning_starts_from_weights_with_another_classifier(trained, folder, tmp_path):
    for name in ("train/n01", "train/n02", "val/n01", "val/n02"):
        shutil.copytree(folder / name, tmp_path / "two" / name)
    options = ("--recipe", "finetune", "--weights", trained / "best.pth", "--lr", 1e-12)
    assert run(tmp_path / "two", tmp_path / "out", "--epochs", 1, *options) == 0
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "the classifier starts anew: its classifier has 3 classes, the dataset has 2" in log
    before, after = load(trained / "best.pth")["model"], load(tmp_path / "out/last.pth")["model"]
    assert after["head.weight"].shape == (2, 64)
    name = "stages.2.blocks.0.ffn.fc1.weight"
    torch.testing.assert_close(after[name], before[name])


def test_divergence_stops_with_advice(folder, tmp_path, capsys):
    assert run(folder, tmp_path, "--lr", 1e30, "--clip-grad", 0, *PLAIN) == 1
    error = capsys.readouterr().err
    assert "error: the loss became" in error and "smaller --lr" in error


def loose_image(root):
    shutil.copy(root / "train/n01/0.png", root / "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: shutil.rmtree(root / "val"), "val does not exist"),
        (lambda root: (root / "train/n05").mkdir(), "no images in n05"),
        (lambda root: (root / "val/n10").rename(root / "val/n11"), "train/: n10; only in val/: n1"),
        (loose_image, "has images in the folder itself"),
        (lambda root: [file.unlink() for file in root.glob("val/*/*")], "val holds no images"),
    ],
)
def test_wrong_folders_are_named(folder, tmp_path, capsys, change, message):
    root = shutil.copytree(folder, tmp_path / "data")
    change(root)
    assert run(root, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error and str(root) in error
    assert not (tmp_path / "out").exists()


WIDE = ("--model-kwargs", "embed_dims=(16,32,40,96)", "depths=(1,1,1,1)", "num_heads=(1,2,4,4)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch-size", 26), "--batch-size 26 is larger than the training set of 24 images"),
        (("--batch-size", 7), "--batch-size 7 must be a multiple of 2"),
        (("--epochs", 5, "--warmup-epochs", 5), "--warmup-epochs 5 leaves nothing of --epochs 5"),
        (("--drop-path", 1), "--drop-path must be in [0, 1), not 1.0"),
        (("--img-size", 0), "--img-size"),
        (("--model-kwargs", "bogus=1"), "--model-kwargs: "),
        (("--eval-only",), "--eval-only needs --weights"),
        (("--weights", "missing.pth"), "missing.pth"),
        (("--weights", "page.pth"), "page.pth is a web page"),
        (("--weights", "other.pth"), "other.pth does not fit the model: 150 of 1"),
        (("--weights", "last.pth", *WIDE), "last.pth does not fit the model"),
        (("--weights", "backbone.pth", "--eval-only"), "evaluated: it holds no classifier"),
    ],
)
def test_wrong_arguments_are_named(
    trained, folder, tmp_path, capsys, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    state = load(trained / "last.pth")["model"]
    torch.save(state, "last.pth")
    torch.save({k: v for k, v in state.items() if not k.startswith("head.")}, "backbone.pth")
    torch.save({"model": {"conv.weight": torch.ones(1)}}, "other.pth")
    Path("page.pth").write_text("<html>not found</html>")
    assert run(folder, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_training_is_not_overwritten_and_not_resumed_by_another(
    trained, folder, tmp_path, capsys
):
    root = shutil.copytree(folder, tmp_path / "data")
    for split in ("train", "val"):
        (root / split / "n10").rename(root / split / "n11")
    output = tmp_path / "out"
    output.mkdir()
    torch.save({"model": load(trained / "last.pth")["model"]}, output / "last.pth")
    deeper = ("--resume", "--model-kwargs", "depths=(1,1,1,2)")
    for data, out, options, message in (
        (folder, trained, (), "last.pth exists; continue with --resume"),
        (folder, trained, deeper, "its model_kwargs is"),
        (root, trained, ("--resume",), "its classes is"),
        (folder, output, ("--resume",), "cannot be resumed: it is no checkpoint of this tool"),
    ):
        assert run(data, out, *options) == 2
        assert message in capsys.readouterr().err


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
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
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

"""tools/predict.py as a user runs it: what it reads, writes, skips, goes on with and returns."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import suppress
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import predict
from lrformer.predict import ModelFiles, PredictJob
from lrformer.predict.cluster import map_on_ray
from lrformer.visualization import collect


def command(folder, *arguments):
    """The tool's arguments, with the folder's model."""
    options = {"config-file": "config.yaml", "weights": "weights.pth", "output": "out"}
    paths = chain.from_iterable((f"--{key}", str(folder / x)) for key, x in options.items())
    return [*paths, "--device", "cpu", *map(str, arguments)]


def run(folder, *arguments):
    return predict.main(command(folder, *arguments))


def files_in(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def read(file):
    return np.asarray(Image.open(file))


def times(folder):
    return {file: (folder / file).stat().st_mtime_ns for file in files_in(folder)}


def test_labels_and_probabilities_are_detectron2s(folder, scores_of):
    images = folder / "images"
    assert run(folder, "--input", images, "--format", "labels", "probabilities") == 0
    for number in range(5):
        scores = scores_of(Image.open(images / f"{number}.png"))
        labels = read(folder / "out" / "labels" / f"{number}.png")
        assert labels.dtype == np.uint8 and len(np.unique(labels)) > 1
        assert np.array_equal(labels, scores.argmax(0))
        found = np.load(folder / "out" / "probabilities" / f"{number}.npz")["probabilities"]
        assert found.dtype == np.float16
        assert np.abs(found - scores.softmax(0).numpy()).max() < 1e-3


def test_shards_videos_and_folders_together(folder, scores_of):
    pixels = (folder / "images" / "0.png").read_bytes()
    with tarfile.open(folder / "shard-7.tar", "w") as shard:
        for name in ("k0.png", "k0.seg.png", "k0.json", "sub/k1.PNG", "../../../k2.png", "/k3.png"):
            member = tarfile.TarInfo(name)
            member.size = len(pixels)
            shard.addfile(member, io.BytesIO(pixels))
    video = cv2.VideoWriter(str(folder / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (80, 60))
    for number in range(3):
        video.write(np.full((60, 80, 3), 60 * number, np.uint8))
    video.release()
    inputs = [folder / "shard-7.tar", folder / "v.avi", folder / "images" / "[12].png"]
    assert run(folder, "--input", *inputs) == 0
    shard = [f"shard-7/{key}.png" for key in ("k0", "k2", "k3", "sub/k1")]
    frames = [f"v/00000{number}.png" for number in range(3)]
    assert files_in(folder / "out" / "labels") == ["1.png", "2.png", *shard, *frames]
    expected = scores_of(Image.open(io.BytesIO(pixels))).argmax(0)
    assert np.array_equal(read(folder / "out" / "labels" / "shard-7" / "sub" / "k1.png"), expected)
    # Not one file outside the output.
    assert not any((folder.parents[i] / "k2.png").exists() for i in range(2))


def test_unreadable_images_are_named_and_skipped(folder, capsys):
    images = folder / "images"
    Image.new("RGB", (5000, 1)).save(images / "odd.png")  # which is predicted
    (images / "text.jpg").write_text("hello")
    whole = (images / "1.png").read_bytes()
    (images / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "bad.tar").write_text("no shard")
    (folder / "v.mp4").write_text("no video")
    inputs = (images, folder / "bad.tar", folder / "v.mp4", folder / "none.png")
    assert run(folder, "--input", *inputs) == 1
    captured = capsys.readouterr()
    assert "predicted 6 of 11 inputs" in captured.out
    skipped = [line for line in captured.err.splitlines() if "skipped: " in line]
    for name in ("text.jpg", "cut.png", "bad.tar", "v.mp4", "none.png"):
        assert sum(name in line for line in skipped) == 1
    labels = folder / "out" / "labels"
    assert files_in(labels) == [*(f"{number}.png" for number in range(5)), "odd.png"]
    with Image.open(labels / "odd.png") as odd:
        assert odd.size == (5000, 1)
    assert run(folder, "--input", images / "cut.png", images / "text.jpg") == 2


def test_only_what_is_missing_is_predicted_again(folder, capsys):
    formats = ("--format", "labels", "coco")
    assert run(folder, "--input", folder / "images", *formats) == 0
    before, out = times(folder / "out"), folder / "out"
    labels = (out / "labels" / "3.png").read_bytes()
    (out / "labels" / "3.png").unlink()
    assert run(folder, "--input", folder / "images", *formats) == 0
    assert (out / "labels" / "3.png").read_bytes() == labels
    kept = {file for file, when in times(out).items() if before[file] == when}
    assert len(kept) == 8 and "labels/3.png" not in kept
    assert len(json.loads((out / "coco.json").read_text())["images"]) == 5
    # Not in one folder with the predictions of another model.
    opts = ("TEST.SLIDING_WINDOW.ENABLED", "True")
    assert run(folder, "--input", folder / "images", *opts) == 2
    assert "another command: opts" in capsys.readouterr().err
    # Not by the name of another image: of 0.jpg and 0.png, the first would now be "0".
    Image.new("RGB", (80, 60)).save(folder / "images" / "0.jpg")
    assert run(folder, "--input", folder / "images", *formats) == 2
    assert "images/0.png" in capsys.readouterr().err


def test_images_of_any_size_by_windows(folder, scores_of, monkeypatch, capsys):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 80 // 3)
    file = folder / "images" / "0.png"
    assert run(folder, "--input", file) == 2
    assert "--windows" in capsys.readouterr().err
    assert files_in(folder / "out") == ["predict.json", "sources.json"]
    (folder / "out" / "predict.json").unlink()
    assert run(folder, "--input", file, "--windows") == 0
    assert Image.MAX_IMAGE_PIXELS == 60 * 80 // 3
    monkeypatch.undo()
    # One window holds it all, at its own size.
    expected = scores_of(Image.open(file), side=None).argmax(0)
    assert np.array_equal(read(folder / "out" / "labels" / "0.png"), expected)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--processes", "0"], "--processes is 0"),
        (["--windows", "--format", "probabilities"], "no probabilities"),
        (["--config-file", "none.yaml"], "no config file none.yaml"),
        (["--output", __file__], "test_job.py is a file"),
    ],
)
def test_what_makes_no_sense_is_named(folder, arguments, message, capsys):
    try:
        code = run(folder, "--input", folder / "images", *arguments)
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (folder / "out").exists()


def copies(folder, count):
    """A folder of so many images."""
    (folder / "many").mkdir()
    for number in range(count):
        os.link(folder / "images" / f"{number % 5}.png", folder / "many" / f"{number:03d}.png")
    return folder / "many"


def check_all(folder, count, scores_of):
    assert files_in(folder / "out" / "labels") == [f"{number:03d}.png" for number in range(count)]
    for number in range(count):
        labels = read(folder / "out" / "labels" / f"{number:03d}.png")
        expected = scores_of(Image.open(folder / "images" / f"{number % 5}.png")).argmax(0)
        assert np.array_equal(labels, expected)


def processes_below(ancestor, word):
    """Ids of processes that this one started, at once or by others, with a word in their name."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = (process / "stat").read_text().rpartition(") ")[2].split()[1]
            found[int(process.name)] = int(parent), (process / "cmdline").read_bytes().decode()

    def is_below(pid):
        return pid in found and (found[pid][0] == ancestor or is_below(found[pid][0]))

    return [pid for pid, (_, name) in found.items() if word in name and is_below(pid)]


def wait_for_the_first(folder):
    while not list(folder.glob("out/labels/0*.png")):
        time.sleep(0.01)


@pytest.mark.slow
def test_what_was_killed_goes_on_where_it_was(folder, scores_of):
    arguments = command(folder, "--input", copies(folder, 90), "--processes", 2)
    tool = [sys.executable, predict.__file__, *arguments]
    with subprocess.Popen(tool, start_new_session=True) as process:
        wait_for_the_first(folder)
        os.killpg(process.pid, signal.SIGKILL)
    assert 0 < len(list(folder.glob("out/labels/[!.]*.png"))) < 90
    for file in folder.glob("out/labels/[!.]*.png"):
        file.unlink()
    with subprocess.Popen(tool) as process:  # loses one process of its pool
        wait_for_the_first(folder)
        os.kill(processes_below(process.pid, "spawn_main")[0], signal.SIGKILL)
        assert process.wait() == 1
    assert 0 < len(list(folder.glob("out/labels/[!.]*.png"))) < 90
    assert predict.main(arguments) == 0
    check_all(folder, 90, scores_of)


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_predicts_every_image_once(folder, scores_of):
    pytest.importorskip("ray.data")
    import ray

    model = ModelFiles(str(folder / "config.yaml"), str(folder / "weights.pth"), "cpu")
    job = PredictJob(model, folder / "out")
    sources, _ = collect([str(copies(folder, 200))], job.output)
    killed = []

    def kill_one():
        wait_for_the_first(folder)
        killed.append(processes_below(os.getpid(), "MapWorker")[0])
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill_one)
    thread.start()
    try:
        assert list(map_on_ray(job, sources, workers=2)) == [None] * 200
    finally:
        ray.shutdown()
    thread.join()
    assert killed
    check_all(folder, 200, scores_of)

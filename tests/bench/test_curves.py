"""Curves of trainings, from logs written by hand."""

import csv
import json

import pytest


@pytest.fixture
def training(tmp_path):
    """A training of 40 iterations, evaluated twice, broken and resumed after iteration 19."""
    lines = [
        {"iteration": 9, "time": 2.0},
        {"iteration": 19, "time": 4.0},
        {"iteration": 19, "sem_seg/mIoU": 20.0},
        {"iteration": 19, "time": 9.0},  # written a second time by the resumed training
        {"iteration": 39, "time": 1.0},
        {"iteration": 39, "sem_seg/mIoU": 50.0},
    ]
    (tmp_path / "config.yaml").write_text("SOLVER: {IMS_PER_BATCH: 3, MAX_ITER: 40}")
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


@pytest.mark.parametrize(
    ("options", "minutes"), [([], [1.0, 80 / 60]), (["--minutes", 8], [4.0, 8.0])]
)
def test_scores_stand_against_minutes_and_images(training, bench, options, minutes):
    out, picture = training / "out.csv", training / "plots" / "curves.png"
    bench("curves", f"mine={training}", *options, "--plot", picture, "--output", out)
    rows = list(csv.DictReader(out.open()))
    assert [float(row["minutes"]) for row in rows] == pytest.approx(minutes)
    assert [(row["images_seen"], row["miou"]) for row in rows] == [("60", "20.0"), ("120", "50.0")]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_training_without_evaluations_is_refused(training, refused):
    (training / "metrics.json").write_text('{"iteration": 9, "time": 2.0}')
    assert "TEST.EVAL_PERIOD" in refused("curves", training)

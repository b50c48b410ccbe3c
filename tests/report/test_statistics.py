"""Intervals and calibration, against SciPy and cases worked out by hand."""

import json

import numpy as np
import pytest
from scipy.stats import bootstrap

from lrformer.report.statistics import calibration, interval, resampled
from lrformer.report.write import read_curves


@pytest.fixture
def images():
    """Pixels of 40 images and 3 classes: labelled, predicted, correct."""
    random = np.random.default_rng(0)
    correct = random.integers(0, 500, (40, 3))
    return np.stack([correct + random.integers(1, 300, (40, 3)) for _ in range(2)] + [correct], 1)


def _miou(indices, images):
    labelled, predicted, correct = images[indices].sum(0)
    return 100 * np.mean(correct / (labelled + predicted - correct))


def test_intervals_are_scipys(images):
    found = interval(resampled(images)["mIoU"])
    options = {"vectorized": False, "method": "percentile", "n_resamples": 3000, "rng": 0}
    scipys = bootstrap((np.arange(40),), lambda i: _miou(i, images), **options)
    width = scipys.confidence_interval.high - scipys.confidence_interval.low
    # Two draws of thousands of resamples differ by a few hundredths of the interval.
    assert found == pytest.approx(tuple(scipys.confidence_interval), abs=0.08 * width)
    assert resampled(images)["mIoU"].std() == pytest.approx(scipys.standard_error, rel=0.08)


def test_a_class_that_never_occurs_has_no_interval(images):
    images[:, :, 1] = 0
    drawn = resampled(images)
    low, high = interval(drawn["IoU"])
    assert np.isnan(low).tolist() == np.isnan(high).tolist() == [False, True, False]
    assert not np.isnan(drawn["mIoU"]).any()


def test_calibration_of_a_case_worked_out_by_hand():
    # Four pixels of confidence 0.9, three of them right; six of 0.5, all right; an empty bin.
    found = calibration(np.array([[4, 0, 6], [3, 0, 6], [3.6, 0, 3.0]]))
    assert found["ECE"] == pytest.approx(100 * (4 * 0.15 + 6 * 0.5) / 10)
    rows = [(x["pixels"], x["confidence"], x["accuracy"]) for x in found["bins"]]
    assert rows == [pytest.approx((4, 0.9, 0.75)), pytest.approx((6, 0.5, 1.0))]


def test_curves_of_a_training_that_was_resumed(tmp_path):
    rows = [(19, 3.0, None), (39, 2.0, 10.0), (59, 9.0, 1.0), (39, 1.5, None), (59, 1.0, 30.0)]
    keys = ("iteration", "total_loss", "sem_seg/mIoU")
    text = [json.dumps(dict(zip(keys, row, strict=True))) for row in rows]
    (tmp_path / "metrics.json").write_text("\n".join([*text, '{"lr": 1}', '{"iterat']))
    curves = read_curves(tmp_path / "metrics.json", "sem_seg/mIoU")
    assert [(x["iteration"], x["loss"], x["mIoU"]) for x in curves] == [
        (19, 3.0, None),
        (39, 2.0, 10.0),
        (39, 1.5, None),
        (59, 1.0, 30.0),
    ]

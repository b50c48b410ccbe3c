"""What is gathered during an evaluation, against NumPy, SciPy and PyTorch."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import nn

from lrformer.inference import ConfidentClassMaps
from lrformer.report import ReportEvaluator
from lrformer.report.pictures import suspect_picture


@pytest.fixture
def gathered(labels):
    """The evaluator after an evaluation, and its predictions and confidences."""
    random = np.random.default_rng(1)
    predictions, confidences = {}, {}
    evaluator = ReportEvaluator("reported_sem_seg")
    evaluator.reset()
    for number, (name, label) in enumerate(labels.items()):
        prediction = np.where(label == 255, 0, label)
        prediction[20:40, 10 : 20 + 10 * number] = 1  # ever more errors
        prediction[50, :] = 2  # a thin line
        confidence = random.uniform(0.5, 1, label.shape).astype(np.float32)
        confidence[15:45] = 0.97
        predictions[name], confidences[name] = prediction, confidence
        output = {"sem_seg_classes": torch.from_numpy(prediction).long(), "seconds": 0.1}
        output["confidence"] = torch.from_numpy(confidence)
        evaluator.process([{"file_name": name}], [output])
    evaluator.evaluate()
    return evaluator, predictions, confidences


def test_confusion_and_calibration(labels, gathered):
    evaluator, predictions, confidences = gathered
    found = evaluator.findings
    label, prediction, confidence = (
        np.stack(list(maps.values())) for maps in (labels, predictions, confidences)
    )
    known = label != 255
    for i, j in np.ndindex(4, 4):
        assert found.confusion[i, j] == (known & (label == i) & (prediction == j)).sum()
    edges = np.linspace(0, 1, 16)
    correct = (label == prediction)[known]
    rows = [
        np.histogram(confidence[known], edges, weights=weights)[0]
        for weights in (None, correct.astype(float), confidence[known].astype(float))
    ]
    np.testing.assert_allclose(found.bins, rows, rtol=1e-6)
    assert evaluator.results["pACC"] == pytest.approx(100 * correct.mean())


def _miou(label, prediction):
    known, scores = label != 255, []
    for i in range(4):
        true, found = known & (label == i), known & (prediction == i)
        if (true | found).any():
            scores.append(100 * (true & found).sum() / (true | found).sum())
    return np.mean(scores)


def test_the_worst_images_come_first(labels, gathered):
    evaluator, predictions, _ = gathered
    mious = {x: _miou(label, predictions[x]) for x, label in labels.items()}
    names = sorted(mious, key=mious.get)
    assert [x.file_name for x in evaluator.findings.worst] == names
    assert [x.file_name for x in evaluator.findings.best] == names[::-1][:4]
    scores = [x.score for x in evaluator.findings.worst]
    assert scores == pytest.approx([mious[x] for x in names])


def test_suspects_are_thick_confident_regions(labels, gathered):
    evaluator, predictions, confidences = gathered
    expected = []
    for name, label in labels.items():
        wrong = (label != 255) & (label != predictions[name]) & (confidences[name] >= 0.9)
        for labelled in range(3):
            for predicted in range(3):
                region = wrong & (label == labelled) & (predictions[name] == predicted)
                # Five ones at the edge of the image may stand outside of it.
                padded = np.pad(region, 2, "edge")
                thick = ndimage.binary_opening(padded, np.ones((5, 5)))[2:-2, 2:-2] & region
                for number in range(1, ndimage.label(thick)[1] + 1):
                    size = (ndimage.label(thick)[0] == number).sum()
                    expected.append((int(size), labelled, predicted))
    found = [(x.pixels, x.labelled, x.predicted) for x in evaluator.findings.suspects]
    assert len(found) == min(12, len(expected)) > 3
    assert [x[0] for x in found] == sorted((x[0] for x in expected), reverse=True)[: len(found)]
    assert set(found) <= set(expected)
    for x in evaluator.findings.suspects:
        left, top, width, height = x.box
        inside = predictions[x.file_name][top : top + height, left : left + width]
        assert (inside == x.predicted).sum() >= x.pixels
        assert x.confidence >= 0.9
        uri = suspect_picture(x).removeprefix("data:image/webp;base64,")
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))).astype(int)
        assert (np.abs(picture - (255, 221, 0)).sum(2) < 120).any()  # the outline


class _Given(nn.Module):
    """Predicts what it is given."""

    def forward(self, inputs):
        return [{"sem_seg": x["image"]} for x in inputs]


def test_confidences_are_the_highest_probabilities():
    scores = torch.randn(5, 8, 9) * 4
    for softmax, given, expected in (
        (True, scores, scores.softmax(0)),
        (False, scores.sigmoid(), scores.sigmoid() / scores.sigmoid().sum(0)),
    ):
        (output,) = ConfidentClassMaps(_Given().eval(), softmax)([{"image": given}])
        torch.testing.assert_close(output["confidence"], expected.amax(0))
        assert torch.equal(output["sem_seg_classes"], scores.argmax(0))
        assert output["seconds"] > 0

"""What a report shows beside the scores, gathered while a dataset is evaluated."""

import heapq
import time
from collections import OrderedDict
from dataclasses import dataclass, field

import cv2
import numpy as np
from detectron2.utils import comm

from lrformer.evaluation import PerClassSemSegEvaluator
from lrformer.evaluation.regions import number_components
from lrformer.evaluation.sem_seg import summary_of

# Bins of equal width that a pixel's confidence is sorted into (Guo et al., On Calibration of Modern
# Neural Networks, ICML 2017).
BINS = 15
NUM_WORST, NUM_BEST, NUM_SUSPECTS = 8, 4, 12
# What a model says with this probability against the label makes the label suspect.
_CONFIDENT = 0.9
# Models and labels differ by a pixel or two along every boundary: what is thinner is left out.
_WINDOW = np.ones((5, 5), np.uint8)


@dataclass
class Example:
    """An image that is shown: its mIoU in percent, and its H×W predicted classes."""

    file_name: str
    score: float
    prediction: np.ndarray


@dataclass
class Suspect:
    """A connected region where a confident model contradicts the label.

    Attributes:
        labelled, predicted: classes.
        pixels: its size.
        confidence: the mean over its pixels.
        box: x, y, width, height.
    """

    file_name: str
    labelled: int
    predicted: int
    pixels: int
    confidence: float
    box: tuple[int, int, int, int]


@dataclass
class Findings:
    """Of a process, or of all together.

    Attributes:
        confusion: K×K labelled pixels, by labelled and by predicted class.
        bins: 3×BINS by confidence: pixels, those of them that are correct, sum of confidences.
        images: name -> 3×K pixels labelled as each class, predicted as it, and both.
        worst, best: of all images, those of the lowest and the highest mIoU first.
        suspects: the largest first.
        model_seconds: an image's time in the model.
        seconds: how long the evaluation took.
    """

    confusion: np.ndarray
    bins: np.ndarray
    images: dict[str, np.ndarray] = field(default_factory=dict)
    worst: list[Example] = field(default_factory=list)
    best: list[Example] = field(default_factory=list)
    suspects: list[Suspect] = field(default_factory=list)
    model_seconds: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: "Findings") -> None:
        """Add those of other images."""
        self.confusion += other.confusion
        self.bins += other.bins
        self.images |= other.images
        self.worst = heapq.nsmallest(NUM_WORST, self.worst + other.worst, key=lambda x: x.score)
        self.best = heapq.nlargest(NUM_BEST, self.best + other.best, key=lambda x: x.score)
        suspects = self.suspects + other.suspects
        self.suspects = heapq.nlargest(NUM_SUSPECTS, suspects, key=lambda x: x.pixels)
        self.model_seconds += other.model_seconds
        self.seconds = max(self.seconds, other.seconds)


class ReportEvaluator(PerClassSemSegEvaluator):
    """Also gathers what :class:`Findings` has.

    :meth:`process` takes the outputs of :class:`lrformer.inference.ConfidentClassMaps`.

    Attributes:
        results: what :meth:`evaluate` returned, without the task's name.
        findings: of all processes, in the main one.
    """

    def reset(self) -> None:
        super().reset()
        self.findings = self._nothing()
        self._start = time.perf_counter()

    def _nothing(self) -> Findings:
        return Findings(np.zeros((self._num_classes,) * 2, np.int64), np.zeros((3, BINS)))

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for x, output in zip(inputs, outputs, strict=True):
            maps = [output[key].cpu().numpy() for key in ("sem_seg_classes", "confidence")]
            self._wait()
            work = self._find, x["file_name"], *maps, output["seconds"]
            self._counting = self._thread.submit(*work)

    def _find(
        self, file_name: str, prediction: np.ndarray, confidence: np.ndarray, seconds: float
    ) -> None:
        label = self._count(file_name, prediction)
        counts, num_classes = label != self._ignore_label, self._num_classes
        correct = counts & (label == prediction)
        found = self._nothing()
        found.model_seconds = [seconds]
        pairs = num_classes * label[counts] + prediction[counts]
        found.confusion += np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, -1)
        number = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
        of_bins = (counts, None), (correct, None), (counts, confidence[counts])
        for row, (pixels, weights) in zip(found.bins, of_bins, strict=True):
            row += np.bincount(number[pixels], weights, minlength=BINS)
        if counts.any():
            of_classes = found.confusion.sum(1), found.confusion.sum(0), found.confusion.diagonal()
            found.images[file_name] = np.stack(of_classes)
            score = summary_of(found.images[file_name])["mIoU"]
            small = prediction.astype(np.min_scalar_type(num_classes))
            found.worst = found.best = [Example(file_name, score, small)]
            contradicted = counts & ~correct & (confidence >= _CONFIDENT)
            found.suspects = suspects_of(file_name, label, prediction, confidence, contradicted)
        self.findings.add(found)

    def evaluate(self) -> "OrderedDict[str, dict[str, float]] | None":
        results = super().evaluate()
        self.findings.seconds = time.perf_counter() - self._start
        gathered = comm.gather(self.findings)
        if results is not None:
            self.results = results["sem_seg"]
            self.findings = self._nothing()
            for findings in gathered:
                self.findings.add(findings)
        return results


def suspects_of(
    file_name: str,
    label: np.ndarray,
    prediction: np.ndarray,
    confidence: np.ndarray,
    contradicted: np.ndarray,
) -> list[Suspect]:
    """The largest regions of one labelled and one predicted class, without their thin parts.

    Args:
        label, prediction: H×W classes.
        confidence: H×W, from 0 to 1.
        contradicted: H×W bool, the pixels in question.
    """
    pairs = np.where(contradicted, (prediction.max() + 1) * label + prediction, -1)
    # A thick part is what windows cover that lie in it: a morphological opening of all regions.
    windows = pairs.astype(np.float32)
    inside = contradicted & (cv2.erode(windows, _WINDOW) == cv2.dilate(windows, _WINDOW))
    thick = cv2.dilate(inside.astype(np.uint8), _WINDOW) > 0
    segments = number_components(np.where(thick, pairs, -1))
    areas = np.bincount(segments[thick])
    found = []
    for number in np.argsort(-areas, kind="stable")[: min(NUM_SUSPECTS, np.count_nonzero(areas))]:
        mask = segments == number
        labelled, predicted = int(label[mask][0]), int(prediction[mask][0])
        sure, box = float(confidence[mask].mean()), cv2.boundingRect(mask.astype(np.uint8))
        found.append(Suspect(file_name, labelled, predicted, int(areas[number]), sure, box))
    return found

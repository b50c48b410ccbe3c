"""Intersection over union and accuracy of semantic segmentation, also per class and as JSON."""

import itertools
import json
import logging
from collections import OrderedDict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation import SemSegEvaluator
from detectron2.utils import comm
from tabulate import tabulate

from lrformer.data import DatasetError
from lrformer.data.reading import check_label, read_label
from lrformer.inference.class_map import argmax

logger = logging.getLogger(__name__)

RESULTS_FILE = "sem_seg_results.json"
PREDICTIONS_FILE = "sem_seg_predictions.json"

# Images whose class maps wait for their labels to be read.
_MAX_WAITING = 4


def scores_of(confusion: np.ndarray) -> dict[str, Any]:
    """Scores of a confusion matrix, all in percent.

    A class counts in ``mIoU`` if it occurs among the labels or, wrongly, among the predictions for
    labelled pixels, and in ``mACC`` if it occurs among the labels: mmsegmentation's definition,
    which the paper's numbers follow.

    Args:
        confusion: K×K, pixels by predicted class (rows) and label (columns).

    Returns:
        ``mIoU``, ``fwIoU``, ``mACC``, ``pACC`` (floats) and ``IoU``, ``ACC`` (K floats each). NaN
        where there is nothing to divide by.
    """
    correct = confusion.diagonal().astype(np.float64)
    labelled = confusion.sum(axis=0).astype(np.float64)
    predicted = confusion.sum(axis=1).astype(np.float64)
    total = labelled.sum()

    def ratio(numerator, denominator):
        result = np.full_like(correct, np.nan)
        return np.divide(numerator, denominator, out=result, where=denominator > 0)

    def mean(values):
        values = values[~np.isnan(values)]
        return float(values.mean()) if len(values) else np.nan

    iou = 100 * ratio(correct, labelled + predicted - correct)
    acc = 100 * ratio(correct, labelled)
    return {
        "mIoU": mean(iou),
        "fwIoU": float(np.nansum(iou * labelled) / total) if total else np.nan,
        "mACC": mean(acc),
        "pACC": float(100 * correct.sum() / total) if total else np.nan,
        "IoU": iou.tolist(),
        "ACC": acc.tolist(),
    }


class PerClassSemSegEvaluator(SemSegEvaluator):
    """detectron2's evaluator with a table and a JSON file of the classes' scores.

    ``sem_seg_results.json`` in ``output_dir`` holds the dataset, the number of images, the four
    means and, for each class, its name, ``IoU`` and ``ACC``, in percent; null for a class that does
    not occur. The scores are the same under every version of detectron2 (whose definitions of mIoU
    differ for classes that are predicted but not labelled): see :func:`scores_of`.

    Labels are read and counted in a thread, while the model predicts the next images.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        save_predictions: bool = False,
    ):
        """
        Args:
            dataset_name: a registered dataset with ``stuff_classes`` and ``ignore_label``.
            distributed: whether to add up the images of all processes.
            output_dir: folder for the results; made where it does not exist. None: no files.
            save_predictions: also write ``sem_seg_predictions.json``, every predicted segment in
                COCO's run-length encoding. It is slow and large.
        """
        super().__init__(dataset_name, distributed, output_dir)
        self._save_predictions = save_predictions

    def reset(self) -> None:
        self._confusion = np.zeros((self._num_classes, self._num_classes), dtype=np.int64)
        self._predictions = []
        self._num_images = 0
        # One thread: what it adds to is read only after it has finished.
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future] = deque()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Count the pixels of a batch.

        Args:
            inputs: detectron2 dataset dicts with "file_name".
            outputs: an image's {"sem_seg_classes": H×W classes} or {"sem_seg": K×H×W scores}, at
                the label map's size.

        Raises:
            DatasetError: a label is out of range, or prediction and label map differ in size; here
                or in a later call, or in :meth:`evaluate`.
        """
        for x, output in zip(inputs, outputs, strict=True):
            prediction = output.get("sem_seg_classes")
            if prediction is None:
                prediction = argmax(output["sem_seg"])
            task = self._thread.submit(self._count, x["file_name"], prediction.cpu().numpy())
            self._waiting.append(task)
            if len(self._waiting) > _MAX_WAITING:
                self._waiting.popleft().result()

    def _count(self, file_name: str, prediction: np.ndarray) -> None:
        file = self.input_file_to_gt_file[file_name]
        label = read_label(file)
        if label.shape != prediction.shape:
            raise DatasetError(
                f"{file}: the label map is {label.shape[1]}x{label.shape[0]}, the prediction "
                f"for {file_name} {prediction.shape[1]}x{prediction.shape[0]} (width x height)"
            )
        check_label(label, file, self._num_classes, self._ignore_label)
        counts = label != self._ignore_label
        pairs = self._num_classes * prediction[counts].astype(np.int64, copy=False) + label[counts]
        self._confusion += np.bincount(pairs, minlength=self._confusion.size).reshape(
            self._confusion.shape
        )
        self._num_images += 1
        if self._save_predictions:
            self._predictions.extend(self.encode_json_sem_seg(prediction, file_name))

    def evaluate(self) -> "OrderedDict[str, dict[str, float]] | None":
        """The scores of all images since :meth:`reset`; also logged and written to files.

        Returns:
            {"sem_seg": {metric: percent}} with detectron2's names of the metrics; None in other
            processes than the main one.
        """
        while self._waiting:
            self._waiting.popleft().result()
        if self._distributed:
            gathered = comm.all_gather((self._confusion, self._num_images, self._predictions))
            if not comm.is_main_process():
                return None
            confusions, numbers, predictions = zip(*gathered, strict=True)
            self._confusion = sum(confusions)
            self._num_images = sum(numbers)
            self._predictions = list(itertools.chain(*predictions))
        scores = scores_of(self._confusion)
        if self._output_dir:
            self._write(scores)
        logger.info(f"{self._dataset_name}, {self._num_images} images:\n{self._table(scores)}")
        results = {name: scores[name] for name in ("mIoU", "fwIoU")}
        results |= _by_class("IoU", self._class_names, scores)
        results |= {name: scores[name] for name in ("mACC", "pACC")}
        results |= _by_class("ACC", self._class_names, scores)
        return OrderedDict(sem_seg=results)

    def _write(self, scores: dict[str, Any]) -> None:
        folder = Path(self._output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        rows = zip(self._class_names, scores["IoU"], scores["ACC"], strict=True)
        results = {
            "dataset": self._dataset_name,
            "images": self._num_images,
            **{name: _or_none(scores[name]) for name in ("mIoU", "fwIoU", "mACC", "pACC")},
            "classes": [
                {"name": name, "IoU": _or_none(iou), "ACC": _or_none(acc)}
                for name, iou, acc in rows
            ],
        }
        text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / RESULTS_FILE).write_text(text + "\n", encoding="utf-8")
        if self._save_predictions:
            (folder / PREDICTIONS_FILE).write_text(json.dumps(self._predictions), encoding="utf-8")

    def _table(self, scores: dict[str, Any]) -> str:
        rows = [
            [name, *("-" if np.isnan(value) else f"{value:.2f}" for value in values)]
            for name, *values in zip(self._class_names, scores["IoU"], scores["ACC"], strict=True)
        ]
        # Side by side, so that 150 classes fit on a screen.
        columns = min(3, -(-len(rows) // 12))
        height = -(-len(rows) // columns)
        parts = [rows[i : i + height] for i in range(0, len(rows), height)]
        lines = [
            list(itertools.chain(*cells))
            for cells in itertools.zip_longest(*parts, fillvalue=["", "", ""])
        ]
        headers = ["class", "IoU", "ACC"] * len(parts)
        align = ["left", "right", "right"] * len(parts)
        return tabulate(lines, headers, tablefmt="pipe", colalign=align, disable_numparse=True)


def _by_class(metric: str, names: list[str], scores: dict[str, Any]) -> dict[str, float]:
    return {f"{metric}-{name}": value for name, value in zip(names, scores[metric], strict=True)}


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value

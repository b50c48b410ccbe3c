"""Intersection over union and accuracy of semantic segmentation, also per class and as JSON."""

import itertools
import json
import logging
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation import SemSegEvaluator
from detectron2.utils import comm
from tabulate import tabulate

from lrformer.data.reading import check_label, read_label
from lrformer.inference.class_map import argmax

from .results import mean_of_known, write_results

logger = logging.getLogger(__name__)

RESULTS_FILE = "sem_seg_results.json"
PREDICTIONS_FILE = "sem_seg_predictions.json"


def scores_of(confusion: np.ndarray) -> dict[str, Any]:
    """Scores of a confusion matrix, K×K pixels by predicted class (rows) and label, in percent.

    A class counts in ``mIoU`` if it occurs among the labels or, wrongly, among the predictions for
    labelled pixels, and in ``mACC`` if it occurs among the labels: mmsegmentation's definition,
    which the paper's numbers follow.

    Returns:
        ``mIoU``, ``fwIoU``, ``mACC``, ``pACC`` (floats) and ``IoU``, ``ACC`` (K floats each). NaN
        where there is nothing to divide by.
    """
    correct, labelled = confusion.diagonal(), confusion.sum(axis=0)
    union = labelled + confusion.sum(axis=1) - correct
    with np.errstate(invalid="ignore"):  # 0 / 0
        iou, acc = 100 * (correct / union), 100 * (correct / labelled)
        return {
            "mIoU": mean_of_known(iou),
            "fwIoU": float(np.nansum(iou * labelled) / labelled.sum()),
            "mACC": mean_of_known(acc),
            "pACC": float(100 * correct.sum() / labelled.sum()),
            "IoU": iou.tolist(),
            "ACC": acc.tolist(),
        }


class PerClassSemSegEvaluator(SemSegEvaluator):
    """detectron2's evaluator with a table and a JSON file of the classes' scores.

    They are the same under every version of detectron2, whose definitions of mIoU differ; see
    :func:`scores_of`. Labels are read and counted in a thread, while the model goes on.

    Args:
        dataset_name: a registered dataset with ``stuff_classes`` and ``ignore_label``.
        output_dir: folder for ``sem_seg_results.json``; made where it does not exist. None: no
            files.
        save_predictions: also write ``sem_seg_predictions.json``, every predicted segment in COCO's
            run-length encoding. It is slow and large.
    """

    def __init__(
        self, dataset_name: str, output_dir: str | None = None, *, save_predictions: bool = False
    ):
        super().__init__(dataset_name, output_dir=output_dir)
        self._save_predictions = save_predictions

    def reset(self) -> None:
        self._confusion = np.zeros((self._num_classes, self._num_classes), dtype=np.int64)
        self._predictions = []
        self._num_images = 0
        self._thread = ThreadPoolExecutor(1)
        self._counting: Future | None = None

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Count the pixels of a batch.

        Args:
            inputs: detectron2 dataset dicts with "file_name".
            outputs: an image's {"sem_seg_classes": H×W classes} or {"sem_seg": K×H×W scores}, at
                the label map's size.

        Raises:
            DatasetError: a label of the image before is out of range, or of another size; that of
                the last image raises it in :meth:`evaluate`.
        """
        for x, output in zip(inputs, outputs, strict=True):
            prediction = output.get("sem_seg_classes")
            if prediction is None:
                prediction = argmax(output["sem_seg"])
            prediction = prediction.cpu().numpy()
            self._wait()
            self._counting = self._thread.submit(self._count, x["file_name"], prediction)

    def _wait(self) -> None:
        if self._counting is not None:
            self._counting.result()

    def _count(self, file_name: str, prediction: np.ndarray) -> None:
        file = self.input_file_to_gt_file[file_name]
        label = read_label(file)
        check_label(label, file, self._num_classes, self._ignore_label, prediction.shape)
        counts = label != self._ignore_label
        pairs = self._num_classes * prediction[counts].astype(np.int64) + label[counts]
        pixels = np.bincount(pairs, minlength=self._confusion.size)
        self._confusion += pixels.reshape(self._confusion.shape)
        self._num_images += 1
        if self._save_predictions:
            self._predictions.extend(self.encode_json_sem_seg(prediction, file_name))

    def evaluate(self) -> "OrderedDict[str, dict[str, float]] | None":
        """The scores of all images since :meth:`reset`; also logged and written to files.

        Returns:
            {"sem_seg": {metric: percent}} with detectron2's names of the metrics; None in other
            processes than the main one.
        """
        self._wait()
        gathered = comm.gather((self._confusion, self._num_images, self._predictions))
        if not comm.is_main_process():
            return None
        confusions, numbers, predictions = zip(*gathered, strict=True)
        scores = scores_of(sum(confusions))
        classes = [
            {"name": name, "IoU": iou, "ACC": acc}
            for name, iou, acc in zip(self._class_names, scores["IoU"], scores["ACC"], strict=True)
        ]
        logger.info(f"{self._dataset_name}, {sum(numbers)} images:\n{_table(classes)}")
        results = {name: scores[name] for name in ("mIoU", "fwIoU", "mACC", "pACC")}
        if self._output_dir:
            file = Path(self._output_dir) / RESULTS_FILE
            write_results(file, self._dataset_name, sum(numbers), results, classes)
            if self._save_predictions:
                text = json.dumps(list(itertools.chain(*predictions)))
                file.with_name(PREDICTIONS_FILE).write_text(text)
        for metric in ("IoU", "ACC"):
            results |= {f"{metric}-{row['name']}": row[metric] for row in classes}
        return OrderedDict(sem_seg=results)


def _table(classes: Sequence[dict[str, Any]]) -> str:
    rows = [
        [name, *("-" if np.isnan(score) else f"{score:.2f}" for score in scores)]
        for name, *scores in map(dict.values, classes)
    ]
    align = ("left", "right", "right")
    return tabulate(rows, ["class", "IoU", "ACC"], "pipe", colalign=align, disable_numparse=True)

"""Intersection over union and accuracy of semantic segmentation, by class and size, as JSON."""

import itertools
import json
import logging
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from detectron2.utils import comm
from tabulate import tabulate

from lrformer.data.metadata import SIZES
from lrformer.data.reading import check_label, read_label
from lrformer.inference.class_map import argmax

from .regions import boundary, segment_sizes
from .results import mean_of_known, write_results

logger = logging.getLogger(__name__)

RESULTS_FILE = "sem_seg_results.json"
PREDICTIONS_FILE = "sem_seg_predictions.json"


def scores_of(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """``IoU`` and ``ACC`` of each class in percent; NaN where there is nothing to divide by.

    Args:
        pixels: 3×…×K numbers of pixels: labelled as each class, predicted as it, and both.
    """
    labelled, predicted, correct = pixels
    with np.errstate(invalid="ignore"):  # 0 / 0
        iou = 100 * (correct / (labelled + predicted - correct))
        return {"IoU": iou, "ACC": 100 * (correct / labelled)}


def means_of(scores: dict[str, np.ndarray]) -> dict[str, float]:
    """``mIoU`` from ``IoU`` and so on.

    A class counts in ``mIoU`` if it occurs among the labels or, wrongly, among the predictions for
    labelled pixels, and in ``mACC`` if it occurs among the labels: mmsegmentation's definition,
    which the paper's numbers follow.
    """
    return {f"m{metric}": mean_of_known(values) for metric, values in scores.items()}


def summary_of(pixels: np.ndarray) -> dict[str, float]:
    """``mIoU``, ``fwIoU``, ``mACC`` and ``pACC`` in percent, of the 3×K of :func:`scores_of`."""
    (labelled, _, correct), scores = pixels, scores_of(pixels)
    means = means_of(scores)
    with np.errstate(invalid="ignore"):  # 0 / 0
        fw_iou = float(np.nansum(scores["IoU"] * labelled) / labelled.sum())
        p_acc = float(100 * correct.sum() / labelled.sum())
    return {"mIoU": means["mIoU"], "fwIoU": fw_iou, "mACC": means["mACC"], "pACC": p_acc}


class PerClassSemSegEvaluator(SemSegEvaluator):
    """detectron2's evaluator with more scores, two tables and a JSON file of them.

    They are the same under every version of detectron2, whose definitions of mIoU differ; see
    :func:`means_of`. Beside the means of all classes there are those of small, medium and large
    classes, as the ``stuff_sizes`` of the dataset's metadata say (paper, Table 8), and for all
    classes the scores of small, medium and large segments, by COCO's areas: a labelled pixel counts
    at the size of its labelled segment, a false one, in the union, at that of its predicted
    segment. Labels are read and counted in a thread, while the model goes on.

    Args:
        dataset_name: a registered dataset with ``stuff_classes`` and ``ignore_label``.
        output_dir: folder for ``sem_seg_results.json``; made where it does not exist. None: no
            files.
        save_predictions: also write ``sem_seg_predictions.json``, every predicted segment in COCO's
            run-length encoding. It is slow and large.
        dilation_ratio: also compute Boundary IoU (Cheng et al., CVPR 2021) with this share of the
            image's diagonal as its distance; 0: do not.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        save_predictions: bool = False,
        dilation_ratio: float = 0.0,
    ):
        super().__init__(dataset_name, output_dir=output_dir)
        self._save_predictions = save_predictions
        self._dilation_ratio = dilation_ratio
        self._class_sizes = MetadataCatalog.get(dataset_name).get("stuff_sizes")

    def reset(self) -> None:
        # Labelled, predicted and correct pixels by class, and by class and size of the segment.
        self._boundaries = np.zeros((3, self._num_classes), dtype=np.int64)
        self._segments = np.zeros((3, self._num_classes, len(SIZES)), dtype=np.int64)
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

    def _count(self, file_name: str, prediction: np.ndarray) -> np.ndarray:
        """Count the pixels of an image; its label map."""
        file = self.input_file_to_gt_file[file_name]
        label = read_label(file)
        check_label(label, file, self._num_classes, self._ignore_label, prediction.shape)
        label, prediction = label.astype(np.int64), prediction.astype(np.int64)
        counts = label != self._ignore_label
        correct = counts & (label == prediction)
        sizes = segment_sizes(label)
        # A correct pixel counts once, at its label's size; a false one at its predicted segment's.
        predicted_sizes = np.where(correct, sizes, segment_sizes(prediction))
        labelled, predicted = len(SIZES) * label + sizes, len(SIZES) * prediction + predicted_sizes
        _add(self._segments, labelled[counts], predicted[counts], labelled[correct])
        if self._dilation_ratio:
            near = counts & boundary(label, self._dilation_ratio)
            predicted_near = counts & boundary(prediction, self._dilation_ratio)
            both = near & predicted_near & correct
            _add(self._boundaries, label[near], prediction[predicted_near], label[both])
        self._num_images += 1
        if self._save_predictions:
            self._predictions.extend(self.encode_json_sem_seg(prediction, file_name))
        return label

    def evaluate(self) -> "OrderedDict[str, dict[str, float]] | None":
        """The scores of all images since :meth:`reset`; also logged and written to files.

        Returns:
            {"sem_seg": {metric: percent}} with detectron2's names of the metrics, and "mIoU-small
            classes", "mACC-small segments" and so on; None in other processes than the main one.
        """
        self._wait()
        counted = (self._segments, self._boundaries, self._num_images, self._predictions)
        gathered = comm.gather(counted)
        if not comm.is_main_process():
            return None
        segments, boundaries, numbers, predictions = zip(*gathered, strict=True)
        segments, images = sum(segments), sum(numbers)
        pixels = segments.sum(axis=2)
        scores = scores_of(pixels)
        results = summary_of(pixels)
        if self._dilation_ratio:
            scores["BoundaryIoU"] = scores_of(sum(boundaries))["IoU"]
            results["mBoundaryIoU"] = mean_of_known(scores["BoundaryIoU"])
        by_size = dict(zip(SIZES, map(scores_of, np.moveaxis(segments, 2, 0)), strict=True))
        sizes = self._means_by_size(scores, by_size)
        classes = _by_class(self._class_names, scores)
        tables = f"{_table('class', classes)}\n\n{_table('size', sizes)}"
        logger.info(f"{self._dataset_name}, {images} images:\n{tables}")
        if self._output_dir:
            file = Path(self._output_dir) / RESULTS_FILE
            rows = scores | {
                f"{metric}-{size} segments": values
                for size, of_size in by_size.items()
                for metric, values in of_size.items()
            }
            rows = _by_class(self._class_names, rows)
            rows = [{"name": name, **row} for name, row in rows.items()]
            write_results(file, self._dataset_name, images, results | {"sizes": sizes}, rows)
            if self._save_predictions:
                text = json.dumps(list(itertools.chain(*predictions)))
                file.with_name(PREDICTIONS_FILE).write_text(text)
        for name, row in (*classes.items(), *sizes.items()):
            results |= {f"{metric}-{name}": score for metric, score in row.items()}
        return OrderedDict(sem_seg=results)

    def _means_by_size(self, scores: dict, by_size: dict) -> dict[str, dict[str, float]]:
        means = {}
        for size in SIZES if self._class_sizes else ():
            chosen = np.array(self._class_sizes) == size
            of_size = {metric: values[chosen] for metric, values in scores.items()}
            means[f"{size} classes"] = means_of(of_size)
        return means | {f"{size} segments": means_of(x) for size, x in by_size.items()}


def _add(total: np.ndarray, *indices: np.ndarray) -> None:
    """Count in each of ``total``'s arrays how often its flat indices occur."""
    for counts, index in zip(total, indices, strict=True):
        counts += np.bincount(index, minlength=counts.size).reshape(counts.shape)


def _by_class(names: list[str], scores: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    return {
        name: {metric: float(values[label]) for metric, values in scores.items()}
        for label, name in enumerate(names)
    }


def _table(title: str, rows: dict[str, dict[str, float]]) -> str:
    metrics = list(next(iter(rows.values())))
    cells = [
        [name, *("-" if np.isnan(x := row.get(key, np.nan)) else f"{x:.2f}" for key in metrics)]
        for name, row in rows.items()
    ]
    align = ("left", *["right"] * len(metrics))
    return tabulate(cells, [title, *metrics], "pipe", colalign=align, disable_numparse=True)

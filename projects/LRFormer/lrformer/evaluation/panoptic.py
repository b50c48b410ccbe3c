"""Panoptic quality (Kirillov et al., Panoptic Segmentation, CVPR 2019) by COCO's rules."""

import json
import logging
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
from detectron2.evaluation import COCOPanopticEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from tabulate import tabulate

from lrformer.data import DatasetError
from lrformer.data.reading import check_map_size, read_panoptic

from .results import mean_of_known, write_results

logger = logging.getLogger(__name__)

RESULTS_FILE = "panoptic_results.json"
_VOID = 0


class PanopticEvaluator(COCOPanopticEvaluator):
    """detectron2's evaluator without the authors' ``panopticapi``, which is on no package index.

    It computes the same, image by image and without writing predictions to files.
    ``panoptic_results.json`` in ``output_dir`` holds the means and each class's scores, in percent.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None):
        super().__init__(dataset_name, output_dir)
        with PathManager.open(self._metadata.panoptic_json) as file:
            annotations = json.load(file)
        self._categories = sorted(annotations["categories"], key=lambda category: category["id"])
        self._index = {category["id"]: i for i, category in enumerate(self._categories)}
        self._truth = {x["image_id"]: x for x in annotations["annotations"]}

    def reset(self) -> None:
        self._num_images = 0
        # A row a class: matched segments, sum of their IoU, unmatched predictions, missed segments.
        self._counts = np.zeros((len(self._categories), 4))

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Count the segments of a batch.

        Args:
            inputs: detectron2 dataset dicts with "image_id".
            outputs: {"panoptic_seg": (H×W int ids, list of {"id", "category_id", "isthing"})} an
                image.

        Raises:
            DatasetError: an image has no annotation, or one of another size.
        """
        for x, output in zip(inputs, outputs, strict=True):
            annotation = self._truth.get(x["image_id"])
            if annotation is None:
                raise DatasetError(
                    f"{self._metadata.panoptic_json}: no annotation of image {x['image_id']}"
                )
            file = str(Path(self._metadata.panoptic_root) / annotation["file_name"])
            true_ids, ids = read_panoptic(file), output["panoptic_seg"][0].cpu().numpy()
            check_map_size(true_ids, file, ids.shape)
            truth = {
                s["id"]: (self._index[s["category_id"]], bool(s.get("iscrowd", 0)))
                for s in annotation["segments_info"]
            }
            # Copies, because it changes them; and bool, because it asks whether "isthing" is True.
            copies = [{**s, "isthing": bool(s["isthing"])} for s in output["panoptic_seg"][1]]
            converted = map(self._convert_category_id, copies)
            predicted = {s["id"]: self._index[s["category_id"]] for s in converted}
            self._counts += count_segments(true_ids, truth, ids, predicted, len(self._categories))
            self._num_images += 1

    def evaluate(self) -> "OrderedDict[str, dict[str, float]] | None":
        """The scores of all images since :meth:`reset`; also logged and written to a file.

        Returns:
            {"panoptic_seg": {"PQ", "SQ", "RQ", "PQ_th", …, "RQ_st": percent}}; None in other
            processes than the main one.
        """
        gathered = comm.gather((self._counts, self._num_images))
        if not comm.is_main_process():
            return None
        counts, num_images = map(sum, zip(*gathered, strict=True))
        scores = qualities(counts)
        things = np.array([bool(category["isthing"]) for category in self._categories])
        results, table = {}, []
        kinds = {"all": things | ~things, "things": things, "stuff": ~things}
        for (name, kind), suffix in zip(kinds.items(), ("", "_th", "_st"), strict=True):
            means = {f"{metric}{suffix}": mean_of_known(x[kind]) for metric, x in scores.items()}
            table.append([name, *means.values(), np.count_nonzero(~np.isnan(scores["PQ"][kind]))])
            results |= means
        text = tabulate(table, ["", *scores, "classes"], "pipe", floatfmt=".2f")
        logger.info(f"{self._metadata.name}, {num_images} images:\n{text}")
        if self._output_dir:
            classes = [
                {"name": category["name"], "isthing": bool(category["isthing"])}
                | {metric: values[i] for metric, values in scores.items()}
                for i, category in enumerate(self._categories)
            ]
            file = Path(self._output_dir) / RESULTS_FILE
            write_results(file, self._metadata.name, num_images, results, classes)
        return OrderedDict(panoptic_seg=results)


def count_segments(
    true_ids: np.ndarray,
    truth: dict[int, tuple[int, bool]],
    ids: np.ndarray,
    predicted: dict[int, int],
    num_classes: int,
) -> np.ndarray:
    """Match an image's segments: same class and an IoU above one half.

    Pixels without annotation do not count in the union. An unmatched prediction is no error if more
    than half of it lies there or on a crowd of its class; a crowd is never missed.

    Args:
        true_ids, ids: H×W segment numbers, annotated and predicted; 0 for none.
        truth: number → (class, whether it is a crowd).
        predicted: number → class.
        num_classes: K.

    Returns:
        K×4: matched segments, sum of their IoU, unmatched predictions, missed segments.
    """
    overlaps = Counter(zip(true_ids.ravel().tolist(), ids.ravel().tolist(), strict=True))
    true_area, area = Counter(true_ids.ravel().tolist()), Counter(ids.ravel().tolist())
    counts = np.zeros((num_classes, 4))
    missed = {t for t, (_, is_crowd) in truth.items() if not is_crowd}
    unmatched = set(predicted)
    for (t, p), overlap in overlaps.items():
        if t not in missed or predicted.get(p) != truth[t][0]:
            continue
        union = true_area[t] + area[p] - overlap - overlaps[_VOID, p]
        if 2 * overlap > union:  # at most one segment overlaps another by more than half
            counts[predicted[p], :2] += 1, overlap / union
            missed.remove(t)
            unmatched.remove(p)
    for t in missed:
        counts[truth[t][0], 3] += 1
    for p in unmatched:
        crowds = [t for t, (label, is_crowd) in truth.items() if is_crowd and label == predicted[p]]
        excused = sum(overlaps[t, p] for t in (_VOID, *crowds))
        counts[predicted[p], 2] += 2 * excused <= area[p]
    return counts


def qualities(counts: np.ndarray) -> dict[str, np.ndarray]:
    """PQ, SQ and RQ of each class in percent, from the sum of :func:`count_segments`.

    Returns:
        K values a score; NaN for a class that neither occurs nor is predicted.
    """
    matched, iou, wrong, missed = counts.T
    segments = matched + (wrong + missed) / 2
    with np.errstate(invalid="ignore"):  # 0 / 0
        # A class of which nothing was matched counts as 0 in the mean, as in panopticapi.
        sq = np.where((matched == 0) & (segments > 0), 0, iou / matched)
        return {"PQ": 100 * (iou / segments), "SQ": 100 * sq, "RQ": 100 * (matched / segments)}

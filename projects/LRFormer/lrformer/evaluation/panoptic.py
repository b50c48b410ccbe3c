"""Panoptic quality (Kirillov et al., Panoptic Segmentation, CVPR 2019) by COCO's rules."""

import json
import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from tabulate import tabulate

from lrformer.data import DatasetError
from lrformer.data.reading import read_panoptic

logger = logging.getLogger(__name__)

RESULTS_FILE = "panoptic_results.json"
_VOID = 0


class PanopticEvaluator(DatasetEvaluator):
    """PQ, SQ and RQ of all classes, of things and of stuff, in detectron2's names.

    It computes what the authors' ``panopticapi`` does, which is on no package index, image by image
    and without writing predictions to files. ``panoptic_results.json`` in ``output_dir`` holds the
    means and each class's scores, in percent.
    """

    def __init__(self, dataset_name: str, distributed: bool = True, output_dir: str | None = None):
        """
        Args:
            dataset_name: a registered dataset with ``panoptic_json``, ``panoptic_root`` and the
                mappings of thing and stuff ids in its metadata.
            distributed: whether to add up the images of all processes.
            output_dir: folder for the results; None: no files.
        """
        metadata = MetadataCatalog.get(dataset_name)
        with PathManager.open(metadata.panoptic_json) as file:
            annotations = json.load(file)
        self._dataset_name = dataset_name
        self._distributed = distributed
        self._output_dir = output_dir
        self._root = metadata.panoptic_root
        self._categories = sorted(annotations["categories"], key=lambda category: category["id"])
        self._index = {c["id"]: index for index, c in enumerate(self._categories)}
        self._truth = {x["image_id"]: x for x in annotations["annotations"]}
        # A contiguous id may mean one class among the things and another among the stuff.
        self._indices = {
            isthing: {label: self._index[i] for i, label in ids.items()}
            for isthing, ids in (
                (True, metadata.thing_dataset_id_to_contiguous_id),
                (False, metadata.stuff_dataset_id_to_contiguous_id),
            )
        }
        self.reset()

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
            ids, segments = output["panoptic_seg"]
            ids = ids.cpu().numpy()
            annotation = self._truth.get(x["image_id"])
            if annotation is None:
                raise DatasetError(
                    f"{self._dataset_name}: its panoptic annotations have no image "
                    f"{x['image_id']} ({x.get('file_name')})"
                )
            file = str(Path(self._root) / annotation["file_name"])
            true_ids = read_panoptic(file)
            if true_ids.shape != ids.shape:
                raise DatasetError(
                    f"{file}: the annotation is {true_ids.shape[1]}x{true_ids.shape[0]}, the "
                    f"prediction for its image {ids.shape[1]}x{ids.shape[0]} (width x height)"
                )
            truth = {
                s["id"]: (self._index[s["category_id"]], bool(s.get("iscrowd", 0)))
                for s in annotation["segments_info"]
            }
            predicted = {
                s["id"]: self._indices[bool(s["isthing"])][s["category_id"]] for s in segments
            }
            self._counts += count_segments(true_ids, truth, ids, predicted, len(self._categories))
            self._num_images += 1

    def evaluate(self) -> "OrderedDict[str, dict[str, float]] | None":
        """The scores of all images since :meth:`reset`; also logged and written to a file.

        Returns:
            {"panoptic_seg": {"PQ", "SQ", "RQ", "PQ_th", …, "RQ_st": percent}}; None in other
            processes than the main one.
        """
        if self._distributed:
            gathered = comm.gather((self._counts, self._num_images))
            if not comm.is_main_process():
                return None
            counts, numbers = zip(*gathered, strict=True)
            self._counts, self._num_images = sum(counts), sum(numbers)
        things = np.array([bool(category["isthing"]) for category in self._categories])
        scores = qualities(self._counts)
        results, table = {}, []
        for name, suffix, chosen in (
            ("all", "", np.ones_like(things)),
            ("things", "_th", things),
            ("stuff", "_st", ~things),
        ):
            # A class that neither occurs nor is predicted does not count.
            chosen = chosen & ~np.isnan(scores["PQ"])
            means = {
                metric: float(values[chosen].mean()) if chosen.any() else float("nan")
                for metric, values in scores.items()
            }
            results |= {f"{metric}{suffix}": value for metric, value in means.items()}
            table.append([name, *means.values(), int(chosen.sum())])
        headers = ["", "PQ", "SQ", "RQ", "classes"]
        text = tabulate(table, headers, tablefmt="pipe", floatfmt=".2f")
        logger.info(f"{self._dataset_name}, {self._num_images} images:\n{text}")
        if self._output_dir:
            self._write(results, scores)
        return OrderedDict(panoptic_seg=results)

    def _write(self, results: dict[str, float], scores: dict[str, np.ndarray]) -> None:
        def known(value: float) -> float | None:
            return None if np.isnan(value) else float(value)

        content: dict[str, Any] = {
            "dataset": self._dataset_name,
            "images": self._num_images,
            **{metric: known(value) for metric, value in results.items()},
            "classes": [
                {"name": category["name"], "isthing": bool(category["isthing"])}
                | {metric: known(values[index]) for metric, values in scores.items()}
                for index, category in enumerate(self._categories)
            ],
        }
        folder = Path(self._output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / RESULTS_FILE).write_text(text + "\n", encoding="utf-8")


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
    counts = np.zeros((num_classes, 4))
    pairs, pixels = np.unique(
        np.stack([true_ids.ravel(), ids.ravel()]).astype(np.int64), axis=1, return_counts=True
    )
    overlaps = {(int(t), int(p)): int(n) for (t, p), n in zip(pairs.T, pixels, strict=True)}
    true_area, area = {}, {}
    for (t, p), n in overlaps.items():
        true_area[t] = true_area.get(t, 0) + n
        area[p] = area.get(p, 0) + n

    true_matched, matched = set(), set()
    for (t, p), overlap in overlaps.items():
        if t not in truth or p not in predicted:
            continue
        label, is_crowd = truth[t]
        if is_crowd or predicted[p] != label:
            continue
        union = true_area[t] + area[p] - overlap - overlaps.get((_VOID, p), 0)
        # At most one segment overlaps another by more than half.
        if 2 * overlap > union:
            counts[label, :2] += 1, overlap / union
            true_matched.add(t)
            matched.add(p)
    for t, (label, is_crowd) in truth.items():
        counts[label, 3] += not is_crowd and t not in true_matched
    for p, label in predicted.items():
        if p in matched:
            continue
        crowds = [t for t, (of, is_crowd) in truth.items() if is_crowd and of == label]
        excused = sum(overlaps.get((t, p), 0) for t in (_VOID, *crowds))
        counts[label, 2] += 2 * excused <= area.get(p, 0)
    return counts


def qualities(counts: np.ndarray) -> dict[str, np.ndarray]:
    """PQ, SQ and RQ of each class in percent, from the sum of :func:`count_segments`.

    Returns:
        K values a score; NaN for a class that neither occurs nor is predicted.
    """
    matched, iou, wrong, missed = counts.T
    segments = matched + (wrong + missed) / 2
    occurs = segments > 0
    nan = np.full(len(counts), np.nan)
    recognition = np.divide(matched, segments, out=nan.copy(), where=occurs)
    quality = np.divide(iou, segments, out=nan.copy(), where=occurs)
    # A class of which nothing was matched counts as 0 in the mean, as in panopticapi.
    segmentation = np.divide(iou, matched, out=np.where(occurs, 0, nan), where=matched > 0)
    return {"PQ": 100 * quality, "SQ": 100 * segmentation, "RQ": 100 * recognition}

"""gIoU and cIoU of masks for phrases, as LISA's authors define them."""

import logging
from collections import OrderedDict
from pathlib import Path

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from tabulate import tabulate

from lrformer.referring.datasets import IGNORED, read_target

from .results import write_results

logger = logging.getLogger(__name__)

RESULTS_FILE = "referring_results.json"


class ReferringEvaluator(DatasetEvaluator):
    """gIoU, the mean over phrases of the IoU; cIoU, of all intersections over all unions.

    Pixels that the annotation ignores count in neither. Where nothing is meant and nothing is
    predicted, the IoU is 1. ``referring_results.json`` has the scores of each kind of phrase, too.

    Args:
        dataset_name: for the log and the file.
        output_dir: of the file; None: none.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None):
        self._name, self._output_dir = dataset_name, output_dir
        self.reset()

    def reset(self) -> None:
        # Of each phrase its kind, the intersection and the union.
        self._found: list[tuple[str, int, int]] = []
        self._images = 0

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Count a batch: inputs with "referring", outputs with "referring", NxHxW bool.

        Raises:
            DatasetError: a mask cannot be drawn.
        """
        for x, output in zip(inputs, outputs, strict=True):
            self._images += 1
            masks = output["referring"].cpu().numpy()
            for phrase, mask in zip(x["referring"], masks, strict=True):
                target = read_target(phrase, x["file_name"], (x["height"], x["width"]))
                self._found.append((phrase.get("kind", ""), *overlap(mask, target)))

    def evaluate(self) -> "OrderedDict[str, dict[str, float]] | None":
        """{"referring": {"gIoU", "cIoU": percent}}; None in other processes than the main one."""
        gathered, images = comm.gather(self._found), comm.gather(self._images)
        if not comm.is_main_process():
            return None
        found = [each for part in gathered for each in part]
        kinds = sorted({kind for kind, _, _ in found} - {""})
        counts = {kind: np.array([c for k, *c in found if k == kind]) for kind in kinds}
        results = scores(np.array([c for _, *c in found]))
        each = [{"name": kind, "phrases": len(c), **scores(c)} for kind, c in counts.items()]
        table = [{"name": "all", "phrases": len(found), **results}, *each]
        text = tabulate(table, "keys", "pipe", floatfmt=".2f")
        logger.info(f"{self._name}:\n{text}")
        if self._output_dir:
            file = Path(self._output_dir) / RESULTS_FILE
            write_results(file, self._name, sum(images), results, each)
        return OrderedDict(referring=results)


def overlap(mask: np.ndarray, target: np.ndarray) -> tuple[int, int]:
    """Pixels of the intersection and of the union of HxW bool with 1 of 0, 1 and 255."""
    meant, counted = target == 1, target != IGNORED
    return int((mask & meant).sum()), int(((mask | meant) & counted).sum())


def scores(counts: np.ndarray) -> dict[str, float]:
    """Of Nx2 intersections and unions."""
    intersection, union = counts.T
    iou = np.where(union == 0, 1.0, intersection / np.maximum(union, 1))
    total = intersection.sum() / max(union.sum(), 1)
    return {"gIoU": 100 * float(iou.mean()), "cIoU": 100 * float(total)}

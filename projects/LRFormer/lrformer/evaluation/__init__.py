"""Scores of predictions on datasets."""

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator, DatasetEvaluator, DatasetEvaluators

from lrformer.inference.tasks import predicted_tasks

from . import panoptic, sem_seg
from .instances import InstanceEvaluator
from .panoptic import PanopticEvaluator
from .sem_seg import PerClassSemSegEvaluator

__all__ = [
    "BEST_METRICS",
    "EVALUATORS",
    "RESULTS_FILES",
    "InstanceEvaluator",
    "PanopticEvaluator",
    "PerClassSemSegEvaluator",
    "best_metric",
    "build_evaluator",
    "evaluated_tasks",
    "output_folder",
]

logger = logging.getLogger(__name__)

# What a model predicts -> the metric that tells which of its checkpoints is the best, those of
# several tasks in this order.
BEST_METRICS = {
    "panoptic_seg": "panoptic_seg/PQ",
    "instances": "segm/AP",
    "sem_seg": "sem_seg/mIoU",
}
# What this project's evaluators write each class's scores to.
RESULTS_FILES = {"sem_seg": sem_seg.RESULTS_FILE, "panoptic_seg": panoptic.RESULTS_FILE}


def output_folder(cfg: CfgNode, dataset_name: str) -> Path:
    """Where the evaluation of a dataset writes its results."""
    return Path(cfg.OUTPUT_DIR) / "inference" / dataset_name


def _sem_seg(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    return PerClassSemSegEvaluator(
        dataset_name,
        output_dir=str(output_folder(cfg, dataset_name)),
        save_predictions=cfg.TEST.SAVE_PREDICTIONS,
    )


def _instances(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    return InstanceEvaluator(dataset_name, output_dir=str(output_folder(cfg, dataset_name)))


def _panoptic(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    folder = str(output_folder(cfg, dataset_name))
    if importlib.util.find_spec("panopticapi") is not None:
        return COCOPanopticEvaluator(dataset_name, folder)
    logger.info(
        "panopticapi, which detectron2's panoptic evaluator needs, is not installed: PQ is "
        "computed by this project's. To have its authors' code compute it: "
        "pip install git+https://github.com/cocodataset/panopticapi.git"
    )
    return PanopticEvaluator(dataset_name, output_dir=folder)


# The metadata's evaluator_type -> what a model may predict for it -> (cfg, dataset name) to
# evaluator. Cityscapes' label maps hold trainIds, so that its standard mIoU needs none of the
# benchmark's scripts.
EVALUATORS: dict[str, dict[str, Callable[[CfgNode, str], DatasetEvaluator]]] = {
    "sem_seg": {"sem_seg": _sem_seg},
    "cityscapes_sem_seg": {"sem_seg": _sem_seg},
    "coco": {"instances": _instances},
    "coco_panoptic_seg": {"panoptic_seg": _panoptic, "instances": _instances},
}
# The entry of the metadata without which a dataset has no annotations of a kind.
_ANNOTATIONS = {"instances": "json_file", "panoptic_seg": "panoptic_json"}


def evaluated_tasks(cfg: CfgNode, dataset_name: str) -> list[str]:
    """What ``cfg``'s model predicts and ``dataset_name`` has annotations for.

    Returns:
        Of "panoptic_seg", "instances" and "sem_seg", in this order.

    Raises:
        ValueError: there is nothing that could be compared.
    """
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type")
    if kind not in EVALUATORS:
        raise ValueError(
            f"DATASETS.TEST: {dataset_name} has the evaluator_type {kind!r}; there are evaluators "
            f"for {', '.join(sorted(EVALUATORS))}"
        )
    annotated = [
        task
        for task in EVALUATORS[kind]
        if task not in _ANNOTATIONS or metadata.get(_ANNOTATIONS[task])
    ]
    predicted = predicted_tasks(cfg) or tuple(BEST_METRICS)
    tasks = [task for task in annotated if task in predicted]
    if not tasks:
        hint = "; MODEL.MASK_FORMER.TEST.{SEMANTIC,INSTANCE,PANOPTIC}_ON choose"
        raise ValueError(
            f"DATASETS.TEST: {dataset_name} has annotations for {' and '.join(annotated)}, but the "
            f"model ({cfg.MODEL.META_ARCHITECTURE}) predicts {' and '.join(predicted)}"
            f"{hint if cfg.MODEL.META_ARCHITECTURE == 'MaskFormer' else ''}"
        )
    return tasks


def best_metric(cfg: CfgNode, dataset_name: str) -> str:
    """The metric by which checkpoints are compared on a dataset, such as "sem_seg/mIoU"."""
    return BEST_METRICS[evaluated_tasks(cfg, dataset_name)[0]]


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """The evaluator, or several together, for what the model predicts and a dataset annotates.

    Raises:
        ValueError: see :func:`evaluated_tasks`.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    evaluators = [
        EVALUATORS[kind][task](cfg, dataset_name) for task in evaluated_tasks(cfg, dataset_name)
    ]
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)

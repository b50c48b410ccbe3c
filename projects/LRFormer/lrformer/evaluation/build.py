"""Which evaluators a model and a dataset have."""

import importlib.util
import logging
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator, DatasetEvaluator, DatasetEvaluators

from lrformer.inference.tasks import predicted_tasks

from . import panoptic, referring, sem_seg
from .instances import InstanceEvaluator

logger = logging.getLogger(__name__)

# The metric that tells which checkpoint is the best; of several tasks the first one's.
BEST_METRICS = {
    "panoptic_seg": "panoptic_seg/PQ",
    "instances": "segm/AP",
    "sem_seg": "sem_seg/mIoU",
    "referring": "referring/gIoU",
}
# What this project's evaluators write each class's scores to.
RESULTS_FILES = {
    task: module.RESULTS_FILE
    for task, module in (("sem_seg", sem_seg), ("panoptic_seg", panoptic), ("referring", referring))
}

# The metadata's evaluator_type -> the tasks, and the entry of the metadata that each one needs.
# Cityscapes' label maps hold trainIds: its standard mIoU needs none of the benchmark's scripts.
_ANNOTATIONS = {
    "sem_seg": {"sem_seg": "evaluator_type"},
    "cityscapes_sem_seg": {"sem_seg": "evaluator_type"},
    "coco": {"instances": "json_file"},
    "coco_panoptic_seg": {"panoptic_seg": "panoptic_json", "instances": "json_file"},
    "referring": {"referring": "evaluator_type"},
}


def output_folder(cfg: CfgNode, dataset_name: str) -> Path:
    """Where the evaluation of a dataset writes its results."""
    return Path(cfg.OUTPUT_DIR) / "inference" / dataset_name


def evaluated_tasks(cfg: CfgNode, dataset_name: str) -> list[str]:
    """What ``cfg``'s model predicts and ``dataset_name`` has annotations for.

    Returns:
        Of "panoptic_seg", "instances", "sem_seg" and "referring", in this order.

    Raises:
        ValueError: there is nothing that could be compared, or no way to compare it.
    """
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type")
    if kind not in _ANNOTATIONS:
        raise ValueError(
            f"DATASETS.TEST: {dataset_name} has the evaluator_type {kind!r}; there are evaluators "
            f"for {', '.join(sorted(_ANNOTATIONS))}"
        )
    annotated = [task for task, entry in _ANNOTATIONS[kind].items() if metadata.get(entry)]
    predicted = predicted_tasks(cfg) or tuple(BEST_METRICS)
    tasks = [task for task in annotated if task in predicted]
    if not tasks:
        keys = "MODEL.MASK_FORMER.TEST.{SEMANTIC,INSTANCE,PANOPTIC}_ON choose, for MaskFormer"
        raise ValueError(
            f"DATASETS.TEST: {dataset_name} has annotations for {' and '.join(annotated)}, but the "
            f"model ({cfg.MODEL.META_ARCHITECTURE}) predicts {' and '.join(predicted)} ({keys})"
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
    tasks = evaluated_tasks(cfg, dataset_name)
    evaluators = [_build(task, cfg, dataset_name) for task in tasks]
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


def build_sem_seg_evaluator(
    cfg: CfgNode, dataset_name: str, evaluator: type = sem_seg.PerClassSemSegEvaluator
) -> sem_seg.PerClassSemSegEvaluator:
    """That of semantic segmentation, or a subclass of it."""
    boundary = cfg.TEST.BOUNDARY_IOU
    return evaluator(
        dataset_name,
        str(output_folder(cfg, dataset_name)),
        save_predictions=cfg.TEST.SAVE_PREDICTIONS,
        dilation_ratio=boundary.DILATION_RATIO if boundary.ENABLED else 0.0,
    )


def _build(task: str, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    if task == "sem_seg":
        return build_sem_seg_evaluator(cfg, dataset_name)
    folder = str(output_folder(cfg, dataset_name))
    if task == "instances":
        return InstanceEvaluator(dataset_name, folder)
    if task == "referring":
        return referring.ReferringEvaluator(dataset_name, folder)
    if importlib.util.find_spec("panopticapi") is not None:
        return COCOPanopticEvaluator(dataset_name, folder)
    logger.info(
        "PQ is computed by this project's evaluator; by COCO's after "
        "pip install git+https://github.com/cocodataset/panopticapi.git"
    )
    return panoptic.PanopticEvaluator(dataset_name, folder)

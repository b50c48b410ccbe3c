"""Scores of predictions on datasets."""

from collections.abc import Callable
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from .sem_seg import RESULTS_FILE, PerClassSemSegEvaluator

__all__ = [
    "EVALUATORS",
    "RESULTS_FILE",
    "PerClassSemSegEvaluator",
    "build_evaluator",
    "output_folder",
]


def output_folder(cfg: CfgNode, dataset_name: str) -> Path:
    """Where the evaluation of a dataset writes its results."""
    return Path(cfg.OUTPUT_DIR) / "inference" / dataset_name


def _sem_seg(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    return PerClassSemSegEvaluator(
        dataset_name,
        output_dir=str(output_folder(cfg, dataset_name)),
        save_predictions=cfg.TEST.SAVE_PREDICTIONS,
    )


# The metadata's evaluator_type -> (cfg, dataset name) to evaluator. Cityscapes' label maps hold
# trainIds, so that its standard mIoU needs none of the benchmark's scripts.
EVALUATORS: dict[str, Callable[[CfgNode, str], DatasetEvaluator]] = {
    "sem_seg": _sem_seg,
    "cityscapes_sem_seg": _sem_seg,
}


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """The evaluator for the ``evaluator_type`` in a dataset's metadata.

    Raises:
        ValueError: there is none for that type.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind not in EVALUATORS:
        raise ValueError(
            f"DATASETS.TEST: {dataset_name} has the evaluator_type {kind!r}; there are evaluators "
            f"for {', '.join(sorted(EVALUATORS))}"
        )
    return EVALUATORS[kind](cfg, dataset_name)

"""What models predict: "sem_seg", "instances", "panoptic_seg", as detectron2 names it."""

from typing import Any

from detectron2.config import CfgNode
from torch import nn

# The config keys with which MaskFormer predicts it.
TASK_KEYS = {
    "sem_seg": "MODEL.MASK_FORMER.TEST.SEMANTIC_ON",
    "instances": "MODEL.MASK_FORMER.TEST.INSTANCE_ON",
    "panoptic_seg": "MODEL.MASK_FORMER.TEST.PANOPTIC_ON",
}


class TaskError(ValueError):
    """Something is asked for that the model does not predict."""


def tasks_of(cfg: CfgNode) -> tuple[str, ...] | None:
    """What a config's model predicts, before windows and augmentation; None where it is not known.

    It is known of detectron2's ``SemanticSegmentor`` and of ``MaskFormer``.
    """
    if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor":
        return ("sem_seg",)
    if cfg.MODEL.META_ARCHITECTURE == "MaskFormer":
        test = cfg.MODEL.MASK_FORMER.TEST
        on = (test.SEMANTIC_ON, test.INSTANCE_ON, test.PANOPTIC_ON)
        return tuple(task for task, wanted in zip(TASK_KEYS, on, strict=True) if wanted)
    return None


def wrappers_of(cfg: CfgNode) -> list[str]:
    """The keys that are set of those that wrap a model, after which it predicts "sem_seg" only."""
    keys = {
        "TEST.SLIDING_WINDOW.ENABLED": cfg.TEST.SLIDING_WINDOW.ENABLED,
        "TEST.AUG.ENABLED": cfg.TEST.AUG.ENABLED,
    }
    return [key for key, enabled in keys.items() if enabled]


def predicted_tasks(cfg: CfgNode) -> tuple[str, ...] | None:
    """What :func:`~lrformer.inference.build_inference_model` predicts for a config.

    None where it is not known.

    Raises:
        TaskError: windows or augmentation are on and the model does not predict "sem_seg".
    """
    tasks, wrappers = tasks_of(cfg), wrappers_of(cfg)
    if not wrappers:
        return tasks
    if tasks is not None and "sem_seg" not in tasks:
        raise TaskError(
            f"{' and '.join(wrappers)}: windows and test-time augmentation average class scores, "
            f"but the model predicts {_list(tasks)} only. Set {' and '.join(wrappers)} to False, "
            f"or {TASK_KEYS['sem_seg']} to True for semantic segmentation"
        )
    return ("sem_seg",)


def check_task(task: str, found: Any, model: nn.Module) -> None:
    """Raise TaskError where ``task`` is not in ``found``, tasks or the output for one image."""
    if task not in TASK_KEYS:
        raise TaskError(f"there is no task {task!r}; there are {_list(TASK_KEYS)}")
    if not isinstance(found, (dict, tuple)):
        found = (type(found).__name__,)
    if task in found:
        return
    alone = "" if task == "sem_seg" else ", and TEST.SLIDING_WINDOW and TEST.AUG not ENABLED"
    raise TaskError(
        f"{type(model).__name__} predicts no {task!r} (it predicts: {_list(found)}), which is "
        f"needed here. LRFormer+ does with {TASK_KEYS[task]} True{alone}"
    )


def _list(tasks: Any) -> str:
    return ", ".join(map(repr, tasks))

"""What models predict: "sem_seg", "instances", "panoptic_seg", as detectron2 names it; and
"referring", a mask for each phrase that an image is given with."""

from typing import Any

from detectron2.config import CfgNode
from torch import nn

REFERRING = "referring"
# The config keys with which MaskFormer predicts the others.
TASK_KEYS = {
    "sem_seg": "MODEL.MASK_FORMER.TEST.SEMANTIC_ON",
    "instances": "MODEL.MASK_FORMER.TEST.INSTANCE_ON",
    "panoptic_seg": "MODEL.MASK_FORMER.TEST.PANOPTIC_ON",
}


def tasks_of(cfg: CfgNode) -> tuple[str, ...] | None:
    """What a config's model predicts without windows and augmentation; None if it is not known."""
    if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor":
        return ("sem_seg",)
    if cfg.MODEL.META_ARCHITECTURE == "LISA":
        return (REFERRING,)
    if cfg.MODEL.META_ARCHITECTURE != "MaskFormer":
        return None
    test = cfg.MODEL.MASK_FORMER.TEST
    return tuple(task for task, key in TASK_KEYS.items() if test[key.rpartition(".")[2]])


def predicted_tasks(cfg: CfgNode) -> tuple[str, ...] | None:
    """What :func:`~lrformer.inference.build_inference_model` predicts; None where it is not known.

    Raises:
        ValueError: windows or augmentation are on and the model does not predict "sem_seg".
    """
    tasks = tasks_of(cfg)
    keys = [f"TEST.{key}.ENABLED" for key in ("SLIDING_WINDOW", "AUG") if cfg.TEST[key].ENABLED]
    if not keys:
        return tasks
    if tasks is not None and "sem_seg" not in tasks:
        raise ValueError(
            f"{' and '.join(keys)} True averages class scores, but the model predicts "
            f"{_list(tasks)} only: set it to False, or {TASK_KEYS['sem_seg']} to True"
        )
    return ("sem_seg",)


def check_task(task: str, found: Any, model: nn.Module) -> None:
    """Raise ValueError where ``task`` is not in ``found``, tasks or the output for one image."""
    known = (*TASK_KEYS, REFERRING)
    if task not in known:
        raise ValueError(f"there is no task {task!r}; there are {_list(known)}")
    if not isinstance(found, (dict, tuple)):
        found = (type(found).__name__,)
    if task in found:
        return
    alone = "" if task == "sem_seg" else ", and TEST.SLIDING_WINDOW and TEST.AUG not ENABLED"
    how = "LISA does" if task == REFERRING else f"LRFormer+ does with {TASK_KEYS[task]} True{alone}"
    raise ValueError(
        f"{type(model).__name__} predicts no {task!r} (it predicts: {_list(found)}); {how}"
    )


def _list(tasks: Any) -> str:
    return ", ".join(map(repr, tasks))


def predicts_logits(cfg: CfgNode) -> bool:
    """Whether "sem_seg" are logits; else they are in proportion to probabilities."""
    return cfg.MODEL.META_ARCHITECTURE != "MaskFormer" and not cfg.TEST.AUG.ENABLED

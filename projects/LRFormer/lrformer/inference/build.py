"""The wrappers that a config asks for."""

import logging

from detectron2.config import CfgNode
from torch import nn

from .options import RuntimeOptions, prepare_for_inference
from .sliding_window import SlidingWindow
from .tasks import TASK_KEYS, predicted_tasks, tasks_of, wrappers_of
from .tta import SemanticTTA

logger = logging.getLogger(__name__)


def build_inference_model(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Run a model as ``TEST.RUNTIME`` says, with ``TEST.SLIDING_WINDOW`` and ``TEST.AUG``.

    With both windows and augmentation, every augmented image is predicted by windows. A wrapped
    model predicts ``sem_seg`` only; a warning says so where the model alone predicts more.

    Args:
        cfg: its ``TEST`` keys are used, and ``INPUT.ALIGN_TEST`` for the augmented sizes.
        model: takes detectron2's inputs and returns ``sem_seg``; in eval mode. It stays as it is.

    Returns:
        A module with the model's interface.

    Raises:
        RuntimeOptionError: see :func:`~lrformer.inference.options.prepare_for_inference`.
        TaskError: one is on and the model does not predict ``sem_seg``.
    """
    tasks = predicted_tasks(cfg)
    lost = [task for task in tasks_of(cfg) or () if tasks is not None and task not in tasks]
    if lost:
        logger.warning(
            f"{' and '.join(wrappers_of(cfg))}: only 'sem_seg' is predicted, not "
            f"{' and '.join(map(repr, lost))}; set {' and '.join(TASK_KEYS[t] for t in lost)} to "
            "False to save their time"
        )
    model = prepare_for_inference(model, RuntimeOptions.from_cfg(cfg))
    if cfg.TEST.SLIDING_WINDOW.ENABLED:
        model = SlidingWindow(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        model = SemanticTTA(cfg, model)
    return model

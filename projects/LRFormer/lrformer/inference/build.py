"""The wrappers that a config asks for."""

from detectron2.config import CfgNode
from torch import nn

from .sliding_window import SlidingWindow
from .tta import SemanticTTA


def build_inference_model(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Wrap a model as ``TEST.SLIDING_WINDOW.ENABLED`` and ``TEST.AUG.ENABLED`` say.

    With both, every augmented image is predicted by windows.

    Args:
        cfg: its ``TEST`` keys are used, and ``INPUT.ALIGN_TEST`` for the augmented sizes.
        model: takes detectron2's inputs and returns ``sem_seg``.

    Returns:
        A module with the model's interface; the model itself when neither is on.
    """
    if cfg.TEST.SLIDING_WINDOW.ENABLED:
        model = SlidingWindow(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        model = SemanticTTA(cfg, model)
    return model

"""Files that a pre-training reads: a run's state to resume from, and weights to start from."""

import textwrap
from pathlib import Path
from typing import Any

from torch import nn

from lrformer.checkpoint.reading import read_weights
from lrformer.checkpoint.report import summary
from lrformer.timm_models import checkpoint_filter_fn


def load(file: str | Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint of this tool for a run with ``settings`` to resume from.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such checkpoint, or of another model.
    """
    contents = read_weights(file)
    state = {"model": contents.weights, **contents.extras}
    if not {"optimizer", "epoch", "history", "settings"} <= set(state):
        raise ValueError(f"{file} cannot be resumed: it is no checkpoint of this tool")
    for key in ("model", "model_kwargs", "classes"):
        if state["settings"][key] != settings[key]:
            saved, now = (textwrap.shorten(str(x[key]), 80) for x in (state["settings"], settings))
            raise ValueError(
                f"--resume: {file} is of another model: its {key} is {saved}, now it is {now}; "
                "give the same again, or another --output"
            )
    return state


def changed_settings(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Settings, as "name: old -> new", in which a resumed run differs from the interrupted one."""
    old, new = ({**settings, **settings["recipe"], "recipe": None} for settings in (saved, now))
    return [f"{key}: {old.get(key)} -> {new[key]}" for key in new if old.get(key) != new[key]]


def load_weights(model: nn.Module, file: str | Path, keep_classifier: bool) -> str | None:
    """Load weights of this tool, of the authors' ImageNet files, or of a segmentation backbone.

    Args:
        model: an :class:`lrformer.timm_models.LRFormerClassifier`; changed in place.
        file: a path or URL of whatever MODEL.WEIGHTS takes.
        keep_classifier: whether the file must have a classifier of the model's size.

    Returns:
        Why the classifier keeps its random weights, or None if it was loaded.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or does not fit.
    """
    own = model.state_dict()
    weights = checkpoint_filter_fn(read_weights(file).weights, model)
    problem = None
    if "head.weight" not in weights:
        problem = "it holds no classifier"
    elif (classes := len(weights["head.weight"])) != model.num_classes:
        problem = f"its classifier has {classes} classes, the dataset has {model.num_classes}"
    if problem and keep_classifier:
        raise ValueError(f"{file} cannot be evaluated: {problem}")
    if problem:
        own = {name: value for name, value in own.items() if not name.startswith("head.")}
    shapes = {name: value.shape for name, value in weights.items()}
    wrong = [name for name, value in own.items() if shapes.get(name) != value.shape]
    if wrong := [name for name in wrong if not name.endswith("num_batches_tracked")]:
        raise ValueError(
            f"{file} does not fit the model: {len(wrong)} of {len(own)} parameters are missing or "
            f"have another shape, {summary(wrong)}; is --model the right one?"
        )
    model.load_state_dict({k: v for k, v in weights.items() if k in own}, strict=False)
    return problem

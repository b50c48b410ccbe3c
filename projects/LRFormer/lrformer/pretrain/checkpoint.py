"""Files of a pre-training: what a resumed run needs, and weights to start from."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrformer.checkpoint.reading import read_weights
from lrformer.timm_models import checkpoint_filter_fn

# Settings that have to be the same for weights and optimizer state to fit.
_IDENTITY = {
    "model": "--model",
    "model_kwargs": "--model-kwargs",
    "classes": "the dataset's list of classes",
}


def save(state: dict[str, Any], file: Path) -> None:
    """Write a checkpoint; a break while writing leaves the old file.

    Args:
        state: "model" (name -> tensor, also valid as MODEL.WEIGHTS), "optimizer", "epoch" (epochs
            done), and whatever else consists of tensors, numbers, strings, lists and dicts.
        file: to write.
    """
    part = file.with_name(file.name + ".part")
    torch.save(state, part)
    os.replace(part, file)


def load(file: str | Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint of :func:`save` to resume from.

    Args:
        file: to read.
        settings: of the run that resumes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such checkpoint, or of another model.
    """
    contents = read_weights(file)
    state = {"model": contents.weights, **contents.extras}
    if not {"optimizer", "epoch", "history", "settings"} <= set(state):
        raise ValueError(f"{file} cannot be resumed: it is no checkpoint of this tool")
    for key, what in _IDENTITY.items():
        saved, now = (_short(values[key]) for values in (state["settings"], settings))
        if state["settings"][key] != settings[key]:
            raise ValueError(
                f"--resume: {file} is of another model: {what} was {saved}, is now {now}; give the "
                "same again, or another --output"
            )
    return state


def changed_settings(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Settings, as "name: old -> new", in which a resumed run differs from the interrupted one."""
    flat = [{**settings, **settings["recipe"]} for settings in (saved, now)]
    return [
        f"{key}: {flat[0].get(key)} -> {value}"
        for key, value in flat[1].items()
        if key != "recipe" and flat[0].get(key) != value
    ]


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
    weights = {name: value for name, value in weights.items() if name in own}
    may_lack = ("head.weight", "head.bias", "num_batches_tracked")
    missing = [name for name in own if name not in weights and not name.endswith(may_lack)]
    if missing:
        raise ValueError(
            f"{file} does not fit the model: {len(missing)} of {len(own)} parameters are missing, "
            f"{', '.join(missing[:3])}, …; weights of another model?"
        )
    wrong = [name for name in weights if weights[name].shape != own[name].shape]
    if backbone := [name for name in wrong if not name.startswith("head.")]:
        name = backbone[0]
        raise ValueError(
            f"{file} does not fit the model: {len(backbone)} parameters have another shape, the "
            f"first is {name}: {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}; "
            "is --model the right one?"
        )
    problem = None
    if "head.weight" not in weights:
        problem = "it holds no classifier"
    elif wrong:
        there = len(weights["head.weight"])
        problem = f"its classifier has {there} classes, the dataset has {model.num_classes}"
    if problem and keep_classifier:
        raise ValueError(f"{file} cannot be evaluated: {problem}")
    if problem:
        weights = {name: value for name, value in weights.items() if not name.startswith("head.")}
    model.load_state_dict(weights, strict=False)
    return problem


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 5:
        return f"{len(value)} ({', '.join(value[:3])}, …)"
    return str(value)

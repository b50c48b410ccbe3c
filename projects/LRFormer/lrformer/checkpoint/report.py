"""How well a file's weights fit a model, in a few lines for people."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from .layouts import Layout, Weights, describe_backbone
from .reading import WeightsError

# Of the backbone's parameters, in a file that has a backbone.
MIN_BACKBONE_SHARE = 0.9

# What follows from the config; a file's is not loaded.
FROM_CONFIG = frozenset({"criterion.empty_weight", "pixel_mean", "pixel_std"})

_MAX_GROUPS = 6


@dataclass
class Fit:
    """Which of a model's parameters a file's weights fit; names as in the model and the file."""

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    # Name, shape in the file, shape in the model.
    wrong_shape: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """How many parameters the model has."""
        return len(self.loaded) + len(self.initialised)

    @property
    def initialised(self) -> list[str]:
        """The model's parameters that keep their initialisation."""
        return self.missing + [name for name, *_ in self.wrong_shape]


def compare(model: Mapping[str, Tensor], weights: Weights) -> Fit:
    """Compare names and shapes of a model's state dict and of weights under our names."""
    fit = Fit(unexpected=list(weights.unknown))
    for name in filter(_counts, model):
        held, here = (tuple(t[name].shape) if name in t else None for t in (weights.tensors, model))
        if held is None:
            fit.missing.append(name)
        elif held != here:
            fit.wrong_shape.append((name, held, here))
        else:
            fit.loaded.append(name)
    fit.unexpected += [name for name in weights.tensors if name not in model and _counts(name)]
    return fit


def check(fit: Fit, model: Mapping[str, Tensor], weights: Weights, file: str) -> None:
    """Refuse weights of another model.

    A Mask2Former checkpoint is loaded for its head; its backbone is not expected to fit.

    Raises:
        WeightsError: nothing fits, or too little of the backbone; says of which model they are. Or
            numbers are missing: quantized without their scales, or NaN.
    """
    for name in fit.loaded:
        tensor = weights.tensors[name]
        if model[name].is_floating_point() and not tensor.is_floating_point():
            raise WeightsError(
                f"{file}: {name} is {str(tensor.dtype).removeprefix('torch.')}, as in a quantized "
                "model; the weights that it was made from are needed"
            )
        if not tensor.isfinite().all():
            raise WeightsError(
                f"{file}: {name} has values that are not finite, as after a training that "
                "diverged; take an earlier checkpoint"
            )
    wanted = [name for name in model if _is_backbone(name) and _counts(name)]
    matched = list(filter(_is_backbone, fit.loaded))
    enough = len(matched) >= MIN_BACKBONE_SHARE * len(wanted)
    if fit.loaded and (enough or weights.layout is Layout.MASK2FORMER):
        return
    held, here = describe_backbone(weights.tensors), describe_backbone(model)
    if held is not None and held == here:
        advice = f"it lacks or differs in {summary(filter(_is_backbone, fit.initialised))}"
    else:
        advice = "are these weights of another model?"
    raise WeightsError(
        f"{file} is {weights.layout.value} and holds "
        f"{held or summary([*weights.tensors, *weights.unknown])}; the model's backbone is "
        f"{here or 'of another kind'}. {len(matched)} of its {len(wanted)} parameters fit, and "
        f"{len(fit.loaded)} of the model's {fit.total}: {advice}"
    )


def describe(fit: Fit, weights: Weights, file: str) -> str:
    """The report: one line, and one more for each thing that did not fit."""
    backbone = describe_backbone(weights.tensors)
    count = "all" if len(fit.loaded) == fit.total else f"{len(fit.loaded)} of"
    lines = [
        f"{file}: {weights.layout.value}{f', {backbone}' if backbone else ''}: "
        f"{count} {fit.total} parameters loaded"
    ]
    if weights.layout is Layout.MASK2FORMER:
        lines.append("BACKBONE NOT LOADED, as the file's is another one: it is initialised")
    if fit.missing:
        names = summary(fit.missing)
        lines.append(f"missing in the file, so initialised ({len(fit.missing)}): {names}")
    if fit.wrong_shape:
        texts = [f"{name} ({_x(held)}, here {_x(here)})" for name, held, here in fit.wrong_shape]
        lines.append(f"of another shape, so initialised ({len(texts)}): {_first(texts)}")
    if fit.unexpected:
        names = summary(fit.unexpected)
        lines.append(f"not in this model, so left out ({len(fit.unexpected)}): {names}")
    return "\n  ".join(lines)


def summary(names: Iterable[str]) -> str:
    """A short list of names: grouped by module, as deep as keeps it short."""
    names = list(names)
    if len(names) <= _MAX_GROUPS:
        return ", ".join(names) or "nothing"
    for depth in range(max(name.count(".") for name in names), 0, -1):
        groups = Counter(".".join(name.split(".")[:depth]) for name in names)
        if len(groups) <= _MAX_GROUPS:
            break
    return _first([f"{name} ({count})" for name, count in groups.most_common()])


def _first(texts: list[str]) -> str:
    more = len(texts) - _MAX_GROUPS
    return ", ".join(texts[:_MAX_GROUPS]) + (f", and {more} more" if more > 0 else "")


def _counts(name: str) -> bool:
    # The BatchNorms' counters influence nothing.
    return name not in FROM_CONFIG and not name.endswith("num_batches_tracked")


def _is_backbone(name: str) -> bool:
    return name.startswith("backbone.")


def _x(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"

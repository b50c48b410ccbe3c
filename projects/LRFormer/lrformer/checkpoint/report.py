"""How well a file's weights fit a model, in a few lines for people."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .layouts import Layout, Weights, describe_backbone
from .reading import WeightsError

# Of the backbone's parameters, in a file that has a backbone.
MIN_BACKBONE_SHARE = 0.9

# What follows from the config; a file's is not loaded.
FROM_CONFIG = frozenset({"criterion.empty_weight", "pixel_mean", "pixel_std"})

# The classifiers of the plain head and of LRFormer+, and their outputs besides the classes.
_CLASSIFIERS = {"sem_seg_head.predictor": 0, "sem_seg_head.predictor.class_embed": 1}

_MAX_GROUPS = 6

Shape = tuple[int, ...]


@dataclass
class Fit:
    """Which of a model's parameters a file's weights fit; names as in the model and the file."""

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    # Name, shape in the file, shape in the model.
    wrong_shape: list[tuple[str, Shape, Shape]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """How many parameters the model has."""
        return len(self.loaded) + len(self.missing) + len(self.wrong_shape)

    @property
    def initialised(self) -> list[str]:
        """The model's parameters that keep their initialisation."""
        return self.missing + [name for name, *_ in self.wrong_shape]


def compare(model: Mapping[str, Tensor], weights: Weights) -> Fit:
    """Compare names and shapes.

    Args:
        model: its state dict.
        weights: under our names.
    """
    fit = Fit(unexpected=list(weights.unknown))
    for name, tensor in model.items():
        if _is_minor(name):
            continue
        given = weights.tensors.get(name)
        if given is None:
            fit.missing.append(name)
        elif given.shape != tensor.shape:
            fit.wrong_shape.append((name, tuple(given.shape), tuple(tensor.shape)))
        else:
            fit.loaded.append(name)
    fit.unexpected += [k for k in weights.tensors if k not in model and not _is_minor(k)]
    return fit


def _is_minor(name: str) -> bool:
    # The BatchNorms' counters influence nothing.
    return name in FROM_CONFIG or name.endswith("num_batches_tracked")


def check(fit: Fit, model: Mapping[str, Tensor], weights: Weights, file: str) -> None:
    """Refuse weights of another model.

    A Mask2Former checkpoint is loaded for its head; its backbone is not expected to fit.

    Raises:
        WeightsError: nothing fits, or too little of the backbone; says of which model they are.
    """
    held = describe_backbone(weights.tensors)
    wanted = [name for name in model if _is_backbone(name) and not _is_minor(name)]
    matched = list(filter(_is_backbone, fit.loaded))
    if not fit.loaded and (held is None or not wanted):
        raise WeightsError(
            f"none of the {len(weights.tensors) + len(weights.unknown)} tensors in {file} fits the "
            f"model; it is {weights.layout.value} and holds "
            f"{summary([*weights.tensors, *weights.unknown])}: weights of another model?"
        )
    if len(matched) >= MIN_BACKBONE_SHARE * len(wanted) or weights.layout is Layout.MASK2FORMER:
        return
    here = describe_backbone(model) or "another backbone"
    if held is None:
        raise WeightsError(
            f"{file} fits {len(matched)} of the backbone's {len(wanted)} parameters "
            f"only; it is {weights.layout.value} and holds "
            f"{summary([*weights.tensors, *weights.unknown])}, the model's backbone is {here}"
        )
    if held != here:
        advice = "take the weights or the config of the other"
    else:
        advice = (
            f"of it, the file lacks or differs in {summary(filter(_is_backbone, fit.initialised))}"
        )
    raise WeightsError(
        f"{file} holds {held}, the config's backbone is {here}: "
        f"{len(matched)} of its {len(wanted)} parameters fit; {advice}"
    )


def describe(fit: Fit, weights: Weights, file: str) -> str:
    """The report: one line, and one more for each thing that did not fit."""
    which = describe_backbone(weights.tensors)
    count = "all" if len(fit.loaded) == fit.total else f"{len(fit.loaded)} of"
    lines = [
        f"{file}: {weights.layout.value}{f', {which}' if which else ''}: "
        f"{count} {fit.total} parameters loaded"
    ]
    missing, unexpected = fit.missing, fit.unexpected
    classifiers, wrong = _split(fit.wrong_shape, lambda entry: _classifier(*entry) is not None)
    for module in dict.fromkeys(_classifier(*entry) for entry in classifiers):
        held, here = next(e[1:] for e in classifiers if _classifier(*e) == module)
        extra = _CLASSIFIERS[module]
        lines.append(
            f"classifier initialised anew ({module}): {held[0] - extra} classes in the file, "
            f"{here[0] - extra} in the config"
        )
    if weights.layout.is_imagenet:
        missing, head = _split(missing, _is_backbone)
        if head:
            lines.append(f"head initialised, as the file has none: {summary(head)}")
    if weights.layout is Layout.MASK2FORMER:
        wanted, missing = _split(missing, _is_backbone)
        other, unexpected = _split(unexpected, _is_backbone)
        if wanted:
            lines.append(
                f"BACKBONE NOT LOADED: its {len(wanted)} parameters are initialised; the file's "
                f"backbone is another one ({len(other)} parameters left out)"
            )
    if missing:
        lines.append(f"missing in the file, so initialised ({len(missing)}): {summary(missing)}")
    if wrong:
        texts = [f"{name} ({_shape(held)}, here {_shape(here)})" for name, held, here in wrong]
        lines.append(f"of another shape, so initialised ({len(wrong)}): {_first(texts)}")
    if unexpected:
        lines.append(f"not in this model, so left out ({len(unexpected)}): {summary(unexpected)}")
    return "\n  ".join(lines)


def _split(items: Iterable, is_first: Callable[[Any], bool]) -> tuple[list, list]:
    """The items of which ``is_first`` is true, and the others."""
    parts = [], []
    for item in items:
        parts[not is_first(item)].append(item)
    return parts


def _is_backbone(name: str) -> bool:
    return name.startswith("backbone.")


def _classifier(name: str, held: Shape, here: Shape) -> str | None:
    """The classifier that this parameter of another shape belongs to, if classes explain it."""
    module = name.rpartition(".")[0]
    return module if module in _CLASSIFIERS and held[1:] == here[1:] else None


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a number"


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

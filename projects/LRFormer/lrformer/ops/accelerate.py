"""Putting the fast modules in the place of the plain ones, and taking them out again."""

import importlib.util
from functools import cache

from torch import nn


def accelerate(model: nn.Module, *names: str) -> nn.Module:
    """Let the modules of ``model`` that have a fast form take it, in place; returns it.

    With names, only those of these classes, such as "FeedForward".

    A module changes its class, to a subclass that computes the same; it keeps its children, its
    parameters and their names. Subclasses and wrapped modules stay as they are, and a fast form
    whose children have hooks, parametrizations or replacements calls them as the plain one does.
    Fast forms are differentiable once; :func:`restore` undoes it.
    """
    for module in model.modules():
        if not names or type(module).__name__ in names:
            module.__class__ = fast_forms().get(type(module), type(module))
    return model


def restore(model: nn.Module, *names: str) -> nn.Module:
    """Undo :func:`accelerate`, in place, for all or the classes named; returns ``model``."""
    plain_forms = {
        fast: plain for plain, fast in fast_forms().items() if not names or plain.__name__ in names
    }
    for module in model.modules():
        module.__class__ = plain_forms.get(type(module), type(module))
    return model


@cache
def fast_forms() -> dict[type[nn.Module], type[nn.Module]]:
    """The classes that have a fast form, and it."""
    # Not above: they are subclasses of what itself imports functions of this package.
    from .cross_entropy import FastUpsampledCrossEntropy
    from .feed_forward import FastFeedForward

    fast = [FastFeedForward, FastUpsampledCrossEntropy]
    if importlib.util.find_spec("detectron2") is not None:
        from .lr_head import FastLRHead

        fast.append(FastLRHead)
    return {form.__base__: form for form in fast}

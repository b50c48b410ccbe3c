"""Names and colours of classes, as detectron2's metadata holds them."""

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.utils.colormap import colormap

Color = tuple[int, int, int]


def class_name(metadata: Any, label: int, thing: bool = False) -> str:
    """Name of a class; "class 7" where the metadata has none.

    Args:
        metadata: its ``thing_classes`` name things and its ``stuff_classes`` everything else; where
            it has only one of them, that one names both.
        label: contiguous id.
        thing: whether the label is one of a thing.
    """
    names = _of_kind(metadata, "classes", thing)
    return names[label] if label < len(names) else f"class {label}"


def class_color(metadata: Any, label: int, thing: bool = False) -> Color:
    """RGB of a class, in ``thing_colors`` or ``stuff_colors`` as with :func:`class_name`.

    One of detectron2's colours where the metadata has none.
    """
    colors = _of_kind(metadata, "colors", thing)
    if label >= len(colors):
        colors = colormap(rgb=True, maximum=255)
    return tuple(int(c) for c in colors[label % len(colors)])


def known_classes(metadata: Any, things: bool, stuff: bool) -> list[tuple[int, bool]]:
    """All classes that the metadata names, as (label, whether it is a thing).

    Args:
        metadata: see :func:`class_name`.
        things: with ``thing_classes``.
        stuff: with ``stuff_classes``; names that are among the things are left out.
    """
    known = []
    if things:
        known += [(label, True) for label in range(len(_of_kind(metadata, "classes", True)))]
    if stuff:
        names = _of_kind(metadata, "classes", False)
        taken = {class_name(metadata, label, True) for label, _ in known}
        known += [(label, False) for label, name in enumerate(names) if name not in taken]
    return known


def classes_in(sem_seg: np.ndarray, metadata: Any) -> list[int]:
    """The labels of a class map that are classes, in ascending order.

    The metadata's ignore label (255 where it has none) and negative labels are not.
    """
    ignored = metadata.get("ignore_label", 255)
    return [label for label in np.unique(sem_seg).tolist() if label >= 0 and label != ignored]


def shade(color: Color, number: int) -> Color:
    """A colour near ``color`` for one of several objects; number 0 has the colour itself.

    Consecutive numbers are far apart, and no two are the same.
    """
    hue, lightness, saturation = colorsys.rgb_to_hls(*(c / 255 for c in color))
    # Multiples of these fractions fill the square evenly (the plastic number's sequence).
    across, up = (((number * step + 0.5) % 1) - 0.5 for step in (0.7549, 0.5698))
    if number:
        # Not so far that red becomes the magenta or the orange of another class.
        hue = (hue + 0.06 * across) % 1
        lightness = min(max(lightness + 0.5 * up, 0.3), 0.75)
    rgb = colorsys.hls_to_rgb(hue, lightness, saturation)
    return tuple(round(255 * c) for c in rgb)


def _of_kind(metadata: Any, what: str, thing: bool) -> Sequence:
    kinds = ("thing", "stuff") if thing else ("stuff", "thing")
    return metadata.get(f"{kinds[0]}_{what}") or metadata.get(f"{kinds[1]}_{what}") or ()

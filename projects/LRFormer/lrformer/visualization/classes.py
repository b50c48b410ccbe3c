"""Names and colours of classes, as detectron2's metadata holds them."""

import colorsys
from collections.abc import Sequence
from typing import Any

from detectron2.utils.colormap import colormap

Color = tuple[int, int, int]


def class_name(metadata: Any, label: int, thing: bool = False) -> str:
    """Name of a class; "class 7" where the metadata has none.

    Its ``thing_classes`` name things and its ``stuff_classes`` everything else; where it has only
    one of them, that one names both.
    """
    names = _of_kind(metadata, "classes", thing)
    return names[label] if label < len(names) else f"class {label}"


def class_color(metadata: Any, label: int, thing: bool = False) -> Color:
    """RGB of a class; one of detectron2's where the metadata has none, see :func:`class_name`."""
    colors = _of_kind(metadata, "colors", thing)
    if label >= len(colors):
        colors = colormap(rgb=True, maximum=255)
    return tuple(int(c) for c in colors[label % len(colors)])


def known_classes(metadata: Any, things: bool, stuff: bool) -> list[tuple[int, bool]]:
    """The classes of either kind that the metadata names, as (label, whether it is a thing).

    Stuff that is named as a thing is left out.
    """
    thing_names = _of_kind(metadata, "classes", True) if things else ()
    stuff_names = _of_kind(metadata, "classes", False) if stuff else ()
    return [(label, True) for label in range(len(thing_names))] + [
        (label, False) for label, name in enumerate(stuff_names) if name not in thing_names
    ]


def shade(color: Color, number: int) -> Color:
    """A colour near ``color``, another for each number; number 0 has the colour itself."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(c / 255 for c in color))
    if number:
        # Multiples of these fractions fill the square evenly (the plastic number's sequence).
        across, up = (((number * step + 0.5) % 1) - 0.5 for step in (0.7549, 0.5698))
        # Not so far that red becomes the magenta or the orange of another class.
        hue = (hue + 0.06 * across) % 1
        lightness = min(max(lightness + 0.5 * up, 0.3), 0.75)
    return tuple(round(255 * c) for c in colorsys.hls_to_rgb(hue, lightness, saturation))


def _of_kind(metadata: Any, what: str, thing: bool) -> Sequence:
    kinds = ("thing", "stuff") if thing else ("stuff", "thing")
    return metadata.get(f"{kinds[0]}_{what}") or metadata.get(f"{kinds[1]}_{what}") or ()

"""Images for a page: small, and inside it."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from lrformer.data.reading import read_image, read_label
from lrformer.visualization.classes import class_color, class_name

from .collect import Example, Suspect

_LONG_SIDE, _SUSPECT_SIDE = 640, 320
_WRONG, _IGNORED, _OUTLINE = (214, 39, 40, 255), (128, 128, 128, 255), (255, 221, 0)


def example_layers(example: Example, label_file: str, metadata: Any) -> dict[str, Any]:
    """An image, and maps to be laid over it: its prediction, its label map and the errors.

    Returns:
        "name", "score", "ratio" (width by height), "photo" and "maps" (what each shows -> the map)
        as data URIs, and "classes", the names and colours of those that are there.
    """
    label, prediction = read_label(label_file).astype(np.int64), example.prediction.astype(np.int64)
    ignored = label == metadata.ignore_label
    classes = sorted({*np.unique(prediction), *np.unique(label[~ignored])})
    table = np.zeros((max(label.max(), prediction.max()) + 1, 4), np.uint8)
    for i in classes:
        table[i] = (*class_color(metadata, i), 255)
    truth = table[label]
    truth[ignored] = 0
    errors = np.zeros((*label.shape, 4), np.uint8)
    errors[label != prediction], errors[ignored] = _WRONG, _IGNORED
    maps = {"prediction": table[prediction], "truth": truth, "errors": errors}
    return {
        "name": short_name(example.file_name),
        "score": example.score,
        "ratio": label.shape[1] / label.shape[0],
        "photo": _uri(read_image(example.file_name), _LONG_SIDE, quality=80),
        "maps": {name: _uri(pixels, _LONG_SIDE, lossless=True) for name, pixels in maps.items()},
        "classes": class_names(metadata, classes),
    }


def suspect_picture(suspect: Suspect) -> str:
    """The part of the image around a suspicious region, with its box, as a data URI."""
    image = read_image(suspect.file_name)
    x, y, width, height = suspect.box
    # A square of three times the region's longer side, moved and cut to lie in the image.
    side = max(3 * max(width, height), 64)
    top, left = (
        max(0, min(first + length // 2 - side // 2, whole - side))
        for first, length, whole in ((y, height, image.shape[0]), (x, width, image.shape[1]))
    )
    part = Image.fromarray(image[top : top + side, left : left + side])
    shown = ImageOps.contain(part, (_SUSPECT_SIDE, _SUSPECT_SIDE))
    box = np.array([x - left, y - top, x - left + width, y - top + height])
    box = box * (shown.width / part.width) + (-3, -3, 2, 2)
    ImageDraw.Draw(shown).rectangle(box.tolist(), outline=_OUTLINE, width=3)
    return _uri(np.asarray(shown), _SUSPECT_SIDE, quality=80)


def class_names(metadata: Any, classes: Sequence[int]) -> list[tuple[str, str]]:
    """Each class's name and its colour for a style sheet."""
    return [(class_name(metadata, i), f"rgb{class_color(metadata, i)}") for i in classes]


def short_name(file_name: str) -> str:
    """The last folder and the file: names are often unique in their folder only."""
    return "/".join(Path(file_name).parts[-2:])


def _uri(pixels: np.ndarray, side: int, lossless: bool = False, **options) -> str:
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((side, side), Image.Resampling.NEAREST if lossless else Image.Resampling.BOX)
    image.save(buffer, "WEBP", lossless=lossless, **options)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"

"""Images of a dataset as layers of a page: small, and inside it."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from lrformer.data.reading import read_image, read_label
from lrformer.visualization.classes import class_color, class_name

from .collect import Example, Suspect

_LONG_SIDE, _SUSPECT_SIDE = 640, 320
_WRONG, _IGNORED = (214, 39, 40, 255), (128, 128, 128, 255)
_OUTLINE = (((0, 0, 0), 5), ((255, 221, 0), 2))


@dataclass
class Layers:
    """An image, and maps of its size that are laid over it, as data URIs.

    Attributes:
        name: the end of the image's path.
        ratio: width by height.
        photo: the image.
        maps: what each shows -> the map.
        classes: (name, colour as "rgb(…)") of those that are there.
    """

    name: str
    ratio: float
    photo: str
    maps: dict[str, str]
    classes: list[tuple[str, str]]


def example_layers(example: Example, label_file: str, metadata: Any) -> Layers:
    """An image with its prediction, its label map and a map of errors."""
    image, label = read_image(example.file_name), read_label(label_file).astype(np.int64)
    prediction = example.prediction.astype(np.int64)
    ignored = label == metadata.ignore_label
    classes = sorted({*np.unique(prediction), *np.unique(label[~ignored])})
    table = np.zeros((max(label.max(), prediction.max()) + 1, 4), np.uint8)
    for i in classes:
        table[i] = (*class_color(metadata, i), 255)
    if ignored.any():
        table[metadata.ignore_label] = 0
    errors = np.zeros((*label.shape, 4), np.uint8)
    errors[label != prediction], errors[ignored] = _WRONG, _IGNORED
    maps = {"prediction": table[prediction], "truth": table[label], "errors": errors}
    return Layers(
        short_name(example.file_name),
        label.shape[1] / label.shape[0],
        _photo(image, _LONG_SIDE),
        {name: _map(pixels, _LONG_SIDE) for name, pixels in maps.items()},
        class_names(metadata, classes),
    )


def suspect_picture(suspect: Suspect) -> str:
    """The part of the image around a suspicious region, with its outline, as a data URI."""
    image = read_image(suspect.file_name)
    x, y, width, height = suspect.box
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[y : y + height, x : x + width] = suspect.mask
    # A square of three times the region's longer side, moved and cut to lie in the image.
    side = max(3 * max(width, height), 64)
    top, left = (
        max(0, min(first + length // 2 - side // 2, whole - side))
        for first, length, whole in ((y, height, mask.shape[0]), (x, width, mask.shape[1]))
    )
    around = slice(top, top + side), slice(left, left + side)
    image, mask = image[around], mask[around]
    scale = _SUSPECT_SIDE / max(mask.shape)
    size = [max(1, round(length * scale)) for length in mask.shape[::-1]]
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for color, thickness in _OUTLINE:
        cv2.drawContours(image, contours, -1, color, thickness)
    return _uri(image, quality=80)


def class_names(metadata: Any, classes: Sequence[int]) -> list[tuple[str, str]]:
    """Each class's name and its colour for a style sheet."""
    return [(class_name(metadata, i), f"rgb{class_color(metadata, i)}") for i in classes]


def short_name(file_name: str) -> str:
    """The last folder and the file: names are often unique in their folder only."""
    return "/".join(Path(file_name).parts[-2:])


def _photo(image: np.ndarray, side: int) -> str:
    return _uri(_shrink(image, side, cv2.INTER_AREA), quality=80)


def _map(colors: np.ndarray, side: int) -> str:
    return _uri(_shrink(colors, side, cv2.INTER_NEAREST_EXACT), lossless=True)


def _shrink(image: np.ndarray, side: int, interpolation: int) -> np.ndarray:
    height, width = image.shape[:2]
    scale = min(1, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=interpolation)


def _uri(pixels: np.ndarray, **options) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", **options)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"

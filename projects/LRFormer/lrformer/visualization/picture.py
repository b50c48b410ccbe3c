"""The picture of one image: its predictions in panels, with a legend."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import Instances
from PIL import Image

from .classes import Color, class_color, class_name, classes_in, known_classes
from .drawing import blend_segments, draw_segments, draw_sem_seg
from .layout import count_legend_rows, draw_legend, join_panels
from .lettering import font_size
from .segments import Segment, resize_segments, segments_of_instances, segments_of_panoptic

_MAX_VIDEO_LEGEND_ROWS = 3

# A class map H x W, instances, a panoptic map with its segments' infos, or segments of any kind.
Prediction = np.ndarray | Instances | tuple[Any, Sequence[dict]] | Sequence[Segment]


@dataclass(frozen=True)
class Style:
    """How a picture looks.

    Attributes:
        alpha: opacity of the classes' colours, 0 to 1.
        names: write classes' names into their segments; never in a video, where they would jump.
        legend: add a legend of the classes below.
        scale: size of a panel relative to its image.
        side_by_side: put the image beside its prediction.
        score_threshold: instances with a lower score are not drawn.
    """

    alpha: float = 0.6
    names: bool = True
    legend: bool = True
    scale: float = 1.0
    side_by_side: bool = False
    score_threshold: float = 0.5


def draw_picture(
    image: np.ndarray,
    predictions: dict[str, Prediction],
    metadata: Any,
    style: Style = Style(),
    *,
    video: bool = False,
) -> np.ndarray:
    """Predictions of any kind over their image, as panels beside each other above a legend.

    Args:
        image: H x W x 3, RGB uint8.
        predictions: panel's name -> a prediction or a ground truth: H x W integers (a class map),
            detectron2's ``Instances``, its (panoptic map, segments' infos), or a list of segments.
        metadata: detectron2 metadata with the classes' names and colours.
        style: how the picture looks.
        video: keep the size and the legend the same for every frame, and the colour of a thing that
            of its class: numbers, and with them shades, would jump.

    Returns:
        RGB uint8. A single prediction without a legend gives exactly the image's size (times the
        scale, rounded).

    Raises:
        ValueError: a prediction is not of the image's size.
    """
    height, width = (max(1, round(side * style.scale)) for side in image.shape[:2])
    kinds = [type(prediction) for prediction in predictions.values()]
    predictions = {name: _unified(p, style) for name, p in predictions.items()}
    if (height, width) != image.shape[:2]:
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.LANCZOS))
        predictions = {name: _resize(p, height, width) for name, p in predictions.items()}
    panels = {"image": image} if style.side_by_side else {}
    for name, prediction in predictions.items():
        panels[name] = _draw(image, prediction, metadata, style, video)
    picture = join_panels(panels)
    if not style.legend:
        return picture
    size = font_size(height, width)
    areas: Counter[tuple[int, bool]] = Counter()
    for prediction in predictions.values():
        areas.update(_areas(prediction, metadata))
    if video:
        # What the kind of prediction can show, so that it is the same for every frame.
        things, stuff = np.ndarray not in kinds, kinds != [Instances]
        known = known_classes(metadata, things=things, stuff=stuff)
        legend = _video_legend(areas, known, metadata, picture.shape[1], size)
    else:
        # Stuff first, and the labels of a kind in order.
        present = sorted(areas, key=lambda key: (key[1], key[0]))
        legend = draw_legend(_entries(present, metadata), picture.shape[1], size)
    return np.concatenate([picture, legend])


def _unified(prediction: Prediction, style: Style) -> np.ndarray | list[Segment]:
    if isinstance(prediction, Instances):
        return segments_of_instances(prediction, style.score_threshold)
    if isinstance(prediction, tuple):
        return segments_of_panoptic(*prediction)
    return prediction


def _resize(
    prediction: np.ndarray | list[Segment], height: int, width: int
) -> np.ndarray | list[Segment]:
    if not isinstance(prediction, np.ndarray):
        return resize_segments(prediction, height, width)
    resized = Image.fromarray(prediction.astype(np.int32)).resize((width, height), Image.NEAREST)
    return np.asarray(resized)


def _draw(
    image: np.ndarray,
    prediction: np.ndarray | list[Segment],
    metadata: Any,
    style: Style,
    video: bool,
) -> np.ndarray:
    names = style.names and not video
    if isinstance(prediction, np.ndarray):
        return draw_sem_seg(image, prediction, metadata, alpha=style.alpha, names=names)
    if video:
        return blend_segments(image, prediction, metadata, style.alpha, shades=False)
    return draw_segments(image, prediction, metadata, alpha=style.alpha, names=names)


def _areas(prediction: np.ndarray | list[Segment], metadata: Any) -> dict[tuple[int, bool], int]:
    """Pixels of each class that is present, by label and whether it is a thing."""
    if isinstance(prediction, np.ndarray):
        labels = classes_in(prediction, metadata)
        return {(label, False): np.count_nonzero(prediction == label) for label in labels}
    areas: Counter[tuple[int, bool]] = Counter()
    for segment in prediction:
        areas[segment.label, segment.thing] += np.count_nonzero(segment.mask)
    return areas


def _video_legend(
    areas: dict[tuple[int, bool], int],
    known: list[tuple[int, bool]],
    metadata: Any,
    width: int,
    size: int,
) -> np.ndarray:
    """A legend of all known classes if they are few, else of the largest that are present."""
    entries = _entries(known, metadata)
    if 0 < count_legend_rows([name for name, _ in entries], width, size) <= _MAX_VIDEO_LEGEND_ROWS:
        return draw_legend(entries, width, size)
    present = sorted(areas, key=lambda key: (-areas[key], key))
    return draw_legend(_entries(present, metadata), width, size, rows=_MAX_VIDEO_LEGEND_ROWS)


def _entries(classes: list[tuple[int, bool]], metadata: Any) -> list[tuple[str, Color]]:
    return [
        (class_name(metadata, label, thing), class_color(metadata, label, thing))
        for label, thing in classes
    ]

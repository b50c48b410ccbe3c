"""The picture of one image: its predictions in panels, with a legend."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import Instances
from PIL import Image

from .classes import class_color, class_name, known_classes
from .drawing import SegmentationVisualizer, blend_segments
from .layout import count_legend_rows, draw_legend, join_panels
from .lettering import font_size
from .segments import Prediction, resize_segments, segments_of

_MAX_VIDEO_LEGEND_ROWS = 3


@dataclass(frozen=True)
class Style:
    """How a picture looks.

    Attributes:
        alpha: opacity of the classes' colours, 0 to 1.
        names: write classes' names into their segments, but not in a video.
        legend: add a legend of the classes below.
        scale: size of a panel relative to its image.
        side_by_side: put the image beside its prediction.
        score_threshold: instances with a lower score are not drawn.

    Raises:
        ValueError: a number is out of its range.
    """

    alpha: float = 0.6
    names: bool = True
    legend: bool = True
    scale: float = 1.0
    side_by_side: bool = False
    score_threshold: float = 0.5

    def __post_init__(self) -> None:
        for name in ("alpha", "score_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to 1")
        if not self.scale > 0:
            raise ValueError(f"scale is {self.scale}, expected more than 0")


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
        predictions: panel's name -> a prediction or a ground truth of the image's size, see
            :func:`~lrformer.visualization.segments_of`.
        metadata: detectron2 metadata with the classes' names and colours.
        video: the size, the legend and the colour of a thing are the same in every frame; no names.

    Returns:
        RGB uint8. A single prediction without a legend has the image's size (times the scale).
    """
    segments = {
        name: segments_of(prediction, metadata, style.score_threshold)
        for name, prediction in predictions.items()
    }
    height, width = (max(1, round(side * style.scale)) for side in image.shape[:2])
    if (height, width) != image.shape[:2]:
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.LANCZOS))
        segments = {name: resize_segments(s, height, width) for name, s in segments.items()}

    panels = {"image": image} if style.side_by_side else {}
    for name, drawn in segments.items():
        if style.names and drawn and not video:
            visualizer = SegmentationVisualizer(image, metadata)
            panels[name] = visualizer.draw_segments(drawn, style.alpha).get_image()
        else:  # matplotlib, which detectron2 draws with, is slow on large images
            panels[name] = blend_segments(image, drawn, metadata, style.alpha, shades=not video)
    picture = join_panels(panels)
    if not style.legend:
        return picture

    # Of the classes that are present; a phrase stands there also where nothing was found.
    areas: Counter[tuple[int, bool]] = Counter({(0, False): 0} if metadata.get("phrase") else ())
    for segment in (segment for drawn in segments.values() for segment in drawn):
        areas[segment.label, segment.thing] += np.count_nonzero(segment.mask)
    # Stuff first, and the labels of a kind in order.
    classes, rows = sorted(areas, key=lambda key: (key[1], key[0])), None
    width, size = picture.shape[1], font_size(height, width)
    if video:
        # All classes that such predictions can show, if they are few, so that the legend is the
        # same for every frame; else the largest that are present.
        kinds = {type(prediction) for prediction in predictions.values()}
        classes = known_classes(metadata, kinds != {np.ndarray}, kinds != {Instances})
        names = [class_name(metadata, *key) for key in classes]
        if not 0 < count_legend_rows(names, width, size) <= _MAX_VIDEO_LEGEND_ROWS:
            classes, rows = [key for key, _ in areas.most_common()], _MAX_VIDEO_LEGEND_ROWS
    entries = [(class_name(metadata, *key), class_color(metadata, *key)) for key in classes]
    return np.concatenate([picture, draw_legend(entries, width, size, rows)])

"""The picture of one image: its predictions in panels, with a legend."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .drawing import classes_in, draw_sem_seg, font_size
from .layout import count_legend_rows, draw_legend, join_panels

_MAX_VIDEO_LEGEND_ROWS = 3


@dataclass(frozen=True)
class Style:
    """How a picture looks.

    Attributes:
        alpha: opacity of the classes' colours, 0 to 1.
        names: write classes' names into their segments; never in a video, where they would jump.
        legend: add a legend of the classes below.
        scale: size of a panel relative to its image.
        side_by_side: put the image beside its prediction.
    """

    alpha: float = 0.6
    names: bool = True
    legend: bool = True
    scale: float = 1.0
    side_by_side: bool = False


def draw_picture(
    image: np.ndarray,
    class_maps: dict[str, np.ndarray],
    metadata: Any,
    style: Style = Style(),
    *,
    video: bool = False,
) -> np.ndarray:
    """Class maps over their image, as panels beside each other above a legend.

    Args:
        image: H x W x 3, RGB uint8.
        class_maps: panel's name -> H x W integers: a prediction, a ground truth.
        metadata: detectron2 metadata with the classes' names and colours.
        style: how the picture looks.
        video: keep the size and the legend the same for every frame.

    Returns:
        RGB uint8. A single class map without a legend gives exactly the image's size (times the
        scale, rounded).
    """
    height, width = (max(1, round(side * style.scale)) for side in image.shape[:2])
    if (height, width) != image.shape[:2]:
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.LANCZOS))
        class_maps = {name: _resize(m, height, width) for name, m in class_maps.items()}
    panels = {"image": image} if style.side_by_side else {}
    for name, class_map in class_maps.items():
        panels[name] = draw_sem_seg(
            image, class_map, metadata, alpha=style.alpha, names=style.names and not video
        )
    picture = join_panels(panels)
    if not style.legend:
        return picture
    labels = np.stack(list(class_maps.values()))
    legend = _legend(labels, metadata, picture.shape[1], font_size(height, width), video)
    return np.concatenate([picture, legend])


def _resize(class_map: np.ndarray, height: int, width: int) -> np.ndarray:
    resized = Image.fromarray(class_map.astype(np.int32)).resize((width, height), Image.NEAREST)
    return np.asarray(resized)


def _legend(labels: np.ndarray, metadata: Any, width: int, size: int, video: bool) -> np.ndarray:
    present = classes_in(labels, metadata)
    if not video:
        return draw_legend(present, metadata, width, size)
    known = range(len(metadata.get("stuff_classes", ())))
    if 0 < count_legend_rows(known, metadata, width, size) <= _MAX_VIDEO_LEGEND_ROWS:
        return draw_legend(known, metadata, width, size)
    # The largest first, so that they are the ones that are named.
    present.sort(key=lambda label: -np.count_nonzero(labels == label))
    return draw_legend(present, metadata, width, size, rows=_MAX_VIDEO_LEGEND_ROWS)

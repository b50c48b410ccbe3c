"""Predictions drawn over their image, one function a kind of prediction."""

from typing import Any

import cv2
import numpy as np
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import VisImage, Visualizer
from matplotlib.patheffects import withStroke


def class_name(metadata: Any, label: int) -> str:
    """Name of a class in the metadata's ``stuff_classes``; "class 7" where it has none."""
    names = metadata.get("stuff_classes", ())
    return names[label] if label < len(names) else f"class {label}"


def class_color(metadata: Any, label: int) -> tuple[int, int, int]:
    """RGB of a class in the metadata's ``stuff_colors``; one of detectron2's where it has none."""
    colors = metadata.get("stuff_colors", ())
    if label >= len(colors):
        colors = colormap(rgb=True, maximum=255)
    return tuple(int(c) for c in colors[label % len(colors)])


def classes_in(sem_seg: np.ndarray, metadata: Any) -> list[int]:
    """The labels of a class map that are classes, in ascending order.

    The metadata's ignore label (255 where it has none) and negative labels are not.
    """
    ignored = metadata.get("ignore_label", 255)
    return [label for label in np.unique(sem_seg).tolist() if label >= 0 and label != ignored]


def font_size(height: int, width: int) -> int:
    """Size, in pixels, of the text in and around a picture of this size."""
    return int(np.clip((height * width) ** 0.5 / 32, 13, 36))


class SemSegVisualizer(Visualizer):
    """detectron2's visualizer with a quieter picture of class maps.

    Its own has outlines around some segments and a boxed name on every class, however small. Here
    segments are plain colour, and a name is written where it fits into its segment.
    """

    def draw_sem_seg(
        self,
        sem_seg: np.ndarray,
        area_threshold: int | None = None,
        alpha: float = 0.6,
        names: bool = True,
    ) -> VisImage:
        """
        Args:
            sem_seg: H x W integers, the class of each pixel; ignored pixels are left as they are.
            area_threshold: classes with fewer pixels get no name.
            alpha: opacity of the colours, 0 to 1.
            names: write the classes' names.
        """
        sem_seg = np.asarray(sem_seg)
        labels = classes_in(sem_seg, self.metadata)
        self.img = blend(self.img, sem_seg, self.metadata, alpha)
        self.output = VisImage(self.img, scale=self.output.scale)
        if names:
            for label in labels:
                mask = (sem_seg == label).astype(np.uint8)
                if mask.sum() >= (area_threshold or 0):
                    # ADE20K's names are lists of synonyms; the legend has them all.
                    self._write_inside(mask, class_name(self.metadata, label).split(",")[0])
        return self.output

    def _write_inside(self, mask: np.ndarray, name: str) -> None:
        """Write ``name`` in the most open place of ``mask``, if there is one that holds it."""
        scale = self.output.scale
        pixels = font_size(self.output.height, self.output.width) * scale
        size = pixels * 72 / self.output.dpi  # matplotlib's sizes are points
        outline = [withStroke(linewidth=size / 5, foreground="black", alpha=0.7)]
        text = self.output.ax.text(
            0, 0, name, size=size, color="white", ha="center", va="center", path_effects=outline
        )
        box = text.get_window_extent(self.output.canvas.get_renderer())
        # A third of the text's height stays free around it, so that it does not touch the boundary.
        margin = box.height * 2 / 3
        place = _most_open_place(
            mask, (box.height + margin) / scale, (box.width + margin) / scale, step=pixels / 6
        )
        if place is None:
            text.remove()
        else:
            text.set_position(place)


def _most_open_place(
    mask: np.ndarray, height: float, width: float, step: float
) -> tuple[float, float] | None:
    """Centre (x, y) of the box of this size in ``mask`` that is far from the mask's boundary.

    None where no box fits. The search goes in steps of ``step`` pixels.
    """
    step = max(1, int(step))
    # Zeros around it: the picture's edge ends a segment.
    coarse = np.pad(mask[::step, ::step], 1)
    kernel = np.ones((int(np.ceil(height / step)), int(np.ceil(width / step))), np.uint8)
    if any(k > side for k, side in zip(kernel.shape, coarse.shape, strict=True)):
        return None
    fits = cv2.erode(coarse, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    if not fits.any():
        return None
    openness = np.where(fits, cv2.distanceTransform(coarse, cv2.DIST_L2, 3), 0)
    # In a strip many places are equally open; of those take the middle one.
    places = np.argwhere(openness >= 0.9 * openness.max())
    y, x = places[np.square(places - places.mean(axis=0)).sum(axis=1).argmin()]
    return (x - 0.5) * step, (y - 0.5) * step


def blend(image: np.ndarray, sem_seg: np.ndarray, metadata: Any, alpha: float) -> np.ndarray:
    """The image with each class's colour over it; pixels without a class stay as they are.

    Args:
        image: H x W x 3, RGB uint8.
        sem_seg: H x W integers.
        metadata: detectron2 metadata, see :func:`class_color`.
        alpha: opacity of the colours, 0 to 1.
    """
    out = image.copy()
    for label in classes_in(sem_seg, metadata):
        # All 256 values of a channel at once: a table is exact and cheaper than float pixels.
        levels = np.arange(256)[:, None] * (1 - alpha)
        table = np.rint(levels + np.multiply(class_color(metadata, label), alpha)).astype(np.uint8)
        mask = sem_seg == label
        out[mask] = table[image[mask], [0, 1, 2]]
    return out


def draw_sem_seg(
    image: np.ndarray,
    sem_seg: np.ndarray,
    metadata: Any,
    *,
    alpha: float = 0.6,
    names: bool = True,
) -> np.ndarray:
    """A class map over its image.

    Args:
        image: H x W x 3, RGB uint8.
        sem_seg: H x W integers, the class of each pixel.
        metadata: detectron2 metadata with ``stuff_classes``, ``stuff_colors``, ``ignore_label``.
        alpha: opacity of the colours, 0 to 1.
        names: write the name of a class into its segment where it fits.

    Returns:
        H x W x 3, RGB uint8.

    Raises:
        ValueError: the sizes differ.
    """
    if sem_seg.shape != image.shape[:2]:
        raise ValueError(
            f"the class map is {' x '.join(map(str, sem_seg.shape))} and its image "
            f"{image.shape[0]} x {image.shape[1]}; they must have the same height and width"
        )
    if not names:  # matplotlib, which detectron2 draws with, is slow on large images
        return blend(image, sem_seg, metadata, alpha)
    visualizer = SemSegVisualizer(image, metadata)
    return visualizer.draw_sem_seg(sem_seg, alpha=alpha).get_image()

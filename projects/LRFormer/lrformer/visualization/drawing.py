"""Predictions drawn over their image, one function a kind of prediction."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from detectron2.structures import Instances
from detectron2.utils.visualizer import VisImage, Visualizer
from matplotlib.patheffects import withStroke
from matplotlib.text import Text

from .classes import Color, class_color, class_name, classes_in, shade
from .lettering import Box, font_size, place_beside, place_inside
from .segments import Segment, segments_of_instances, segments_of_panoptic, to_array

# Of the outlines of things, whatever the opacity of their colour.
_OUTLINE_ALPHA = 0.9


class SegmentationVisualizer(Visualizer):
    """detectron2's visualizer with quieter pictures.

    Its own has outlines around some segments and a boxed name on every one, however small. Here
    segments are plain colour, only things have an outline, and a name is written where it fits.
    """

    def draw_sem_seg(
        self,
        sem_seg: Any,
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
        sem_seg = to_array(sem_seg)
        self._replace_image(blend(self.img, sem_seg, self.metadata, alpha))
        if names:
            for label in classes_in(sem_seg, self.metadata):
                mask = sem_seg == label
                if mask.sum() >= (area_threshold or 0):
                    self._write_inside(mask, _short(class_name(self.metadata, label)))
        return self.output

    def draw_instance_predictions(
        self,
        predictions: Instances,
        score_threshold: float = 0.0,
        alpha: float = 0.6,
        names: bool = True,
    ) -> VisImage:
        """
        Args:
            predictions: with ``pred_masks``, ``pred_classes`` and ``scores``.
            score_threshold: those below are not drawn.
            alpha: opacity of the colours, 0 to 1.
            names: write classes and scores.
        """
        return self.draw_segments(segments_of_instances(predictions, score_threshold), alpha, names)

    def draw_panoptic_seg(
        self,
        panoptic_seg: Any,
        segments_info: Sequence[dict],
        area_threshold: int | None = None,
        alpha: float = 0.6,
        names: bool = True,
    ) -> VisImage:
        """
        Args:
            panoptic_seg, segments_info: as detectron2's models predict them; pixels of no segment
                are left as they are.
            area_threshold: segments with fewer pixels get no name.
            alpha: opacity of the colours, 0 to 1.
            names: write the classes' names.
        """
        segments = segments_of_panoptic(panoptic_seg, segments_info)
        return self.draw_segments(segments, alpha, names, area_threshold=area_threshold)

    draw_panoptic_seg_predictions = draw_panoptic_seg

    def draw_segments(
        self,
        segments: Sequence[Segment],
        alpha: float = 0.6,
        names: bool = True,
        *,
        area_threshold: int | None = None,
    ) -> VisImage:
        """Stuff and, over it, things from the largest to the smallest; see :func:`blend_segments`.

        A name is written into its segment. Where it does not fit, that of an instance (of a picture
        without stuff) is written beside it, and any other left out.
        """
        self._replace_image(blend_segments(self.img, segments, self.metadata, alpha))
        if not names:
            return self.output
        segments = _in_drawing_order(segments)
        # Which segment is seen at each pixel, and where text is already.
        owner = np.full(self.img.shape[:2], -1)
        for i, segment in enumerate(segments):
            owner[segment.mask] = i
        taken = np.zeros(owner.shape, bool)
        only_things = all(segment.thing for segment in segments)
        for i, segment in enumerate(segments):
            visible = owner == i
            if not visible.any() or visible.sum() < (area_threshold or 0):
                continue
            text = _label(segment, self.metadata, score=only_things)
            box = self._write_inside(visible & ~taken, text)
            if box is None and only_things:
                box = self._write_beside(visible, taken, (owner >= 0) & ~visible, text)
            if box is not None:
                box.cut(taken)[:] = True
        return self.output

    def _replace_image(self, image: np.ndarray) -> None:
        self.img = image
        self.output = VisImage(image, scale=self.output.scale)

    def _write_inside(self, mask: np.ndarray, name: str) -> Box | None:
        """Write ``name`` in the most open place of ``mask``, if there is one that holds it."""
        text, height, width = self._text(name)
        # A third of the text's height stays free around it, so that it does not touch the boundary.
        margin = height * 2 / 3
        place = place_inside(mask, height + margin, width + margin, step=self._pixels / 6)
        return self._put(text, place)

    def _write_beside(
        self, mask: np.ndarray, taken: np.ndarray, others: np.ndarray, name: str
    ) -> Box | None:
        text, height, width = self._text(name)
        return self._put(text, place_beside(mask, taken, others, height * 1.15, width + height / 3))

    @property
    def _pixels(self) -> int:
        return font_size(self.output.height, self.output.width)

    def _text(self, name: str) -> tuple[Text, float, float]:
        """A text that has no place yet, its height and its width."""
        scale = self.output.scale
        size = self._pixels * scale * 72 / self.output.dpi  # matplotlib's sizes are points
        outline = [withStroke(linewidth=size / 5, foreground="black", alpha=0.7)]
        text = self.output.ax.text(
            0, 0, name, size=size, color="white", ha="center", va="center", path_effects=outline
        )
        box = text.get_window_extent(self.output.canvas.get_renderer())
        return text, box.height / scale, box.width / scale

    @staticmethod
    def _put(text: Text, place: Box | None) -> Box | None:
        if place is None:
            text.remove()
        else:
            text.set_position(place.center)
        return place


def blend(image: np.ndarray, sem_seg: np.ndarray, metadata: Any, alpha: float) -> np.ndarray:
    """The image with each class's colour over it; pixels without a class stay as they are.

    Args:
        image: H x W x 3, RGB uint8.
        sem_seg: H x W integers.
        metadata: detectron2 metadata, see :func:`~lrformer.visualization.classes.class_color`.
        alpha: opacity of the colours, 0 to 1.
    """
    out = image.copy()
    for label in classes_in(sem_seg, metadata):
        _tint(out, image, sem_seg == label, class_color(metadata, label), alpha)
    return out


def blend_segments(
    image: np.ndarray,
    segments: Sequence[Segment],
    metadata: Any,
    alpha: float,
    *,
    shades: bool = True,
) -> np.ndarray:
    """The image with each segment's colour over it; pixels of no segment stay as they are.

    Where segments overlap, the smallest is seen. Things have a thin outline in a lighter tone.

    Args:
        image: H x W x 3, RGB uint8.
        segments: of the image's size.
        metadata: detectron2 metadata, see :func:`~lrformer.visualization.classes.class_color`.
        alpha: opacity of the colours, 0 to 1.
        shades: give every thing its own shade of its class's colour, from left to right, so that
            neighbours are told apart.
    """
    out = image.copy()
    thickness = max(1, round(font_size(*image.shape[:2]) / 14))
    numbers = _numbers(segments) if shades else {}
    for segment in _in_drawing_order(segments):
        color = class_color(metadata, segment.label, segment.thing)
        color = shade(color, numbers.get(id(segment), 0))
        _tint(out, image, segment.mask, color, alpha)
        if segment.thing:
            light = tuple(round(c + (255 - c) * 0.6) for c in color)
            _tint(out, image, _outline(segment.mask, thickness), light, _OUTLINE_ALPHA)
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
    _check_size("the class map", sem_seg.shape, image)
    if not names:  # matplotlib, which detectron2 draws with, is slow on large images
        return blend(image, sem_seg, metadata, alpha)
    visualizer = SegmentationVisualizer(image, metadata)
    return visualizer.draw_sem_seg(sem_seg, alpha=alpha).get_image()


def draw_instances(
    image: np.ndarray,
    instances: Instances,
    metadata: Any,
    *,
    score_threshold: float = 0.5,
    alpha: float = 0.6,
    names: bool = True,
) -> np.ndarray:
    """Predicted instances over their image, each in a shade of its class's colour and outlined.

    Args:
        image: H x W x 3, RGB uint8.
        instances: with ``pred_masks`` (N x H x W), ``pred_classes`` and ``scores``.
        metadata: detectron2 metadata with ``thing_classes`` and ``thing_colors``.
        score_threshold: those below are not drawn.
        alpha: opacity of the colours, 0 to 1.
        names: write class and score, "car 93 %", into an instance or beside it, where it fits.

    Returns:
        H x W x 3, RGB uint8.

    Raises:
        ValueError: the sizes differ, or there are no masks.
    """
    segments = segments_of_instances(instances, score_threshold)
    return draw_segments(image, segments, metadata, alpha=alpha, names=names)


def draw_panoptic_seg(
    image: np.ndarray,
    panoptic_seg: Any,
    segments_info: Sequence[dict],
    metadata: Any,
    *,
    alpha: float = 0.6,
    names: bool = True,
) -> np.ndarray:
    """A panoptic segmentation over its image: stuff plain, things outlined and told apart by shade.

    Args:
        image: H x W x 3, RGB uint8.
        panoptic_seg: H x W segment ids, an array or a tensor; pixels of no segment are left.
        segments_info: a dict a segment: "id", "category_id", "isthing".
        metadata: detectron2 metadata with ``thing_classes``, ``stuff_classes`` and their colours.
        alpha: opacity of the colours, 0 to 1.
        names: write the name of a class into its segment where it fits.

    Returns:
        H x W x 3, RGB uint8.

    Raises:
        ValueError: the sizes differ.
    """
    _check_size("the panoptic map", tuple(panoptic_seg.shape), image)
    segments = segments_of_panoptic(panoptic_seg, segments_info)
    return draw_segments(image, segments, metadata, alpha=alpha, names=names)


def draw_segments(
    image: np.ndarray,
    segments: Sequence[Segment],
    metadata: Any,
    *,
    alpha: float = 0.6,
    names: bool = True,
) -> np.ndarray:
    """Segments of any kind over their image; see :func:`draw_instances`.

    Raises:
        ValueError: the sizes differ.
    """
    for segment in segments:
        _check_size("a mask", segment.mask.shape, image)
    if not (names and segments):
        return blend_segments(image, segments, metadata, alpha)
    return SegmentationVisualizer(image, metadata).draw_segments(segments, alpha).get_image()


def _short(name: str) -> str:
    # ADE20K's names are lists of synonyms; the legend has them all.
    return name.split(",")[0]


def _label(segment: Segment, metadata: Any, score: bool) -> str:
    name = _short(class_name(metadata, segment.label, segment.thing))
    if segment.crowd:
        return f"{name} (crowd)"
    if score and segment.score is not None:
        return f"{name} {segment.score:.0%}".replace("%", "\N{NO-BREAK SPACE}%")
    return name


def _in_drawing_order(segments: Sequence[Segment]) -> list[Segment]:
    return sorted(segments, key=lambda s: (s.thing, -np.count_nonzero(s.mask)))


def _numbers(segments: Sequence[Segment]) -> dict[int, int]:
    """The number of each thing among those of its class, from left to right, by its ``id()``."""
    count: dict[int, int] = {}
    numbers = {}
    things = [segment for segment in segments if segment.thing and segment.mask.any()]
    for segment in sorted(things, key=lambda s: float(np.nonzero(s.mask.any(axis=0))[0].mean())):
        numbers[id(segment)] = count.get(segment.label, 0)
        count[segment.label] = numbers[id(segment)] + 1
    return numbers


def _outline(mask: np.ndarray, thickness: int) -> np.ndarray:
    """The mask's pixels that are at most so far from its boundary; the picture's edge is none."""
    kernel = np.ones((2 * thickness + 1,) * 2, np.uint8)
    return mask & ~cv2.erode(mask.astype(np.uint8), kernel).astype(bool)


def _tint(out: np.ndarray, image: np.ndarray, mask: np.ndarray, color: Color, alpha: float) -> None:
    """Write the image's pixels in ``mask``, under a colour, into ``out``."""
    # All 256 values of a channel at once: a table is exact and cheaper than float pixels.
    levels = np.arange(256)[:, None] * (1 - alpha)
    table = np.rint(levels + np.multiply(color, alpha)).astype(np.uint8)
    out[mask] = table[image[mask], [0, 1, 2]]


def _check_size(what: str, size: tuple[int, ...], image: np.ndarray) -> None:
    if tuple(size) != image.shape[:2]:
        raise ValueError(
            f"{what} is {' x '.join(map(str, size))} and its image "
            f"{image.shape[0]} x {image.shape[1]}; they must have the same height and width"
        )

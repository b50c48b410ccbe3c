"""Segments drawn over their image."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from detectron2.utils.visualizer import VisImage, Visualizer
from matplotlib.patheffects import withStroke

from .classes import Color, class_color, class_name, shade
from .lettering import box_around, font_size, place_beside, place_inside
from .segments import Segment

# Of the outlines of things, whatever the opacity of their colour.
_OUTLINE_ALPHA = 0.9


class SegmentationVisualizer(Visualizer):
    """detectron2's visualizer without its boxed name on every segment, however small."""

    def draw_segments(self, segments: Sequence[Segment], alpha: float = 0.6) -> VisImage:
        """Draw segments of the image's size as :func:`blend_segments` does, and their names.

        A name is written into its segment. Where it does not fit, that of an instance (of a picture
        without stuff) is written beside it, and any other left out.
        """
        self.img = blend_segments(self.img, segments, self.metadata, alpha)
        self.output = VisImage(self.img, scale=self.output.scale)
        segments = _in_drawing_order(segments)
        # Which segment is seen at each pixel, and where text is already.
        owner = np.full(self.img.shape[:2], -1)
        for i, segment in enumerate(segments):
            owner[segment.mask] = i
        taken = np.zeros(owner.shape, bool)
        only_things = all(segment.thing for segment in segments)
        for i, segment in enumerate(segments):
            visible = owner == i
            if visible.any():
                others = (owner >= 0) & ~visible if only_things else None
                self._write(_text(segment, self.metadata, only_things), visible, taken, others)
        return self.output

    def _write(
        self, words: str, mask: np.ndarray, taken: np.ndarray, others: np.ndarray | None
    ) -> None:
        """Write in the mask or, if that is too small, beside it where others' pixels are given."""
        scale, pixels = self.output.scale, font_size(self.output.height, self.output.width)
        size = pixels * scale * 72 / self.output.dpi  # matplotlib's sizes are points
        outline = [withStroke(linewidth=size / 5, foreground="black", alpha=0.7)]
        text = self.output.ax.text(
            0, 0, words, size=size, color="white", ha="center", va="center", path_effects=outline
        )
        extent = text.get_window_extent(self.output.canvas.get_renderer())
        height, width = extent.height / scale, extent.width / scale
        # A third of the text's height stays free around it, so that it does not touch the boundary.
        box = (height * 5 / 3, width + height * 2 / 3)
        center = place_inside(mask & ~taken, *box, step=pixels / 6)
        if center is None and others is not None:
            box = (height * 1.15, width + height / 3)
            center = place_beside(mask, taken, others, *box)
        if center is None:
            text.remove()
            return
        text.set_position(center)
        taken[box_around(center, *box)] = True


def blend_segments(
    image: np.ndarray,
    segments: Sequence[Segment],
    metadata: Any,
    alpha: float,
    *,
    shades: bool = True,
) -> np.ndarray:
    """The image, H x W x 3 uint8, with each segment's colour over it; other pixels stay the same.

    Things, which have a thin outline in a lighter tone, are over stuff, and small over large ones.

    Args:
        image, segments: of one size.
        metadata: detectron2 metadata with the classes' colours.
        alpha: opacity of the colours, 0 to 1.
        shades: a shade of its class's colour for every thing, so that neighbours are told apart.
    """
    out = image.copy()
    thickness = max(1, round(font_size(*image.shape[:2]) / 14))
    segments = _in_drawing_order(segments)
    for segment, color in zip(segments, _colors(segments, metadata, shades), strict=True):
        _tint(out, image, segment.mask, color, alpha)
        if segment.thing:
            light = tuple(round(c + (255 - c) * 0.6) for c in color)
            _tint(out, image, _outline(segment.mask, thickness), light, _OUTLINE_ALPHA)
    return out


def _in_drawing_order(segments: Sequence[Segment]) -> list[Segment]:
    return sorted(segments, key=lambda s: (s.thing, -np.count_nonzero(s.mask)))


def _colors(segments: Sequence[Segment], metadata: Any, shades: bool) -> list[Color]:
    """Colours of classes or, of things, their shades from left to right."""
    colors = [class_color(metadata, s.label, s.thing) for s in segments]
    things = [i for i, segment in enumerate(segments) if segment.thing and shades]
    count: Counter[int] = Counter()
    for i in sorted(things, key=lambda i: np.nonzero(segments[i].mask)[1].mean()):
        colors[i] = shade(colors[i], count[segments[i].label])
        count[segments[i].label] += 1
    return colors


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


def _text(segment: Segment, metadata: Any, score: bool) -> str:
    # ADE20K's names are lists of synonyms; the legend has them all.
    name = class_name(metadata, segment.label, segment.thing).split(",")[0]
    if segment.crowd:
        return f"{name} (crowd)"
    if score and segment.score is not None:
        return f"{name} {segment.score:.0%}".replace("%", "\N{NO-BREAK SPACE}%")
    return name

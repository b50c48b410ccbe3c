"""Legend, captions and panels around drawn pictures."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from .classes import Color
from .lettering import font_size

_BACKGROUND = (255, 255, 255)
_TEXT = (32, 32, 32)
_BORDER = (160, 160, 160)
# Times the size of the text.
_ROW_HEIGHT = 1.6
_SWATCH_WIDTH = 1.4


def draw_legend(
    entries: Sequence[tuple[str, Color]], width: int, size: int, rows: int | None = None
) -> np.ndarray:
    """Colour swatches with class names, in rows.

    Args:
        entries: name and RGB colour of each class, in this order.
        width: of the legend, pixels.
        size: of the text, pixels.
        rows: at most; classes that do not fit are summed up as "+ 3 more". None: all are shown.

    Returns:
        h x width x 3, RGB uint8; a name wider than that is cut off.
    """
    names = texts = [name for name, _ in entries]
    shown = len(names)
    while rows is not None and shown > 0 and count_legend_rows(texts, width, size) > rows:
        shown -= 1
        texts = [*names[:shown], f"+ {len(names) - shown} more"]
    if rows is None:
        rows = count_legend_rows(texts, width, size)

    row_height = round(size * _ROW_HEIGHT)
    canvas = Image.new("RGB", (width, rows * row_height + size // 2 if rows else 0), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for i, (text, (x, row)) in enumerate(zip(texts, _place(texts, width, size), strict=True)):
        middle = size // 4 + row * row_height + row_height // 2
        if i < shown:
            top = middle - size // 2
            draw.rectangle((x, top, x + size, top + size), fill=entries[i][1], outline=_BORDER)
            x += round(size * _SWATCH_WIDTH)
        draw.text((x, middle), text, fill=_TEXT, font=_font(size), anchor="lm")
    return np.asarray(canvas)


def count_legend_rows(names: Sequence[str], width: int, size: int) -> int:
    """How many rows :func:`draw_legend` needs for entries of these names."""
    return _place(names, width, size)[-1][1] + 1 if names else 0


def join_panels(panels: dict[str, np.ndarray]) -> np.ndarray:
    """Pictures (H x W x 3, RGB uint8) side by side under their names; a single one as it is."""
    pictures = list(panels.values())
    if len(pictures) == 1:
        return pictures[0]
    height, width = pictures[0].shape[:2]
    size = font_size(height, width)
    bar, gap = round(size * _ROW_HEIGHT), max(size // 3, 2)
    canvas = Image.new("RGB", (len(panels) * (width + gap) - gap, bar + height), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for i, (name, picture) in enumerate(panels.items()):
        left = i * (width + gap)
        center = (left + width // 2, bar // 2)
        draw.text(center, name, fill=_TEXT, font=_font(size), anchor="mm")
        canvas.paste(Image.fromarray(picture), (left, bar))
    return np.asarray(canvas)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # The font that detectron2's visualizer writes in; it comes with matplotlib.
    return ImageFont.truetype(findfont("DejaVu Sans"), size)


def _place(names: Sequence[str], width: int, size: int) -> list[tuple[int, int]]:
    """Left edge and row of each entry of a legend."""
    margin = size // 2
    places, x, row = [], margin, 0
    for name in names:
        entry = round(size * _SWATCH_WIDTH) + round(_font(size).getlength(name))
        if x > margin and x + entry + margin > width:
            x, row = margin, row + 1
        places.append((x, row))
        x += entry + size
    return places

"""Lamp posts, traffic lights and traffic signs."""

import numpy as np

from .canvas import POLE, Billboard, Canvas, box, circle
from .light import palette

_PAINTS = palette("141a1a 1f2426 122b26")
_WHITE, _INK, _RED, _BLUE, _GLOW = palette("e0e0e0 1a1a1a bf1a1a 1a4099 ffdb99")
_PLATES, _SIGNALS = palette("1a4099 e6b81f 1f6638"), palette("26e666 ffb21a ff261a")

_DISC, _TRIANGLE, _OCTAGON = circle(32), circle(3), circle(16)[1::2]
_BAR = box(-0.6, -0.15, 0.6, 0.15)
_ARROW = np.array(
    [(0, 0.55), (0.4, 0.1), (0.13, 0.1), (0.13, -0.5), (-0.13, -0.5), (-0.13, 0.1), (-0.4, 0.1)]
)
# Polygons in units of the sign's radius, the lowest first, and their colours; None is drawn.
_SIGNS = (
    (  # speed limit
        (_DISC, _RED), (_DISC * 0.76, _WHITE), (box(-0.3, -0.34, -0.16, 0.34), _INK),
        (_DISC * (0.18, 0.34) + (0.2, 0), _INK), (_DISC * (0.09, 0.17) + (0.2, 0), _WHITE),
    ),
    ((_DISC, _WHITE), (_DISC * 0.9, _BLUE), (_ARROW, _WHITE)),
    ((_DISC, _RED), (_BAR, _WHITE)),
    ((_TRIANGLE * 1.2, _RED), (_TRIANGLE * 0.75, _WHITE)),
    ((_OCTAGON * 1.08, _WHITE), (_OCTAGON * 0.98, _RED), (_BAR, _WHITE)),
    (  # a plate with two lines of text
        (box(-1.25, -0.9, 1.25, 0.9), _WHITE), (box(-1.12, -0.81, 1.12, 0.81), None),
        (box(-0.8, 0.25, 0.6, 0.45), _WHITE), (box(-0.8, -0.4, 0.1, -0.2), _WHITE),
    ),
    ((_DISC, 0.42), (box(-0.25, -1.0, 0.25, 1.0), 0.3)),  # seen from behind
)  # fmt: skip


def draw_pole(canvas: Canvas, x: float, z: float, ground: float, kind: str) -> None:
    """A pole of kind "lamp", "signal" or "sign" on the ground point (x, z)."""
    light, rng = canvas.light, canvas.rng
    board = Billboard(canvas, POLE, x, z, ground, mottle=0.05, grain=0.02, size=2.0)
    paint = rng.choice(_PAINTS)
    # At least a share of the picture's height, so that no label is hair-thin.
    width = max(rng.uniform(0.3, 0.42), 0.028 * canvas.rgb.shape[0] / board.scale)
    height = rng.uniform(*{"lamp": (3.4, 5.0), "signal": (2.6, 3.4), "sign": (2.2, 2.9)}[kind])
    half, top = width / 2, np.array([0.0, height])
    board.polygon(box(-half, 0, half, height), light.diffuse(paint, 0.3))
    board.polygon(box(0, 0, light.side * half, height), light.diffuse(paint * 1.15, 0.7))
    board.polygon(box(-half * 1.5, 0, half * 1.5, 0.35), light.diffuse(paint * 0.85, 0.4))
    if kind == "lamp":
        _draw_lamp(board, top, light.diffuse(paint), width, -np.sign(x))
    elif kind == "signal":
        _draw_signal(board, top)
    else:
        radius = rng.uniform(0.5, 0.66)
        for index in range(1 + int(rng.random() < 0.35)):
            for points, colour in _SIGNS[rng.integers(len(_SIGNS))]:
                colour = rng.choice(_PLATES) if colour is None else colour
                points = top + (points - (0.0, 2.05 * index)) * radius
                board.polygon(points, light.diffuse(colour))
    canvas.cast_shadow(x, z, ground, 0.3, (0.0, height / 2, height / 2, 0.1))


def _draw_lamp(board: Billboard, top, colour, width: float, inward: float) -> None:
    light, rng = board.canvas.light, board.canvas.rng
    glass = _GLOW if light.night else light.diffuse(0.8)
    if rng.random() < 0.6:  # an arm over the road
        arm = np.array([inward * rng.uniform(0.9, 1.5), 0.25])
        board.limb([top, top + arm], width * 0.8, colour)
        head = top + arm * (1.15, 0.9)
        board.ellipse(head, (0.6, 0.24), colour)
        board.ellipse(head - (0, 0.12), (0.48, 0.12), glass)
    else:  # a lantern
        head = top + (0.0, 0.3)
        board.polygon(head + [(-0.25, -0.3), (0.25, -0.3), (0.4, 0.3), (-0.4, 0.3)], glass)
        board.polygon(head + [(-0.5, 0.3), (0.5, 0.3), (0.0, 0.65)], colour)


def _draw_signal(board: Billboard, top: np.ndarray) -> None:
    light, on = board.canvas.light, board.canvas.rng.integers(3)
    board.polygon(top + box(-0.37, -0.42, 0.37, 1.22), light.diffuse(0.2))
    board.polygon(top + box(-0.3, -0.35, 0.3, 1.15), light.diffuse(0.07))
    for index, colour in enumerate(_SIGNALS):
        middle = top + (0.0, 0.48 * index - 0.08)
        shown = colour if index == on else light.diffuse(colour * 0.22, 0.3)
        board.ellipse(middle, (0.19, 0.19), shown)

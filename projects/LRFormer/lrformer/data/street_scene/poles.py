"""Lamp posts, traffic lights and traffic signs."""

from __future__ import annotations

import math

import numpy as np

from .canvas import Billboard, Canvas, Material, box, ground_ellipse
from .classes import POLE
from .light import Light

_PAINTS = np.array([(0.08, 0.1, 0.1), (0.12, 0.14, 0.15), (0.07, 0.17, 0.15)])
_RED, _BLUE = np.array([0.75, 0.1, 0.1]), np.array([0.1, 0.25, 0.6])
_WHITE, _YELLOW = np.full(3, 0.88), np.array([0.9, 0.72, 0.12])
_GREEN = np.array([0.12, 0.4, 0.22])
# A post is at least this share of the picture's height wide, so that no label is hair-thin.
_MIN_WIDTH = 0.028


def draw_pole(
    canvas: Canvas,
    light: Light,
    rng: np.random.Generator,
    kind: str,
    x: float,
    z: float,
    ground: float,
    toward_road: int,
) -> None:
    """A pole of kind "lamp", "signal" or "sign" on the ground point (x, z).

    ``toward_road`` is the sign of the direction in X in which a lamp's arm reaches.
    """
    board = Billboard(canvas, x, z, ground)
    canvas.element(POLE, depth=board.depth, material=Material(mottle=0.05, grain=0.02, size=2.0))
    paint = _PAINTS[rng.integers(len(_PAINTS))]
    width = max(rng.uniform(0.3, 0.42), _MIN_WIDTH * canvas.rgb.shape[0] / board.scale)
    if kind == "lamp":
        height = _draw_lamp(canvas, board, light, rng, paint, width, toward_road)
    elif kind == "signal":
        height = _draw_signal(canvas, board, light, rng, paint, width)
    else:
        height = _draw_sign(board, light, rng, paint, width)
    offset = light.shadow_offset() * height
    side = np.array([0.08, 0.0, 0.0])
    foot, tip = np.array([x, ground, z]), np.array([x + offset[0], ground, z + offset[1]])
    canvas.ground_shadow(np.stack([foot - side, foot + side, tip + side, tip - side]))
    canvas.ground_shadow(ground_ellipse((x, z), (0.3, 0.3), (1.0, 0.0), ground), contact=True)


def _post(board: Billboard, light: Light, paint: np.ndarray, width: float, height: float) -> None:
    half = width / 2
    sunny = 1.0 if light.sun_direction[0] > 0 else -1.0
    board.polygon(box(-half, 0, half, height), light.diffuse(paint, 0.3))
    board.polygon(box(0, 0, sunny * half, height), light.diffuse(paint * 1.15, 0.7))
    board.polygon(box(-half * 1.5, 0, half * 1.5, 0.35), light.diffuse(paint * 0.85, 0.4))


def _draw_lamp(canvas, board, light, rng, paint, width, toward_road) -> float:
    height = rng.uniform(3.4, 5.0)
    _post(board, light, paint, width, height)
    colour = light.diffuse(paint, 0.5)
    glow = np.array([1.0, 0.86, 0.6])
    glass = glow if light.night else light.diffuse(np.full(3, 0.8), 0.5)
    if rng.random() < 0.6:  # an arm over the road
        reach = toward_road * rng.uniform(0.9, 1.5)
        board.limb((0, height), (reach, height + 0.25), width * 0.8, colour)
        head = (reach * 1.15, height + 0.22)
        board.ellipse(head, (0.6, 0.24), colour)
        board.ellipse((head[0], head[1] - 0.12), (0.48, 0.12), glass)
    else:  # a lantern on top
        head = (0.0, height + 0.3)
        board.polygon(
            np.array([(-0.25, height), (0.25, height), (0.4, height + 0.6), (-0.4, height + 0.6)]),
            glass,
        )
        board.polygon(
            np.array([(-0.5, height + 0.6), (0.5, height + 0.6), (0.0, height + 0.95)]), colour
        )
    if light.night:
        canvas.lamp(board.pixel(head), 1.5 * board.scale, glow * 0.4)
    return height


def _draw_signal(canvas, board, light, rng, paint, width) -> float:
    height = rng.uniform(2.6, 3.4)
    _post(board, light, paint, width, height)
    half, low = 0.3, height - 0.35
    high = low + 1.5
    board.polygon(
        box(-half - 0.07, low - 0.07, half + 0.07, high + 0.07), light.diffuse(np.full(3, 0.2))
    )
    board.polygon(box(-half, low, half, high), light.diffuse(np.full(3, 0.07)))
    on = rng.integers(3)
    for index, colour in enumerate(((0.15, 0.9, 0.4), (1.0, 0.7, 0.1), (1.0, 0.15, 0.1))):
        centre = (0.0, low + 0.27 + 0.48 * index)
        bright = np.array(colour) if index == on else light.diffuse(np.array(colour) * 0.22, 0.3)
        board.ellipse(centre, (0.19, 0.19), bright)
        if index == on:
            strength = 0.4 if light.night else 0.12
            canvas.lamp(board.pixel(centre), 0.8 * board.scale, bright * strength)
    return high


_SIGNS = ("limit", "order", "no entry", "warning", "stop", "plate", "back")
_ARROW = np.array(
    [(0, 0.55), (0.4, 0.1), (0.13, 0.1), (0.13, -0.5), (-0.13, -0.5), (-0.13, 0.1), (-0.4, 0.1)]
)


def _draw_sign(board, light, rng, paint, width) -> float:
    height = rng.uniform(2.2, 2.9)
    _post(board, light, paint, width, height)
    radius = rng.uniform(0.5, 0.66)
    count = 1 + int(rng.random() < 0.35)
    for index in range(count):
        kind = _SIGNS[rng.integers(len(_SIGNS))]
        _draw_board(board, light, rng, kind, height - 2.05 * radius * index, radius, width)
    return height


def _draw_board(board, light, rng, kind, centre, radius, width) -> None:
    """One sign on its post, its middle ``centre`` metres up."""
    middle = np.array([0.0, centre])
    bar = middle + box(-radius * 0.6, -radius * 0.15, radius * 0.6, radius * 0.15)
    white, ink = light.diffuse(_WHITE), light.diffuse(np.full(3, 0.1))
    red, blue = light.diffuse(_RED), light.diffuse(_BLUE)

    def disc(share: float, colour: np.ndarray) -> None:
        board.ellipse(middle, (radius * share, radius * share), colour)

    if kind == "limit":
        disc(1.0, red)
        disc(0.76, white)
        digit, half = middle + (0.2 * radius, 0.0), np.array([0.18, 0.34]) * radius
        board.polygon(middle + box(-radius * 0.3, -half[1], -radius * 0.16, half[1]), ink)
        board.ellipse(digit, half, ink)
        board.ellipse(digit, half * 0.5, white)
    elif kind == "order":
        disc(1.0, white)
        disc(0.9, blue)
        board.polygon(middle + _ARROW * radius, white)
    elif kind == "no entry":
        disc(1.0, red)
        board.polygon(bar, white)
    elif kind == "warning":
        board.polygon(middle + _regular(3, radius * 1.2, 0.0), red)
        board.polygon(middle + _regular(3, radius * 0.75, 0.0), white)
    elif kind == "stop":
        board.polygon(middle + _regular(8, radius * 1.08, math.pi / 8), white)
        board.polygon(middle + _regular(8, radius * 0.98, math.pi / 8), red)
        board.polygon(bar, white)
    elif kind == "plate":
        colour = (_BLUE, _YELLOW, _GREEN)[rng.integers(3)]
        plate = box(-radius * rng.uniform(1.0, 1.5), -radius * 0.9, 0.0, radius * 0.9)
        plate[1:3, 0] = -plate[0, 0]
        board.polygon(middle + plate, white)
        board.polygon(middle + plate * 0.9, light.diffuse(colour))
        left = plate[0, 0] * 0.65
        for y in (-0.4, 0.25):
            line = box(left, y * radius, -left * rng.uniform(0.1, 1.0), (y + 0.2) * radius)
            board.polygon(middle + line, white)
    else:  # the back of a sign for the other direction
        disc(1.0, light.diffuse(np.full(3, 0.42)))
        strap = box(-width / 2, -radius, width / 2, radius)
        board.polygon(middle + strap, light.diffuse(np.full(3, 0.3)))


def _regular(sides: int, radius: float, turn: float) -> np.ndarray:
    """Corners of a regular polygon around the origin."""
    angle = turn + np.arange(sides) * (2 * math.pi / sides)
    return np.stack([radius * np.sin(angle), radius * np.cos(angle)], 1)

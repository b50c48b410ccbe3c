"""Cars: solid bodies drawn from any side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .canvas import NEAR, UP, Canvas, Material
from .classes import CAR
from .light import Light

_PAINTS = np.array(
    [
        (0.90, 0.90, 0.92), (0.72, 0.08, 0.08), (0.56, 0.06, 0.10), (0.10, 0.22, 0.62),
        (0.14, 0.34, 0.74), (0.90, 0.70, 0.08), (0.88, 0.42, 0.08), (0.08, 0.46, 0.52),
    ]
)  # fmt: skip
_GLASS = np.array([0.1, 0.12, 0.15])
_TYRE = np.array([0.06, 0.06, 0.065])


@dataclass(frozen=True)
class Shape:
    """A car's side view, in metres; the rear is at z = 0.

    ``outline`` runs over the car from the rear bumper to the front bumper as (z, y) points.
    ``rear_window`` and ``windscreen`` are indices of its segments; ``side`` is the side window.
    """

    length: float
    width: float
    outline: tuple[tuple[float, float], ...]
    rear_window: int
    windscreen: int
    side: tuple[tuple[float, float], ...]
    pillars: tuple[float, ...]
    wheels: tuple[float, float]
    belt: float  # the body narrows above this height


_SHAPES = (
    Shape(  # saloon
        4.5, 1.8,
        ((0, 0.3), (0, 0.62), (0.08, 0.95), (0.75, 1.02), (1.35, 1.42), (2.65, 1.44), (3.4, 1.0),
         (4.3, 0.84), (4.5, 0.6), (4.5, 0.3)),
        3, 5, ((1.0, 1.02), (1.45, 1.35), (2.6, 1.37), (3.15, 1.02)), (2.05,), (0.85, 3.6), 0.98,
    ),
    Shape(  # hatchback
        3.9, 1.74,
        ((0, 0.3), (0, 0.72), (0.1, 1.0), (0.42, 1.42), (0.75, 1.5), (2.2, 1.5), (2.95, 1.02),
         (3.75, 0.88), (3.9, 0.6), (3.9, 0.3)),
        2, 5, ((0.55, 1.04), (0.72, 1.4), (2.12, 1.42), (2.72, 1.04)), (1.5,), (0.7, 3.15), 1.0,
    ),
    Shape(  # off-road wagon
        4.5, 1.9,
        ((0, 0.36), (0, 0.8), (0.06, 1.12), (0.3, 1.62), (0.6, 1.72), (2.75, 1.72), (3.4, 1.15),
         (4.35, 1.02), (4.5, 0.7), (4.5, 0.36)),
        2, 5, ((0.4, 1.18), (0.55, 1.6), (2.68, 1.62), (3.15, 1.18)), (1.2, 2.15), (0.85, 3.6),
        1.14,
    ),
    Shape(  # van
        4.9, 1.95,
        ((0, 0.34), (0, 0.7), (0.03, 1.15), (0.08, 1.95), (0.25, 2.1), (3.4, 2.1), (4.2, 1.25),
         (4.75, 1.05), (4.9, 0.7), (4.9, 0.34)),
        2, 5, ((2.75, 1.22), (2.75, 1.88), (3.4, 1.9), (3.98, 1.22)), (), (0.95, 3.95), 1.2,
    ),
)  # fmt: skip
_SHAPE_ODDS = (0.34, 0.36, 0.2, 0.1)
_WHEEL_RADIUS = 0.33


def random_shape(rng: np.random.Generator) -> Shape:
    return _SHAPES[rng.choice(len(_SHAPES), p=_SHAPE_ODDS)]


class _Body:
    """World coordinates of points given in a car's own axes: right, up, forward from the rear."""

    def __init__(self, shape: Shape, x: float, z: float, heading: float) -> None:
        self.shape = shape
        self.forward = np.array([math.sin(heading), 0.0, math.cos(heading)])
        self.right = np.array([math.cos(heading), 0.0, -math.sin(heading)])
        self.axes = np.array([self.right, UP, self.forward])
        self.origin = np.array([x, 0.0, z]) - self.forward * (shape.length / 2)

    def half_width(self, y: np.ndarray) -> np.ndarray:
        above = np.clip((np.asarray(y) - self.shape.belt) / 0.6, 0.0, 1.0)
        below = np.clip((0.55 - np.asarray(y)) / 0.5, 0.0, 1.0)
        return self.shape.width / 2 * (1 - 0.2 * above - 0.04 * below)

    def points(self, right: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        local = np.empty((*np.broadcast(right, y, z).shape, 3))
        local[..., 0], local[..., 1], local[..., 2] = right, y, z
        return local @ self.axes + self.origin

    def side(self, zy: np.ndarray, sign: int, out: float = 0.0) -> np.ndarray:
        """A side-view polygon (n, 2) on the car's skin; sign 1 is the right side."""
        zy = np.asarray(zy, dtype=float)
        return self.points(sign * (self.half_width(zy[:, 1]) + out), zy[:, 1], zy[:, 0])

    def strip(self, a: tuple, b: tuple, left: float = -1.0, right: float = 1.0) -> np.ndarray:
        """The quadrilateral across the car between two outline points.

        ``left`` and ``right`` are shares of the half width.
        """
        wa, wb = self.half_width(a[1]), self.half_width(b[1])
        return self.points(
            np.array([left * wa, right * wa, right * wb, left * wb]),
            np.array([a[1], a[1], b[1], b[1]]),
            np.array([a[0], a[0], b[0], b[0]]),
        )


def _between(a: tuple, b: tuple, share: float) -> tuple[float, float]:
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share)


def draw_car(
    canvas: Canvas,
    light: Light,
    rng: np.random.Generator,
    shape: Shape,
    x: float,
    z: float,
    heading: float,
    instance: int,
    lights_on: bool,
) -> None:
    """A car centred on the ground point (x, z).

    Args:
        heading: where its front points, radians from +Z to the right.
        instance: number of the car in the instance map.
    """
    paint = np.clip(
        _PAINTS[rng.integers(len(_PAINTS))] * rng.uniform(0.93, 1.07, 3) * rng.uniform(0.8, 1.15),
        0.04,
        0.95,
    )
    body = _Body(shape, x, z, heading)
    camera = np.array([canvas.camera.x, canvas.camera.y, 0.0])
    canvas.element(
        CAR,
        depth=canvas.camera.depth(x, z),
        instance=instance,
        material=Material(mottle=0.04, grain=0.015, size=2.0),
    )
    _draw_shadow_side(canvas, body)

    outline = shape.outline
    faces = []
    for index, (a, b) in enumerate(pairwise(outline)):
        normal = np.array([0.0, b[0] - a[0], 0.0]) - body.forward * (b[1] - a[1])
        centre = body.points(0.0, (a[1] + b[1]) / 2, (a[0] + b[0]) / 2)
        if np.dot(normal, camera - centre) > 0:
            faces.append((float(np.linalg.norm(camera - centre)), index, normal))
    for _, index, normal in sorted(faces, key=lambda face: -face[0]):
        normal = normal / np.linalg.norm(normal)
        _draw_strip(canvas, light, rng, body, paint, index, normal, lights_on)
    for sign in (-1, 1):
        normal = sign * body.right
        centre = body.points(sign * shape.width / 2, 0.7, shape.length / 2)
        if np.dot(normal, camera - centre) > 0:
            _draw_side(canvas, light, body, paint, sign, normal)
    _cast_shadow(canvas, light, body)


def _draw_shadow_side(canvas: Canvas, body: _Body) -> None:
    """Tyres and underbody, before the body that hides most of them."""
    half = body.shape.width / 2
    for z in body.shape.wheels:
        for sign in (-1, 1):
            inner, outer = sign * (half - 0.24), sign * half * 0.97
            for end in (-0.2, 0.2):
                canvas.polygon(
                    body.points([inner, outer, outer, inner], [0, 0, 0.5, 0.5], [z + end] * 4),
                    _TYRE,
                )


def _draw_strip(canvas, light, rng, body, paint, index, normal, lights_on) -> None:
    shape, outline = body.shape, body.shape.outline
    a, b = outline[index], outline[index + 1]
    rear, front = index <= 1, index >= len(outline) - 3
    # Paint mirrors the sky where it faces up.
    colour = light.shade(paint, normal) * 0.9 + light.zenith * (0.12 * max(0.0, normal[1]))
    canvas.polygon(body.strip(a, b), colour)
    if index in (shape.rear_window, shape.windscreen):
        glass = light.diffuse(_GLASS, 0.0) + (light.zenith * 0.2 + light.horizon * 0.2)
        low, high = _between(a, b, 0.12), _between(a, b, 0.88)
        if low[1] > high[1]:
            low, high = high, low
        canvas.polygon(body.strip(low, high, -0.86, 0.86), glass * 0.8, mark=False)
        middle = _between(low, high, 0.55)
        canvas.polygon(body.strip(low, middle, -0.86, 0.86), glass * 0.5, mark=False)
        return
    if index in (0, len(outline) - 2):  # bumper and number plate
        dark = light.shade(np.full(3, 0.13), normal)
        canvas.polygon(
            body.strip(_between(a, b, 0.0), _between(a, b, 0.42 if rear else 1.0)), dark, mark=False
        )
        low, high = _between(a, b, 0.5), _between(a, b, 0.85)
        canvas.polygon(
            body.strip(low, high, -0.3, 0.3), light.shade((0.85, 0.85, 0.72), normal), mark=False
        )
    elif rear or front:
        if rear:
            lamp = (
                np.array([0.95, 0.12, 0.1]) if lights_on else light.shade((0.6, 0.06, 0.06), normal)
            )
        else:
            lamp = (
                np.array([1.0, 0.97, 0.85]) if lights_on else light.shade((0.8, 0.82, 0.82), normal)
            )
            grille = light.shade(np.full(3, 0.08), normal)
            canvas.polygon(
                body.strip(_between(a, b, 0.3), _between(a, b, 0.85), -0.5, 0.5), grille, mark=False
            )
        low, high = _between(a, b, 0.25), _between(a, b, 0.85)
        for left, right in ((-0.96, -0.62), (0.62, 0.96)):
            quad = body.strip(low, high, left, right)
            canvas.polygon(quad, lamp, mark=False)
            view = canvas.camera.view(quad.mean(axis=0))
            if lights_on and view[2] > NEAR:
                radius = (0.35 if rear else 0.6) * canvas.camera.focal / view[2]
                canvas.lamp(canvas.camera.image(view), radius, lamp * (0.2 if rear else 0.3))


def _draw_side(canvas, light, body, paint, sign, normal) -> None:
    shape = body.shape
    colour = light.shade(paint, normal)
    canvas.polygon(body.side(shape.outline, sign), colour)
    length = shape.length
    lower = light.shade(paint * 0.72, normal)
    canvas.polygon(
        body.side([(0.02, 0.32), (0.02, 0.58), (length - 0.02, 0.56), (length - 0.02, 0.32)], sign),
        lower,
        mark=False,
    )
    canvas.polygon(
        body.side([(0.1, 0.3), (0.1, 0.38), (length - 0.1, 0.38), (length - 0.1, 0.3)], sign),
        light.shade(np.full(3, 0.1), normal),
        mark=False,
    )
    shine = colour + light.horizon * 0.1
    canvas.polygon(
        body.side([(0.1, 0.82), (0.1, 0.9), (length * 0.9, 0.86), (length * 0.9, 0.79)], sign),
        shine,
        mark=False,
    )
    glass = light.diffuse(_GLASS, 0.0) + light.horizon * 0.16
    canvas.polygon(body.side(shape.side, sign), glass, mark=False)
    low, high = shape.side[0][1], shape.side[1][1]
    for z in shape.pillars:
        canvas.polygon(
            body.side([(z - 0.05, low), (z - 0.05, high), (z + 0.05, high), (z + 0.05, low)], sign),
            colour * 0.8,
            mark=False,
        )
        canvas.polygon(
            body.side(
                [(z - 0.015, 0.4), (z - 0.015, low), (z + 0.015, low), (z + 0.015, 0.4)], sign
            ),
            colour * 0.6,
            mark=False,
        )
    angle = np.arange(16) * (2 * math.pi / 16)
    for z in shape.wheels:
        for radius, shade in (
            (_WHEEL_RADIUS * 1.16, np.full(3, 0.03)),
            (_WHEEL_RADIUS, light.shade(_TYRE, normal)),
            (_WHEEL_RADIUS * 0.6, light.shade(np.full(3, 0.5), normal)),
            (_WHEEL_RADIUS * 0.22, light.shade(np.full(3, 0.2), normal)),
        ):
            circle = np.stack([z + radius * np.cos(angle), 0.33 + radius * np.sin(angle)], 1)
            circle[:, 1] = np.maximum(circle[:, 1], 0.0)
            canvas.polygon(body.side(circle, sign, 0.01), shade)


def _cast_shadow(canvas: Canvas, light: Light, body: _Body) -> None:
    shape = body.shape
    half = shape.width / 2
    foot = body.points([-half, half, half, -half], 0.0, [0.0, 0.0, shape.length, shape.length])
    canvas.ground_shadow(foot, contact=True)
    offset = light.shadow_offset()
    top = body.points(
        [-half * 0.8, half * 0.8, half * 0.8, -half * 0.8],
        0.0,
        [shape.length * 0.2, shape.length * 0.2, shape.length * 0.7, shape.length * 0.7],
    ) + np.array([offset[0], 0.0, offset[1]]) * max(y for _, y in shape.outline)
    canvas.ground_shadow_hull(np.concatenate([foot, top]))

"""Cars: solid bodies drawn from any side."""

import math
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np

from .canvas import CAR, UP, Canvas, box, circle
from .light import palette

_PAINTS = palette("e6e6eb b81414 8f0f1a 1a389e 2457bd e6b214 e06b14 147585")
COLORS = ("white", "red", "red", "blue", "blue", "yellow", "orange", "teal")
_GLASS, _TYRE, _PLATE = palette("1a1f26 0f0f11 d9d9b8")
# At the front and at the rear: shining, and not.
_LAMPS = palette("fff7d9 ccd1d1"), palette("f21f1a 990f0f")


class Shape(NamedTuple):
    """A car's side view, in metres, as (z, y) points; the rear is at z = 0."""

    length: float
    width: float
    belt: float  # the height above which the body narrows
    outline: tuple[tuple[float, float], ...]  # over the car, from bumper to bumper
    panes: tuple[int, int]  # segments of the outline
    window: tuple[tuple[float, float], ...]
    pillars: tuple[float, ...]
    wheels: tuple[float, float]


SHAPES = (
    Shape(  # saloon
        4.5, 1.8, 0.98,
        ((0, 0.3), (0, 0.62), (0.08, 0.95), (0.75, 1.02), (1.35, 1.42), (2.65, 1.44), (3.4, 1.0),
         (4.3, 0.84), (4.5, 0.6), (4.5, 0.3)),
        (3, 5), ((1.0, 1.02), (1.45, 1.35), (2.6, 1.37), (3.15, 1.02)), (2.05,), (0.85, 3.6),
    ),
    Shape(  # hatchback
        3.9, 1.74, 1.0,
        ((0, 0.3), (0, 0.72), (0.1, 1.0), (0.42, 1.42), (0.75, 1.5), (2.2, 1.5), (2.95, 1.02),
         (3.75, 0.88), (3.9, 0.6), (3.9, 0.3)),
        (2, 5), ((0.55, 1.04), (0.72, 1.4), (2.12, 1.42), (2.72, 1.04)), (1.5,), (0.7, 3.15),
    ),
    Shape(  # off-road wagon
        4.5, 1.9, 1.14,
        ((0, 0.36), (0, 0.8), (0.06, 1.12), (0.3, 1.62), (0.6, 1.72), (2.75, 1.72), (3.4, 1.15),
         (4.35, 1.02), (4.5, 0.7), (4.5, 0.36)),
        (2, 5), ((0.4, 1.18), (0.55, 1.6), (2.68, 1.62), (3.15, 1.18)), (1.2, 2.15), (0.85, 3.6),
    ),
    Shape(  # van
        4.9, 1.95, 1.2,
        ((0, 0.34), (0, 0.7), (0.03, 1.15), (0.08, 1.95), (0.25, 2.1), (3.4, 2.1), (4.2, 1.25),
         (4.75, 1.05), (4.9, 0.7), (4.9, 0.34)),
        (2, 5), ((2.75, 1.22), (2.75, 1.88), (3.4, 1.9), (3.98, 1.22)), (), (0.95, 3.95),
    ),
)  # fmt: skip
SHAPE_ODDS = (0.34, 0.36, 0.2, 0.1)


class _Car:
    """A car that is being drawn, centred on the ground point (x, z)."""

    def __init__(self, canvas: Canvas, shape: Shape, x: float, z: float, heading: float) -> None:
        self.canvas, self.shape, rng = canvas, shape, canvas.rng
        number = rng.choice(len(_PAINTS))
        self.color, paint = COLORS[number], _PAINTS[number] * rng.uniform(0.93, 1.07, 3)
        self.paint = np.clip(paint * rng.uniform(0.8, 1.15), 0.04, 0.95)
        self.forward = np.array([math.sin(heading), 0.0, math.cos(heading)])
        self.right = np.array([math.cos(heading), 0.0, -math.sin(heading)])
        self.rear = np.array([x, 0.0, z]) - self.forward * (shape.length / 2)

    def skin(self, share, zy) -> np.ndarray:
        """World points (n, 3) at (z, y) (n, 2), at shares of the half width there to the right."""
        z, y = np.asarray(zy, float).T
        narrower = 0.2 * np.clip((y - self.shape.belt) / 0.6, 0.0, 1.0)
        narrower += 0.04 * np.clip((0.55 - y) / 0.5, 0.0, 1.0)
        right = share * (1.0 - narrower) * (self.shape.width / 2)
        return np.stack([right, y, z], 1) @ [self.right, UP, self.forward] + self.rear

    def draw_axles(self) -> None:
        """What is seen of wheels and axles below the body, from the front and from behind."""
        for z in self.shape.wheels:
            for end in (z - 0.2, z + 0.2):
                self.canvas.paint(self.skin([-1, 1, 1, -1], box(end, 0, end, 0.5)), _TYRE)

    def draw_segment(self, index: int, normal: np.ndarray) -> None:
        """What lies across the car between two points of its outline."""
        light, paint = self.canvas.light, self.canvas.paint
        a, b = np.array(self.shape.outline[index : index + 2])
        last, rear = len(self.shape.outline) - 2, index <= 1

        def band(low: float, high: float, left: float, right: float) -> np.ndarray:
            """Between shares of the segment, and of the half width."""
            low, high = a + (b - a) * low, a + (b - a) * high
            return self.skin([left, right, right, left], [low, low, high, high])

        # Paint mirrors the sky where it faces up.
        mirrored = light.zenith * (0.12 * max(0.0, normal[1]))
        paint(band(0, 1, -1, 1), light.shade(self.paint, normal) * 0.9 + mirrored)
        if index in self.shape.panes:
            glass = light.diffuse(_GLASS, 0.0) + light.zenith * 0.2 + light.horizon * 0.2
            low, high = (0.12, 0.88) if a[1] < b[1] else (0.88, 0.12)
            paint(band(low, high, -0.86, 0.86), glass * 0.8)
            paint(band(low, 0.45 * low + 0.55 * high, -0.86, 0.86), glass * 0.5)
        elif index in (0, last):  # bumper and number plate
            paint(band(0, 0.42 if rear else 1, -1, 1), light.shade(0.13, normal))
            paint(band(0.5, 0.85, -0.3, 0.3), light.shade(_PLATE, normal))
        elif index in (1, last - 1):
            if not rear:  # grille
                paint(band(0.3, 0.85, -0.5, 0.5), light.shade(0.08, normal))
            shining, dull = _LAMPS[rear]
            for left in (-0.96, 0.62):
                colour = shining if light.headlamps else light.shade(dull, normal)
                paint(band(0.25, 0.85, left, left + 0.34), colour)

    def draw_side(self, sign: int) -> None:
        """The left (-1) or right (1) side."""
        light, shape, normal = self.canvas.light, self.shape, sign * self.right
        length, colour = shape.length, light.shade(self.paint, normal)
        parts = [
            (shape.outline, colour),
            (box(0.02, 0.32, length - 0.02, 0.57), colour * 0.72),
            (box(0.1, 0.3, length - 0.1, 0.38), light.shade(0.1, normal)),
            (box(0.1, 0.8, length * 0.9, 0.88), colour + light.horizon * 0.1),
            (shape.window, light.diffuse(_GLASS, 0.0) + light.horizon * 0.16),
        ]
        low, high = shape.window[0][1], shape.window[1][1]
        for z in shape.pillars:
            parts.append((box(z - 0.05, low, z + 0.05, high), colour * 0.8))
            parts.append((box(z - 0.015, 0.4, z + 0.015, low), colour * 0.6))
        for z in shape.wheels:
            for radius, albedo in ((0.38, 0.03), (0.33, _TYRE), (0.2, 0.5), (0.07, 0.2)):
                disc = np.maximum(circle(16) * radius + (z, 0.33), 0.0)
                parts.append((disc, light.shade(albedo, normal)))
        for zy, shade in parts:
            self.canvas.paint(self.skin(sign, zy), shade)

    def cast_shadow(self) -> None:
        end = self.shape.length
        foot = self.skin([-1, 1, 1, -1], [(0, 0), (0, 0), (end, 0), (end, 0)])
        self.canvas.shade_ground(foot, contact=True)
        foot = foot[:, ::2]
        shift = self.canvas.light.shadow * max(y for _, y in self.shape.outline)
        roof = foot.mean(axis=0) + (foot - foot.mean(axis=0)) * 0.6 + shift
        hull = cv2.convexHull(np.concatenate([foot, roof]).astype(np.float32))[:, 0]
        self.canvas.shade_ground(np.insert(hull, 1, 0.0, axis=1))


def draw_car(
    canvas: Canvas, x: float, z: float, heading: float, shape: Shape, instance: int
) -> str:
    """A car centred on the ground point (x, z); its heading is in radians from +Z to the right.

    Returns the name of its colour.
    """
    car, depth = _Car(canvas, shape, x, z, heading), canvas.camera.depth(x, z)
    canvas.element(CAR, depth=depth, instance=instance, mottle=0.04, grain=0.015, size=2.0)
    car.draw_axles()
    # The body is almost convex: what faces the camera, the farthest first.
    faces = []
    for index, (a, b) in enumerate(pairwise(np.array(shape.outline))):
        normal = UP * (b[0] - a[0]) - car.forward * (b[1] - a[1])
        toward = canvas.camera.position - car.skin(0.0, [(a + b) / 2])[0]
        if normal @ toward > 0:
            faces.append((np.linalg.norm(toward), index, normal / np.linalg.norm(normal)))
    for _, index, normal in sorted(faces, key=lambda face: -face[0]):
        car.draw_segment(index, normal)
    for sign in (-1, 1):
        toward = canvas.camera.position - car.skin(sign, [(shape.length / 2, 0.7)])[0]
        if sign * car.right @ toward > 0:
            car.draw_side(sign)
    car.cast_shadow()
    return car.color

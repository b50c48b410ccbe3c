"""A camera, and a drawing surface that keeps what every pixel shows."""

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike

from lrformer.data.metadata import DEMO_CLASSES

from .light import Light

SKY, BUILDING, TREE, ROAD, PAVEMENT, CAR, PERSON, POLE = range(len(DEMO_CLASSES))
# Images are drawn at twice their size and averaged down, which gives them soft edges.
SUPERSAMPLING = 2
NEAR = 0.5  # metres; what is closer to the camera is cut off
UP, TOWARD = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, -1.0])
# The texture of an element that has none.
_SMOOTH = {
    "mottle": 0.0,  # contrast of coarse noise
    "grain": 0.0,  # and of fine noise
    "size": 8.0,  # metres that one tile of the noise covers
    "joints_along": 0.0,  # metres between joints along the surface; 0 is none
    "joints_up": 0.0,
    "joint_contrast": 0.0,
    "falloff": 0.0,  # darkening of a wall towards the ground
}
_SUBPIXEL_BITS = 4


class Camera:
    """A pinhole camera above a flat world, turned about the vertical axis only.

    World axes in metres: X to the right, Y up from the road, Z along the street. The horizon is
    moved by shifting the image plane, so verticals stay vertical. ``focal``, and the principal
    point ``cx``, ``horizon``, are in pixels of the canvas; ``yaw`` is in radians to the right.
    """

    def __init__(self, focal: float, cx: float, horizon: float, position, yaw: float) -> None:
        self.focal, self.cx, self.horizon = focal, cx, horizon
        self.position = np.array(position)
        cos, sin = math.cos(yaw), math.sin(yaw)
        # Right, up and forward, as columns.
        self.axes = np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])

    def view(self, points: ArrayLike) -> np.ndarray:
        """World points (..., 3) in camera axes: right, up, depth."""
        return (np.asarray(points) - self.position) @ self.axes

    def image(self, view: np.ndarray) -> np.ndarray:
        """Pixels (..., 2) of points in camera axes (..., 3), whose depth must be positive."""
        slope = view[..., :2] / view[..., 2:]
        return slope * (self.focal, -self.focal) + (self.cx, self.horizon)

    def depth(self, x: float, z: float) -> float:
        """Depth in metres of the ground point (x, z)."""
        return float(self.view((x, 0.0, z))[2])

    def inverse_depth(self, point: ArrayLike, normal: np.ndarray) -> tuple[float, float, float]:
        """(a, b, c) so that 1/depth = a·u + b·v + c for the pixels (u, v) of a plane."""
        facing, view = normal @ self.axes, self.view(point)
        distance = float(facing @ view)
        if abs(distance) < 1e-6:  # seen edge-on
            return 0.0, 0.0, 1.0 / max(float(view[2]), NEAR)
        a, b, c = facing / (distance * np.array([self.focal, -self.focal, 1.0]))
        return a, b, c - a * self.cx - b * self.horizon


class Canvas:
    """An RGB image and, for every pixel, the element that it shows.

    An element is one surface or object: its class, its instance, its depth and its texture.
    Drawing calls paint both maps; whatever is painted later hides what was there. ``height`` and
    ``width`` are the finished picture's; ``rng`` draws whatever is left to chance.
    """

    def __init__(self, camera: Camera, light: Light, rng, height: int, width: int) -> None:
        self.camera, self.light, self.rng = camera, light, rng
        shape = (height * SUPERSAMPLING, width * SUPERSAMPLING)
        self.rgb = np.zeros((*shape, 3), np.uint8)
        self.elements = np.zeros(shape, np.uint16)
        self.sun_shadow, self.contact_shadow = np.zeros((2, *shape), np.uint8)
        self.table: list[tuple[float, ...]] = []  # a row an element

    def element(self, label: int, point=None, normal=TOWARD, depth=math.inf, instance=0, **texture):
        """Start an element; what is painted from now on belongs to it.

        It lies in the plane through ``point`` (3,) with ``normal`` (3,), or faces the camera at
        ``depth``; ``texture`` is as in ``_SMOOTH``.
        """
        plane = (0.0, 0.0, 1.0 / depth)
        if point is not None:
            plane = self.camera.inverse_depth(point, normal)
        axes = abs(normal[0]) > abs(normal[2]), normal[1] > 0.9  # of the texture: Z for X and Y
        self.table.append((label, instance, *plane, *axes, *(_SMOOTH | texture).values()))

    def paint(self, points: ArrayLike, colour: np.ndarray) -> bool:
        """Fill polygons of world points (..., n, 3); whether any of them can be in the picture."""
        polygons = self._project(points)
        if polygons:
            self.draw(cv2.fillPoly, colour, polygons)
        return bool(polygons)

    def draw(self, shape: Callable, colour: ArrayLike, *where, **style) -> None:
        """Draw one of OpenCV's shapes, whose coordinates are ``fixed_point`` pixels."""
        value = np.clip(np.round(np.multiply(colour, 255)), 0, 255).tolist()
        shape(self.rgb, *where, value, shift=_SUBPIXEL_BITS, **style)
        shape(self.elements, *where, len(self.table) - 1, shift=_SUBPIXEL_BITS, **style)

    def shade_ground(self, points: ArrayLike, contact: bool = False) -> None:
        """Keep the sun, or where something stands all light, off a polygon on the ground."""
        shadow = self.contact_shadow if contact else self.sun_shadow
        for polygon in self._project(points):
            cv2.fillPoly(shadow, [polygon], 255, shift=_SUBPIXEL_BITS)

    def cast_shadow(self, x: float, z: float, ground: float, foot: float, *bodies: tuple) -> None:
        """Shade the ground around a foot of a radius, and where bodies keep the sun off.

        A body is an ellipsoid: how far right of the foot, its middle's height, half its size.
        """
        self.shade_ground(ground_ellipse((x, z), (foot, foot), ground), contact=True)
        length = float(np.hypot(*self.light.shadow))
        for right, middle, tall, half in bodies:
            centre = self.light.shadow * middle + (x + right, z)
            radii = (max(half, tall * length), half)
            self.shade_ground(ground_ellipse(centre, radii, ground, self.light.shadow / length))

    def _project(self, points: ArrayLike) -> list[np.ndarray]:
        """The polygons (..., n, 3) that can be in the picture, in fixed-point pixels."""
        view = self.camera.view(points)
        view = view.reshape(-1, *view.shape[-2:])
        near = (view[..., 2] < NEAR).any(axis=1)
        polygons = list(fixed_point(self.camera.image(view[~near])))
        polygons += [fixed_point(self.camera.image(_clip_near(cut))) for cut in view[near]]
        right = self.rgb.shape[1] << _SUBPIXEL_BITS
        return [p for p in polygons if len(p) and p[:, 0].max() >= 0 and p[:, 0].min() <= right]


class Billboard:
    """Flat drawing of a new element at one depth, upright and facing the camera.

    Coordinates are metres: x to the right of the foot point (x, ground, z), y up from it.
    ``scale`` is pixels of the canvas in a metre; ``options`` are :meth:`Canvas.element`'s.
    """

    def __init__(self, canvas: Canvas, label: int, x: float, z: float, ground: float, **options):
        self.canvas = canvas
        view = canvas.camera.view((x, ground, z))
        self.scale, self.foot = canvas.camera.focal / view[2], canvas.camera.image(view)
        canvas.element(label, depth=float(view[2]), **options)

    def pixel(self, points: ArrayLike) -> np.ndarray:
        """Canvas pixels (..., 2) of local points (..., 2)."""
        return self.foot + np.asarray(points) * (self.scale, -self.scale)

    def polygon(self, points: ArrayLike, colour: np.ndarray) -> None:
        self.canvas.draw(cv2.fillPoly, colour, [fixed_point(self.pixel(points))])

    def limb(self, joints: Sequence, width: float, colour: np.ndarray) -> None:
        """A line with round ends through some points."""
        pixels = fixed_point(self.pixel(joints))
        thickness = max(1, round(width * self.scale))
        self.canvas.draw(cv2.polylines, colour, [pixels], False, thickness=thickness)

    def ellipse(self, centre: ArrayLike, radii: ArrayLike, colour: np.ndarray) -> None:
        self.polygon(circle(32) * radii + centre, colour)


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Corners (4, 2) of an axis-aligned rectangle."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def circle(corners: int) -> np.ndarray:
    """Corners (n, 2) of a regular polygon in the unit circle, the first at the top."""
    angle = np.arange(corners) * (2 * math.pi / corners)
    return np.stack([np.sin(angle), np.cos(angle)], 1)


def ground_ellipse(
    centre: ArrayLike, radii: ArrayLike, y: float, direction: ArrayLike = (1.0, 0.0)
) -> np.ndarray:
    """World points (20, 3) of an ellipse on the ground, first axis along ``direction`` (x, z)."""
    dx, dz = direction
    points = circle(20) * radii @ [(dx, dz), (-dz, dx)] + centre
    return np.insert(points, 1, y, axis=1)


def fixed_point(pixels: np.ndarray) -> np.ndarray:
    """Pixels as :meth:`Canvas.draw` takes them."""
    # OpenCV counts from the centre of the first pixel, the camera from its corner.
    return np.round((pixels - 0.5) * (1 << _SUBPIXEL_BITS)).astype(np.int32)


def _clip_near(view: np.ndarray) -> np.ndarray:
    """The part of a polygon in camera axes (n, 3) beyond the near plane."""
    kept = []
    for a, b in zip(view, np.roll(view, -1, axis=0), strict=True):
        if a[2] >= NEAR:
            kept.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            kept.append(a + (b - a) * ((NEAR - a[2]) / (b[2] - a[2])))
    return np.reshape(kept, (-1, 3))

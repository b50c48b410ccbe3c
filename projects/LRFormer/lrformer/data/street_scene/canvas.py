"""A camera, and a drawing surface that keeps what every pixel shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

# Images are drawn at twice their size and averaged down, which gives them soft edges.
SUPERSAMPLING = 2
NEAR = 0.5  # metres; what is closer to the camera is cut off
_SUBPIXEL_BITS = 4
_SUBPIXEL = 1 << _SUBPIXEL_BITS

UP = np.array([0.0, 1.0, 0.0])


class Camera:
    """A pinhole camera above a flat world, turned about the vertical axis only.

    World axes in metres: X to the right, Y up from the road, Z along the street. The horizon is
    moved by shifting the image plane, so verticals stay vertical.

    Args:
        focal: focal length in pixels of the canvas.
        cx, horizon: principal point in pixels of the canvas.
        x, y: position of the camera in metres; its Z is 0.
        yaw: rotation in radians, positive to the right.
    """

    def __init__(
        self, focal: float, cx: float, horizon: float, x: float, y: float, yaw: float
    ) -> None:
        self.focal, self.cx, self.horizon = focal, cx, horizon
        self.x, self.y, self.yaw = x, y, yaw
        cos, sin = math.cos(yaw), math.sin(yaw)
        self._position = np.array([x, y, 0.0])
        self._to_view = np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])
        self._scale = np.array([focal, -focal])
        self._centre = np.array([cx, horizon])

    def view(self, points: np.ndarray) -> np.ndarray:
        """World points (..., 3) in camera axes: right, up, depth."""
        return (np.asarray(points) - self._position) @ self._to_view

    def image(self, view: np.ndarray) -> np.ndarray:
        """Pixels (..., 2) of points in camera axes (..., 3), whose depth must be positive."""
        return view[..., :2] / view[..., 2:] * self._scale + self._centre

    def depth(self, x: float, z: float) -> float:
        """Depth in metres of the ground point (x, z)."""
        return (x - self.x) * math.sin(self.yaw) + z * math.cos(self.yaw)

    def inverse_depth(self, point: np.ndarray, normal: np.ndarray) -> tuple[float, float, float]:
        """(a, b, c) so that 1/depth = a·u + b·v + c for the pixels (u, v) of a plane."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        nx, ny = normal[0] * cos - normal[2] * sin, normal[1]
        nz = normal[0] * sin + normal[2] * cos
        distance = float(np.dot([nx, ny, nz], self.view(point)))
        if abs(distance) < 1e-6:  # seen edge-on
            return 0.0, 0.0, 1.0 / max(float(self.view(point)[2]), NEAR)
        scale = 1.0 / (self.focal * distance)
        return nx * scale, -ny * scale, (ny * self.horizon - nx * self.cx) * scale + nz / distance


@dataclass(frozen=True)
class Material:
    """Surface texture in world units, applied to an element when the drawing is finished.

    Args:
        along: the world direction (x, z) of the texture's first axis.
        flat: the second axis is Z (ground) instead of Y (walls).
        mottle, grain: contrast of coarse and fine noise.
        size: metres that one tile of the noise covers.
        joints: spacing in metres of the joint lines along both axes; (0, 0) has none.
        joint_contrast: how much darker the joints are.
        light_falloff: darkening of a wall towards the ground.
    """

    along: tuple[float, float] = (1.0, 0.0)
    flat: bool = False
    mottle: float = 0.0
    grain: float = 0.0
    size: float = 8.0
    joints: tuple[float, float] = (0.0, 0.0)
    joint_contrast: float = 0.0
    light_falloff: float = 0.0

    def row(self) -> tuple[float, ...]:
        return (
            self.along[0],
            self.along[1] * (not self.flat),
            float(not self.flat),
            float(self.flat),
            self.mottle,
            self.grain,
            1.0 / self.size,
            *self.joints,
            self.joint_contrast,
            self.light_falloff,
        )


PLAIN = Material()


@dataclass(frozen=True)
class Lamp:
    """Glow around a pixel (u, v) of the canvas; ``element`` is what shines."""

    u: float
    v: float
    radius: float
    colour: np.ndarray
    element: int


class Canvas:
    """An RGB image and, for every pixel, the element that it shows.

    An element is one surface or object: its class, its instance, its depth and its material.
    Drawing calls paint both maps; whatever is painted later hides what was there.

    Args:
        camera: the camera, for a canvas of the supersampled size.
        height, width: size of the finished picture in pixels.
    """

    def __init__(self, camera: Camera, height: int, width: int) -> None:
        self.camera = camera
        shape = (height * SUPERSAMPLING, width * SUPERSAMPLING)
        self.rgb = np.zeros((*shape, 3), np.uint8)
        self.elements = np.zeros(shape, np.uint16)
        self.sun_shadow = np.zeros(shape, np.uint8)
        self.contact_shadow = np.zeros(shape, np.uint8)
        self.lamps: list[Lamp] = []
        self.classes: list[int] = []
        self.instances: list[int] = []
        self.inverse_depths: list[tuple[float, float, float]] = []
        self.materials: list[tuple[float, ...]] = []

    def element(
        self,
        class_index: int,
        point: np.ndarray | None = None,
        normal: np.ndarray | None = None,
        depth: float = math.inf,
        instance: int = 0,
        material: Material = PLAIN,
    ) -> None:
        """Start an element; what is painted from now on belongs to it.

        It lies in the plane through ``point`` with ``normal``, or faces the camera at ``depth``.
        """
        self.classes.append(class_index)
        self.instances.append(instance)
        self.inverse_depths.append(
            (0.0, 0.0, 1.0 / depth)
            if point is None
            else self.camera.inverse_depth(np.asarray(point), np.asarray(normal))
        )
        self.materials.append(material.row())

    def polygon(self, points: np.ndarray, colour: np.ndarray, mark: bool = True) -> bool:
        """Fill a polygon of world points (n, 3), cut at the near plane.

        ``mark=False`` paints the picture only, for detail inside what the element already covers.
        Returns whether any of it can be in the picture.
        """
        pixels = self._project(points)
        if pixels is None:
            return False
        self.pixels([pixels], colour, mark)
        return True

    def polygons(self, points: np.ndarray, colour: np.ndarray, mark: bool = False) -> None:
        """Fill many polygons (m, n, 3) of one colour; those across the near plane are left out."""
        view = self.camera.view(points)
        view = view[(view[..., 2] > NEAR).all(axis=1)]
        if len(view):
            self.pixels(_fixed_point(self.camera.image(view)), colour, mark)

    def pixels(self, polygons: list | np.ndarray, colour: np.ndarray, mark: bool = True) -> None:
        """Fill polygons given in fixed-point pixels of the canvas."""
        polygons = list(polygons)
        cv2.fillPoly(self.rgb, polygons, rgb8(colour), shift=_SUBPIXEL_BITS)
        if mark:
            cv2.fillPoly(self.elements, polygons, len(self.classes) - 1, shift=_SUBPIXEL_BITS)

    def ground_shadow(self, points: np.ndarray, contact: bool = False) -> None:
        """Cast a shadow on the ground inside a polygon of world points (n, 3)."""
        pixels = self._project(points)
        if pixels is not None:
            target = self.contact_shadow if contact else self.sun_shadow
            cv2.fillPoly(target, [pixels], 255, shift=_SUBPIXEL_BITS)

    def ground_shadow_hull(self, points: np.ndarray) -> None:
        """Cast a shadow on the ground inside the convex hull of world points (n, 3)."""
        view = self.camera.view(points)
        if (view[:, 2] > NEAR).all():
            hull = cv2.convexHull(_fixed_point(self.camera.image(view)))
            cv2.fillPoly(self.sun_shadow, [hull], 255, shift=_SUBPIXEL_BITS)

    def lamp(self, pixel: np.ndarray, radius: float, colour: np.ndarray) -> None:
        """Let the current element glow around a pixel, unless something comes to hide it."""
        u, v = float(pixel[0]), float(pixel[1])
        self.lamps.append(Lamp(u, v, float(radius), np.asarray(colour), len(self.classes) - 1))

    def _project(self, points: np.ndarray) -> np.ndarray | None:
        view = self.camera.view(points)
        if (view[:, 2] < NEAR).any():
            view = _clip_near(view)
            if len(view) < 3:
                return None
        pixels = self.camera.image(view)
        if pixels[:, 0].max() < 0 or pixels[:, 0].min() > self.rgb.shape[1]:
            return None
        return _fixed_point(pixels)


class Billboard:
    """Flat drawing at one depth, upright and facing the camera.

    Coordinates are metres: x to the right of the foot point, y up from it. ``scale`` is pixels of
    the canvas in a metre.
    """

    def __init__(self, canvas: Canvas, x: float, z: float, ground: float = 0.0) -> None:
        self.canvas = canvas
        view = canvas.camera.view(np.array([x, ground, z]))
        self.depth = float(view[2])
        self.scale = canvas.camera.focal / self.depth
        self.foot = canvas.camera.image(view)

    def pixel(self, points: np.ndarray) -> np.ndarray:
        """Canvas pixels (..., 2) of local points (..., 2)."""
        return self.foot + np.asarray(points) * (self.scale, -self.scale)

    def polygon(self, points: np.ndarray, colour: np.ndarray) -> None:
        self.canvas.pixels([_fixed_point(self.pixel(points))], colour)

    def limb(self, start: tuple, end: tuple, width: float, colour: np.ndarray) -> None:
        """A line with round ends."""
        a, b = _fixed_point(self.pixel([start, end])).tolist()
        thickness = max(1, round(width * self.scale))
        for target, value in self._targets(colour):
            cv2.line(target, a, b, value, thickness, shift=_SUBPIXEL_BITS)

    def ellipse(self, centre: tuple, radii: tuple, colour: np.ndarray) -> None:
        u, v = _fixed_point(self.pixel(centre)).tolist()
        axes = [max(_SUBPIXEL, round(r * self.scale * _SUBPIXEL)) for r in radii]
        for target, value in self._targets(colour):
            cv2.ellipse(target, (u, v), axes, 0, 0, 360, value, -1, shift=_SUBPIXEL_BITS)

    def grid(
        self, x0: float, y0: float, x1: float, y1: float
    ) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray] | None:
        """The part of the canvas that shows a rectangle, with the coordinates of its pixels.

        Returns:
            Slices into the canvas, x (1, w) and y (h, 1) in metres, float32, at every second pixel;
            None where the rectangle is out of the picture.
        """
        rows, columns = self.canvas.rgb.shape[:2]
        left, bottom = self.pixel((x0, y0))
        right, top = self.pixel((x1, y1))
        u0, u1 = max(0, int(left)) & ~1, min(columns, int(right) + 1)
        v0, v1 = max(0, int(top)) & ~1, min(rows, int(bottom) + 1)
        if u0 >= u1 or v0 >= v1:
            return None
        x = (np.arange(u0, u1, 2, dtype=np.float32) + 1 - self.foot[0]) / self.scale
        y = (self.foot[1] - 1 - np.arange(v0, v1, 2, dtype=np.float32)) / self.scale
        window = (slice(v0, v0 + 2 * len(y)), slice(u0, u0 + 2 * len(x)))
        return window, x[None].astype(np.float32), y[:, None].astype(np.float32)

    def paint(
        self, window: tuple[slice, slice], inside: np.ndarray, tone: np.ndarray, palette: np.ndarray
    ) -> None:
        """Paint where a field is positive, in colours from a palette.

        Args:
            window: slices from ``grid``.
            inside: field (h, w) at the pixels of ``grid``.
            tone: position in the palette in 0…1, (h, w).
            palette: colours (256, 3), uint8.
        """
        rgb, elements = self.canvas.rgb[window], self.canvas.elements[window]
        size = (rgb.shape[1], rgb.shape[0])
        mask = cv2.resize(inside, size, interpolation=cv2.INTER_LINEAR) > 0
        tone = cv2.resize(tone, size, interpolation=cv2.INTER_LINEAR)
        index = np.clip(tone * 255, 0, 255).astype(np.uint8)
        np.copyto(rgb, palette[index], where=mask[..., None])
        elements[mask] = len(self.canvas.classes) - 1

    def _targets(self, colour: np.ndarray) -> tuple:
        return (
            (self.canvas.rgb, rgb8(colour)),
            (self.canvas.elements, len(self.canvas.classes) - 1),
        )


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Corners (4, 2) of an axis-aligned rectangle."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def ground_ellipse(
    centre: tuple[float, float],
    radii: tuple[float, float],
    direction: tuple[float, float],
    y: float,
) -> np.ndarray:
    """World points (20, 3) of an ellipse on the ground, first axis along ``direction`` (x, z)."""
    angle = np.arange(20) * (2 * math.pi / 20)
    a, b = radii[0] * np.cos(angle), radii[1] * np.sin(angle)
    dx, dz = direction
    return np.stack(
        [centre[0] + a * dx - b * dz, np.full(20, y), centre[1] + a * dz + b * dx], axis=-1
    )


def _fixed_point(pixels: np.ndarray) -> np.ndarray:
    # OpenCV counts from the centre of the first pixel, the camera from its corner.
    return np.round((pixels - 0.5) * _SUBPIXEL).astype(np.int32)


def rgb8(colour: np.ndarray) -> list[int]:
    """A colour of 0…1 as OpenCV's drawing functions take it."""
    return [min(255, max(0, round(float(c) * 255))) for c in colour]


def _clip_near(view: np.ndarray) -> np.ndarray:
    """The part of a polygon in camera axes (n, 3) beyond the near plane."""
    kept = []
    for a, b in zip(view, np.roll(view, -1, axis=0), strict=True):
        if a[2] >= NEAR:
            kept.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            kept.append(a + (b - a) * ((NEAR - a[2]) / (b[2] - a[2])))
    return np.array(kept)

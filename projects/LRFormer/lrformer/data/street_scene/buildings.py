"""Houses along a street."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .canvas import UP, Canvas, Material
from .classes import BUILDING
from .light import Light

# Albedo of plaster, brick, stone, concrete and painted fronts.
_WALLS = np.array(
    [
        (0.80, 0.74, 0.64), (0.86, 0.78, 0.58), (0.62, 0.34, 0.26), (0.54, 0.30, 0.24),
        (0.72, 0.56, 0.42), (0.84, 0.68, 0.58), (0.78, 0.60, 0.38), (0.54, 0.44, 0.36),
        (0.88, 0.84, 0.76), (0.70, 0.46, 0.38), (0.66, 0.40, 0.30), (0.76, 0.66, 0.52),
        (0.55, 0.55, 0.55), (0.62, 0.66, 0.70), (0.60, 0.62, 0.52),
    ]
)  # fmt: skip
_ROOFS = np.array(
    [(0.55, 0.27, 0.2), (0.38, 0.2, 0.17), (0.3, 0.31, 0.34), (0.42, 0.4, 0.38), (0.33, 0.4, 0.36)]
)
_GLASS = np.array([0.16, 0.19, 0.23])
_LIT = np.array([1.0, 0.8, 0.46])


@dataclass(frozen=True)
class Front:
    """A vertical rectangle in the world: the face of a house or wall.

    Args:
        origin: lower corner (3,) in metres.
        along: horizontal unit vector (3,).
        normal: unit vector (3,) out of the face.
        width, height: metres.
    """

    origin: np.ndarray
    along: np.ndarray
    normal: np.ndarray
    width: float
    height: float

    def points(self, s: np.ndarray, t: np.ndarray, out: float = 0.0) -> np.ndarray:
        """World points (..., 3): s metres along, t metres up, ``out`` metres in front."""
        local = np.empty((*np.broadcast(s, t).shape, 2))
        local[..., 0], local[..., 1] = s, t
        return local @ np.array([self.along, UP]) + (self.origin + out * self.normal)

    def boxes(self, s0, s1, t0, t1, out: float = 0.0) -> np.ndarray:
        """Rectangles (n, 4, 3) between s0…s1 and t0…t1, broadcast and flattened."""
        local = np.empty((*np.broadcast(s0, s1, t0, t1).shape, 4, 2))
        local[..., 0, 0] = local[..., 3, 0] = s0
        local[..., 1, 0] = local[..., 2, 0] = s1
        local[..., 0, 1] = local[..., 1, 1] = t0
        local[..., 2, 1] = local[..., 3, 1] = t1
        local = local.reshape(-1, 4, 2)
        return local @ np.array([self.along, UP]) + (self.origin + out * self.normal)

    def box(self, s0: float, s1: float, t0: float, t1: float, out: float = 0.0) -> np.ndarray:
        return self.boxes(s0, s1, t0, t1, out)[0]


@dataclass(frozen=True)
class House:
    """What all faces of one house share."""

    wall: np.ndarray
    trim: np.ndarray
    roof: np.ndarray
    joints: tuple[float, float]  # spacing of its masonry
    joint_contrast: float
    mottle: float
    storey: float
    bay: float
    window: tuple[float, float]  # width and height as shares of bay and storey
    shop: bool
    pitched: bool
    balconies: bool
    bands: bool
    shutters: np.ndarray | None


def random_house(rng: np.random.Generator) -> House:
    wall = np.clip(
        _WALLS[rng.integers(len(_WALLS))] * rng.uniform(0.95, 1.05, 3) * rng.uniform(0.88, 1.1),
        0.08,
        0.95,
    )
    joints = [(0.0, 0.0), (0.5, 0.24), (1.2, 0.6), (0.0, 0.3), (2.4, 3.0)][rng.integers(5)]
    trim = (np.full(3, 0.86), wall * 0.72, np.minimum(wall * 1.2, 0.95))[rng.integers(3)]
    shutters = rng.uniform(0.15, 0.6, 3) if rng.random() < 0.2 else None
    return House(
        wall=wall,
        trim=trim,
        roof=_ROOFS[rng.integers(len(_ROOFS))] * rng.uniform(0.8, 1.15),
        joints=joints,
        joint_contrast=rng.uniform(0.08, 0.25),
        mottle=rng.uniform(0.03, 0.13),
        storey=rng.uniform(2.8, 3.6),
        bay=rng.uniform(1.9, 3.2),
        window=(rng.uniform(0.35, 0.8), rng.uniform(0.42, 0.66)),
        shop=rng.random() < 0.35,
        pitched=rng.random() < 0.6,
        balconies=rng.random() < 0.18,
        bands=rng.random() < 0.4,
        shutters=shutters,
    )


def _start_wall(canvas: Canvas, front: Front, house: House) -> None:
    canvas.element(
        BUILDING,
        front.origin,
        front.normal,
        material=Material(
            along=(float(front.along[0]), float(front.along[2])),
            mottle=house.mottle,
            grain=0.05,
            joints=house.joints,
            joint_contrast=house.joint_contrast,
            light_falloff=0.22,
        ),
    )


def _start_fittings(canvas: Canvas, front: Front) -> None:
    """Windows, doors and signs share the wall's plane but not its masonry."""
    canvas.element(
        BUILDING, front.origin, front.normal, material=Material(mottle=0.03, light_falloff=0.22)
    )


def draw_front(
    canvas: Canvas, light: Light, rng: np.random.Generator, front: Front, house: House
) -> None:
    """A house front with its storeys of windows, and a shop or a door below."""
    _start_wall(canvas, front, house)
    wall = light.shade(house.wall, front.normal)
    if not canvas.polygon(front.box(0, front.width, 0, front.height), wall):
        return
    _start_fittings(canvas, front)
    trim = light.shade(house.trim, front.normal)
    ground = house.storey * 1.15 if house.shop else 0.0
    floors = max(1, int((front.height - ground - 0.3) / house.storey))
    bays = max(1, int(front.width / house.bay))
    storey = (front.height - ground - 0.3) / floors
    bay = front.width / bays
    if house.bands:
        levels = ground + storey * np.arange(floors + 1)
        canvas.polygons(front.boxes(0.0, front.width, levels - 0.12, levels + 0.1), trim)
    width, height = bay * house.window[0], storey * house.window[1]
    s = ((np.arange(bays) + 0.5) * bay - width / 2)[None, :]
    t = (ground + storey * np.arange(floors) + (storey - height) * 0.58)[:, None]
    _draw_windows(canvas, light, rng, front, house, s, t, width, height)
    canvas.polygon(
        front.box(0, front.width, front.height - 0.35, front.height, 0.05), trim * 0.9, mark=False
    )
    if house.shop:
        _draw_shop(canvas, light, rng, front, ground)
    else:
        plinth = light.shade(house.wall * 0.6, front.normal)
        canvas.polygon(front.box(0, front.width, 0, 0.55), plinth, mark=False)
        door = rng.integers(bays) * bay + bay / 2
        colour = light.shade(rng.uniform(0.08, 0.5, 3), front.normal)
        canvas.polygon(front.box(door - 0.75, door + 0.75, 0, 2.45), trim)
        canvas.polygon(front.box(door - 0.55, door + 0.55, 0, 2.25), colour)


def _draw_windows(canvas, light, rng, front, house, s, t, width, height) -> None:
    """Windows of one size, their lower left corners at s (1, n) and t (m, 1)."""
    frame = 0.09
    trim = light.shade(house.trim, front.normal)
    if house.shutters is not None:
        colour = light.shade(house.shutters, front.normal)
        leaf = width * 0.45
        canvas.polygons(front.boxes(s - leaf, s - 0.05, t, t + height), colour)
        canvas.polygons(front.boxes(s + width + 0.05, s + width + leaf, t, t + height), colour)
    edges = front.boxes(s - frame, s + width + frame, t - frame, t + height + frame)
    canvas.polygons(edges, trim, mark=True)
    # Glass mirrors the sky: mostly from high above, where it is darker.
    reflection = (light.zenith + light.horizon) * 0.5
    glass = light.diffuse(_GLASS, 0.0) * 0.5 + reflection * rng.uniform(0.08, 0.42)
    panes = front.boxes(s, s + width, t, t + height)
    lit = rng.random(len(panes)) < (0.4 if light.night else 0.02)
    canvas.polygons(panes[~lit], glass)
    upper = front.boxes(s, s + width, t + height * 0.62, t + height)
    canvas.polygons(upper[~lit], glass * 0.6 + reflection * 0.25)
    if lit.any():
        canvas.polygons(panes[lit], _LIT * rng.uniform(0.75, 1.0))
    middle = s + width / 2
    canvas.polygons(front.boxes(middle - 0.03, middle + 0.03, t, t + height), trim * 0.9)
    if house.balconies:
        colour = light.shade(house.trim * 0.5, front.normal)
        left, right = s - 0.3, s + width + 0.3
        canvas.polygons(
            front.boxes(left, right, t - 0.25, t + height * 0.45, 0.6), colour * 0.85, mark=True
        )
        canvas.polygons(
            front.boxes(left, right, t + height * 0.42, t + height * 0.5, 0.6), colour * 1.3
        )


def _draw_shop(canvas, light, rng, front: Front, top: float) -> None:
    glass = light.diffuse(_GLASS, 0.0) * 0.6 + light.horizon * 0.18
    if light.night or rng.random() < 0.3:
        glass = _LIT * rng.uniform(0.6, 0.95)
    frame = light.shade(rng.uniform(0.1, 0.5, 3), front.normal)
    canvas.polygon(front.box(0, front.width, 0, top), frame)
    panes = max(1, round(front.width / 2.4))
    s = (np.arange(panes) * front.width / panes) + 0.15
    canvas.polygons(front.boxes(s, s + front.width / panes - 0.3, 0.45, top - 0.9), glass)
    colour = 0.5 * rng.uniform(0.1, 0.85, 3) + 0.5 * rng.uniform(0.1, 0.6)
    sign = light.shade(colour, front.normal)
    canvas.polygon(front.box(0.2, front.width - 0.2, top - 0.75, top - 0.15), sign, mark=False)
    if rng.random() < 0.5:  # an awning slopes out over the pavement
        awning = 0.7 * rng.uniform(0.1, 0.85, 3) + 0.1
        edges = np.linspace(0.3, front.width - 0.3, 2 * panes + 2)
        up = UP * 0.8 + front.normal * 0.6
        for index, (a, b) in enumerate(pairwise(edges)):
            colour = light.shade(awning if index % 2 else np.full(3, 0.85), up)
            high = front.points(np.array([a, b]), np.array([top - 0.7] * 2), 0.05)
            low = front.points(np.array([b, a]), np.array([top - 1.25] * 2), 1.0)
            canvas.polygon(np.concatenate([high, low]), colour)


def draw_house(
    canvas: Canvas,
    light: Light,
    rng: np.random.Generator,
    side: int,
    x: float,
    z0: float,
    z1: float,
    height: float,
) -> None:
    """A house whose front stands in the plane X = x, on the right (side 1) or the left (-1)."""
    house = random_house(rng)
    inward = np.array([-float(side), 0.0, 0.0])
    along = np.array([0.0, 0.0, 1.0])
    depth = rng.uniform(8.0, 12.0)
    toward = np.array([0.0, 0.0, -1.0])
    roof_height = rng.uniform(2.0, 4.0) if house.pitched else 0.0
    roof_normal = UP * 0.75 + inward * 0.66

    def corner(out: float, y: float, z: float) -> tuple[float, float, float]:
        return (x + side * out, y, z)

    gable = [corner(0, 0, z0), corner(depth, 0, z0), corner(depth, height, z0)]
    if house.pitched:
        gable.append(corner(depth / 2, height + roof_height, z0))
    gable.append(corner(0, height, z0))
    end = Front(np.array(corner(0, 0, z0)), np.array([float(side), 0, 0]), toward, depth, height)
    _start_wall(canvas, end, house)
    if canvas.polygon(np.array(gable), light.shade(house.wall * 0.92, toward)):
        _start_fittings(canvas, end)
        t = np.arange(0.9, height - 1.9, house.storey)[:, None]
        s = depth * np.array([[0.22, 0.6]])
        _draw_windows(canvas, light, rng, end, house, s, t, 1.1, 1.4)
    if house.pitched:
        eaves, ridge = -0.35, depth / 2
        canvas.element(
            BUILDING,
            corner(0, height, z0),
            roof_normal,
            material=Material(
                along=(0.0, 1.0), mottle=0.15, grain=0.1, joints=(0.0, 0.35), joint_contrast=0.25
            ),
        )
        canvas.polygon(
            np.array(
                [
                    corner(eaves, height - 0.15, z0 - 0.2),
                    corner(eaves, height - 0.15, z1),
                    corner(ridge, height + roof_height, z1),
                    corner(ridge, height + roof_height, z0 - 0.2),
                ]
            ),
            light.shade(house.roof, roof_normal),
        )
        if rng.random() < 0.5:
            _draw_chimney(
                canvas, light, house, x + side * depth * 0.35, height + roof_height, z0, z1
            )
    front = Front(np.array([x, 0.0, z0]), along, inward, z1 - z0, height)
    draw_front(canvas, light, rng, front, house)


def _draw_chimney(canvas, light, house, x, top, z0, z1) -> None:
    z = z0 + (z1 - z0) * 0.4
    if canvas.camera.depth(x, z) < 4.0:
        return
    side, width = float(np.sign(x)), 0.8
    faces = (
        Front(
            np.array([x, top - 1.2, z]), np.array([side, 0, 0]), np.array([0, 0, -1.0]), width, 2
        ),
        Front(
            np.array([x, top - 1.2, z]), np.array([0, 0, 1.0]), np.array([-side, 0, 0]), width, 2
        ),
    )
    for face in faces:
        colour = light.shade(house.wall * 0.8, face.normal)
        canvas.polygon(face.box(0, width, 0, face.height), colour)


def cast_house_shadow(
    canvas: Canvas, light: Light, side: int, x: float, z0: float, z1: float, height: float
) -> None:
    """Shadow of a house on the street."""
    dx, dz = light.shadow_offset() * height
    if dx * side >= 0:  # it falls away from the street
        return
    canvas.ground_shadow(
        np.array([(x, 0, z0), (x, 0, z1), (x + dx, 0, z1 + dz), (x + dx, 0, z0 + dz)])
    )

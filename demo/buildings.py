"""Houses along a street."""

from itertools import pairwise

import numpy as np

from .canvas import BUILDING, TOWARD, UP, Canvas
from .light import palette

_WALLS = palette("""
    ccbda3 dbc794 9e5742 8a4c3d b88f6b d6ad94 c79961 8a705c e0d6c2 b27561 a8664c c2a885 8c8c8c
    9ea8b2 999e85
""")
_ROOFS = palette("8c4533 61332b 4c4f57 6b6661 54665c")
_GLASS, _LIT = palette("29303b ffcc75")
_JOINTS = ((0.0, 0.0), (0.5, 0.24), (1.2, 0.6), (0.0, 0.3), (2.4, 3.0))  # along, up


class Wall:
    """A vertical rectangle in the world, painted on in its own metres: s along it, t up it.

    ``origin`` is its lower corner, ``along`` and ``normal`` (out of it) are unit vectors.
    """

    def __init__(self, canvas: Canvas, origin, along, normal, width: float, height: float) -> None:
        self.canvas, self.width, self.height = canvas, width, height
        self.origin, self.along, self.normal = (np.array(v) for v in (origin, along, normal))

    def lit(self, colour) -> np.ndarray:
        return self.canvas.light.shade(colour, self.normal)

    def element(self, label: int, **texture) -> None:
        self.canvas.element(label, self.origin, self.normal, **texture)

    def paint(self, s, t, colour: np.ndarray, out=0.0) -> bool:
        """Paint polygons with corners s, t (..., n), ``out`` metres in front of the wall."""
        s, t, out = (np.asarray(value)[..., None] for value in np.broadcast_arrays(s, t, out))
        points = self.origin + s * self.along + t * UP + out * self.normal
        return self.canvas.paint(points, colour)

    def boxes(self, s0, s1, t0, t1, colour: np.ndarray, out: float = 0.0) -> bool:
        """Paint rectangles between s0…s1 and t0…t1, which are broadcast."""
        s0, s1, t0, t1 = np.broadcast_arrays(s0, s1, t0, t1)
        s, t = np.stack([s0, s1, s1, s0], -1), np.stack([t0, t0, t1, t1], -1)
        return self.paint(s, t, colour, out)

    def below(self, s, t, colour: np.ndarray) -> None:
        """Paint what lies below a line through points s, t (n,)."""
        self.paint([*s, s[-1], s[0]], [*t, 0, 0], colour)


class House:
    """What all walls of one house share, drawn at random."""

    def __init__(self, rng: np.random.Generator) -> None:
        colour = rng.choice(_WALLS) * rng.uniform(0.95, 1.05, 3)
        self.wall = np.clip(colour * rng.uniform(0.88, 1.1), 0.08, 0.95)
        along, up = rng.choice(_JOINTS)
        self.masonry = {"joints_along": along, "joints_up": up, "grain": 0.05, "falloff": 0.22}
        self.trim = (np.full(3, 0.86), self.wall * 0.72, self.wall * 1.2)[rng.integers(3)]
        self.shutters = rng.uniform(0.15, 0.6, 3) if rng.random() < 0.2 else None
        self.roof = rng.choice(_ROOFS) * rng.uniform(0.8, 1.15)
        self.masonry["joint_contrast"] = rng.uniform(0.08, 0.25)
        self.masonry["mottle"] = rng.uniform(0.03, 0.13)
        self.storey, self.bay = rng.uniform(2.8, 3.6), rng.uniform(1.9, 3.2)
        # Width and height of the windows, as shares of bay and storey.
        self.window = rng.uniform(0.35, 0.8), rng.uniform(0.42, 0.66)
        self.shop, self.pitched = rng.random() < 0.35, rng.random() < 0.6
        self.balconies, self.bands = rng.random() < 0.18, rng.random() < 0.4


def draw_front(wall: Wall, house: House) -> None:
    """A house front with its storeys of windows, and a shop or a door below."""
    rng, width, height = wall.canvas.rng, wall.width, wall.height
    wall.element(BUILDING, **house.masonry)
    if not wall.boxes(0, width, 0, height, wall.lit(house.wall)):
        return
    wall.element(BUILDING, mottle=0.03, falloff=0.22)  # no masonry
    trim, ground = wall.lit(house.trim), house.storey * 1.15 if house.shop else 0.0
    floors = max(1, int((height - ground - 0.3) / house.storey))
    bays = max(1, int(width / house.bay))
    storey, bay = (height - ground - 0.3) / floors, width / bays
    if house.bands:
        levels = ground + storey * np.arange(floors + 1)
        wall.boxes(0.0, width, levels - 0.12, levels + 0.1, trim)
    size = bay * house.window[0], storey * house.window[1]
    s = (np.arange(bays) + 0.5) * bay - size[0] / 2
    t = ground + storey * np.arange(floors) + (storey - size[1]) * 0.58
    _draw_windows(wall, house, s, t, *size)
    wall.boxes(0, width, height - 0.35, height, trim * 0.9, out=0.05)
    if house.shop:
        _draw_shop(wall, ground)
    else:
        wall.boxes(0, width, 0, 0.55, wall.lit(house.wall * 0.6))
        door = (rng.integers(bays) + 0.5) * bay
        wall.boxes(door - 0.75, door + 0.75, 0, 2.45, trim)
        wall.boxes(door - 0.55, door + 0.55, 0, 2.25, wall.lit(rng.uniform(0.08, 0.5, 3)))


def _draw_windows(wall: Wall, house: House, s, t, width: float, height: float) -> None:
    """Windows of one size, their lower left corners at all of s (n,) and t (m,)."""
    light, rng, trim = wall.canvas.light, wall.canvas.rng, wall.lit(house.trim)
    s, t = (corner.ravel() for corner in np.meshgrid(s, t))
    right, top = s + width, t + height
    if house.shutters is not None:
        for left in (s - width * 0.45, right + 0.05):
            wall.boxes(left, left + width * 0.45 - 0.05, t, top, wall.lit(house.shutters))
    wall.boxes(s - 0.09, right + 0.09, t - 0.09, top + 0.09, trim)
    # Glass mirrors the sky: mostly from high above, where it is darker.
    reflection = (light.zenith + light.horizon) * 0.5
    glass = light.diffuse(_GLASS, 0.0) * 0.5 + reflection * rng.uniform(0.08, 0.42)
    lamps = rng.random(s.shape) < (0.4 if light.night else 0.02)
    wall.boxes(s, right, t, top, glass)
    wall.boxes(s, right, t + height * 0.62, top, glass * 0.6 + reflection * 0.25)
    if lamps.any():
        wall.boxes(s[lamps], right[lamps], t[lamps], top[lamps], _LIT * rng.uniform(0.75, 1.0))
    wall.boxes(s + width / 2 - 0.03, s + width / 2 + 0.03, t, top, trim * 0.9)
    if house.balconies:
        colour, rail = wall.lit(house.trim * 0.5), t + height * 0.45
        wall.boxes(s - 0.3, right + 0.3, t - 0.25, rail, colour * 0.85, out=0.6)
        wall.boxes(s - 0.3, right + 0.3, rail - 0.05, rail + 0.07, colour * 1.3, out=0.6)


def _draw_shop(wall: Wall, top: float) -> None:
    light, rng, width = wall.canvas.light, wall.canvas.rng, wall.width
    glass = light.diffuse(_GLASS, 0.0) * 0.6 + light.horizon * 0.18
    if light.night or rng.random() < 0.3:
        glass = _LIT * rng.uniform(0.6, 0.95)
    wall.boxes(0, width, 0, top, wall.lit(rng.uniform(0.1, 0.5, 3)))
    edges = np.linspace(0, width, max(1, round(width / 2.4)) + 1)
    wall.boxes(edges[:-1] + 0.15, edges[1:] - 0.15, 0.45, top - 0.9, glass)
    sign = 0.5 * rng.uniform(0.1, 0.85, 3) + 0.5 * rng.uniform(0.1, 0.6)
    wall.boxes(0.2, width - 0.2, top - 0.75, top - 0.15, wall.lit(sign))
    if rng.random() < 0.5:  # an awning slopes out over the pavement
        stripes = np.full(3, 0.85), 0.7 * rng.uniform(0.1, 0.85, 3) + 0.1
        ends = np.linspace(0.3, width - 0.3, 2 * len(edges))
        for index, (a, b) in enumerate(pairwise(ends)):
            colour = light.shade(stripes[index % 2], UP * 0.8 + wall.normal * 0.6)
            low, high = top - 1.25, top - 0.7
            wall.paint([a, b, b, a], [high, high, low, low], colour, out=[0.05, 0.05, 1.0, 1.0])


def draw_house(canvas: Canvas, side: int, x: float, z0: float, z1: float, height: float) -> None:
    """A house whose front stands in the plane X = x, on the right (side 1) or the left (-1)."""
    rng, light = canvas.rng, canvas.light
    house = House(rng)
    inward, outward, along = (np.array(v) for v in ((-side, 0, 0), (side, 0, 0), (0, 0, 1)))
    depth = rng.uniform(8.0, 12.0)
    ridge = height + (rng.uniform(2.0, 4.0) if house.pitched else 0.0)

    end = Wall(canvas, (x, 0, z0), outward, TOWARD, depth, height)
    end.element(BUILDING, **house.masonry)
    gable = [0, depth, depth, depth / 2, 0], [0, 0, height, ridge, height]
    if end.paint(*gable, end.lit(house.wall * 0.92)):
        end.element(BUILDING, mottle=0.03, falloff=0.22)
        levels = np.arange(0.9, height - 1.9, house.storey)
        _draw_windows(end, house, depth * np.array([0.22, 0.6]), levels, 1.1, 1.4)
    if house.pitched:
        tiles = {"mottle": 0.15, "grain": 0.1, "joints_up": 0.35, "joint_contrast": 0.25}
        slope = UP * 0.75 + inward * 0.66
        canvas.element(BUILDING, (x, height, z0), slope, **tiles)
        low, high = (x - side * 0.35, height - 0.15), (x + side * depth / 2, ridge)
        corners = [(*low, z0 - 0.2), (*low, z1), (*high, z1), (*high, z0 - 0.2)]
        canvas.paint(corners, light.shade(house.roof, slope))
        if rng.random() < 0.5:  # a chimney
            foot = (x + side * depth * 0.35, ridge - 1.2, z0 + (z1 - z0) * 0.4)
            for along_face, normal in ((outward, TOWARD), (along, inward)):
                face = Wall(canvas, foot, along_face, normal, 0.8, 2.0)
                face.boxes(0, face.width, 0, face.height, face.lit(house.wall * 0.8))
    draw_front(Wall(canvas, (x, 0, z0), along, inward, z1 - z0, height), house)

    dx, dz = light.shadow * height
    if dx * side < 0:  # the shadow falls on the street
        canvas.shade_ground([(x, 0, z0), (x, 0, z1), (x + dx, 0, z1 + dz), (x + dx, 0, z0 + dz)])

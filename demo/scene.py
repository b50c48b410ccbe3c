"""A street scene: where things stand, and in which order they are drawn."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .buildings import draw_house
from .canvas import PAVEMENT, ROAD, SKY, SUPERSAMPLING, UP, Camera, Canvas, ground_ellipse
from .cars import SHAPE_ODDS, SHAPES, draw_car
from .finish import finish
from .greenery import draw_garden, draw_street_end, draw_tree
from .light import Light
from .people import draw_person
from .poles import draw_pole

MIN_SIDE = 32  # pixels
_KERB = 0.12  # metres from the road up to the pavement


class Scene(NamedTuple):
    """A rendered scene."""

    image: np.ndarray  # RGB, uint8 (H, W, 3)
    semantic: np.ndarray  # indices into DEMO_CLASSES, uint8 (H, W); every pixel has a class
    instance: np.ndarray  # int32 (H, W): 1, 2, … for the cars and people that are seen, else 0
    # {"distance": metres, "color": a car's, else None} of instances 1, 2, …, seen or not
    objects: Sequence[dict] = ()


def render_scene(seed: int, height: int, width: int) -> Scene:
    """Render the street scene of a seed (any integer from 0), of a size in pixels.

    The same arguments give the same labels everywhere, and the same image up to the rounding of
    the machine's arithmetic. What is seen scales with the height; a wider picture shows more to
    both sides.

    Raises:
        ValueError: the seed is negative, or a side below 32.
    """
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"height and width must be {MIN_SIDE} or more, not {height}x{width}")
    street = _Street(np.random.Generator(np.random.PCG64(seed)), height, width)
    street.draw_ground()
    draw_street_end(street.canvas, street.wall, street.end)
    for side in (-1, 1):
        street.draw_side(side)
    street.place_cars()
    street.place_poles()
    street.place_people()
    street.place_trees()
    objects = street.draw_objects()
    return Scene(*finish(street.canvas), objects)


class _Street:
    """A street of random measures in metres, the camera on it, and what stands on it."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng, self.light = rng, Light(rng)
        self.road = rng.uniform(2.7, 4.2)  # half its width
        self.wall = self.road + rng.uniform(3.0, 4.6)  # from the road's middle to the houses
        self.end = rng.uniform(30.0, 55.0)
        traffic = int(rng.choice([-1, 1], p=[0.3, 0.7]))
        self.heading = {traffic: 0.0, -traffic: math.pi}  # of the cars on either side
        self.taken: list[tuple[float, ...]] = []  # rectangles: x, z, half their sides
        self.objects: list[tuple] = []  # functions that draw, x, z, and their other arguments

        rows, columns = height * SUPERSAMPLING, width * SUPERSAMPLING
        if rng.random() < 0.2:  # seen from the pavement
            x = float(rng.choice([-1, 1])) * (0.65 * self.road + 0.35 * self.wall)
        else:
            x = rng.uniform(-0.6, 0.6) * self.road
        # Look towards the farther side of the street more often than not.
        yaw = float(np.clip(rng.normal(-0.03 * x, 0.1), -0.26, 0.26))
        focal = rows * rng.uniform(0.98, 1.25)
        cx = columns * 0.5 + rows * rng.uniform(-0.08, 0.08)
        horizon = rows * rng.uniform(0.36, 0.48)
        self.camera = Camera(focal, cx, horizon, (x, rng.uniform(2.0, 3.0), 0.0), yaw)
        self.canvas = Canvas(self.camera, self.light, rng, height, width)

    def draw_ground(self) -> None:
        """The sky all over the picture, then pavements and road."""
        light, rng, paint = self.light, self.rng, self.canvas.paint
        self.canvas.element(SKY)
        rise = 1.0 - np.arange(len(self.canvas.rgb))[:, None] / self.camera.horizon
        sky = light.horizon + np.clip(rise, 0.0, 1.0) ** 0.75 * (light.zenith - light.horizon)
        self.canvas.rgb[:] = np.clip(np.round(sky * 255), 0, 255)[:, None]

        z = (-4.0, self.end + 6.0)
        stone = np.array([0.8, 0.72, 0.6]) * rng.uniform(0.95, 1.15) * rng.uniform(0.97, 1.03, 3)
        if rng.random() < 0.2:  # red or yellow paving
            stone = rng.choice([(0.62, 0.44, 0.36), (0.68, 0.6, 0.44)])
        slab = rng.choice([0.5, 0.8, 1.2])
        paving = {"joints_along": slab, "joints_up": slab * rng.choice([1.0, 1.5])}
        paving |= {"joint_contrast": rng.uniform(0.15, 0.4), "mottle": 0.1, "grain": 0.07}
        self.canvas.element(PAVEMENT, (0, _KERB, 0), UP, size=6.0, **paving)
        paint(_strip(-80, 80, *z, _KERB), light.shade(stone, UP))
        kerb = light.shade(0.62 * rng.uniform(0.85, 1.15), UP)
        edges = [(side * self.road, side * (self.road + 0.2)) for side in (-1, 1)]
        paint([_strip(*edge, *z, _KERB) for edge in edges], kerb)

        asphalt = np.array([0.26, 0.27, 0.3]) * rng.uniform(0.8, 1.15) * rng.uniform(0.96, 1.04, 3)
        mottle = rng.uniform(0.04, 0.11)
        self.canvas.element(ROAD, (0, 0, 0), UP, mottle=mottle, grain=0.08, size=9.0)
        paint(_strip(-self.road, self.road, *z), light.shade(asphalt, UP))
        self._draw_markings(asphalt, z)
        for side in (-1, 1):  # the face of the kerb, after the road that it may hide
            edge, inward = side * self.road, np.array([-side, 0.0, 0.0])
            if (self.camera.position[0] - edge) * side < 0:
                self.canvas.element(PAVEMENT, (edge, 0, 0), inward, grain=0.05)
                face = [(edge, 0, z[0]), (edge, _KERB, z[0]), (edge, _KERB, z[1]), (edge, 0, z[1])]
                paint(face, light.shade(0.45, inward))

    def _draw_markings(self, asphalt: np.ndarray, z: tuple[float, float]) -> None:
        """What is painted on the road between two z, and what mars its surface."""
        rng, half = self.rng, self.road

        def mark(colour, *strips: tuple[float, float, float, float]) -> None:
            for strip in strips:
                self.canvas.paint(_strip(*strip), self.light.shade(colour, UP))

        if rng.random() < 0.18:  # a cycle lane
            side = rng.choice([-1, 1])
            lane = rng.choice([(0.5, 0.24, 0.2), (0.24, 0.4, 0.26), (0.26, 0.34, 0.48)])
            mark(lane, (side * (half - 1.5), side * half, *z))
        for _ in range(rng.integers(0, 4)):  # repaired patches
            x, middle = rng.uniform(-half, half), rng.uniform(4, 25)
            wide, long = rng.uniform(0.3, 1.2), rng.uniform(0.6, 3.0)
            patch = max(-half, x - wide), min(half, x + wide), middle - long, middle + long
            mark(asphalt * rng.uniform(0.75, 1.2), patch)
        white = rng.uniform(0.62, 0.9)
        kind = rng.choice(["dashed", "solid", "double", "none"], p=[0.5, 0.17, 0.15, 0.18])
        colour = (0.82, 0.64, 0.16) if rng.random() < 0.25 else white
        x = rng.uniform(-0.3, 0.3) - 0.07
        if kind == "dashed":
            starts = np.arange(rng.uniform(0, 4), 45, 4.4)
            mark(colour, *((x, x + 0.14, start, start + 2.2) for start in starts))
        else:
            offsets = {"solid": (0.0,), "double": (-0.14, 0.14), "none": ()}[kind]
            mark(colour, *((x + offset, x + offset + 0.14, *z) for offset in offsets))
        for side in (-1, 1):
            if rng.random() < 0.4:
                line = half - rng.choice([0.25, 2.1])
                mark(white, (side * line, side * (line - 0.11), *z))
            if rng.random() < 0.5:  # gutter
                mark(asphalt * 0.8, (side * (half - 0.3), side * half, *z))
        if rng.random() < 0.35:  # zebra crossing
            start, lefts = rng.uniform(5.0, 15.0), np.arange(-half + 0.3, half - 0.5, 1.0)
            mark(white, *((left, left + 0.5, start, start + 2.6) for left in lefts))
        for _ in range(rng.integers(0, 3)):  # manhole covers
            centre = (rng.uniform(-half, half) * 0.8, rng.uniform(4, 14))
            cover = ground_ellipse(centre, (0.35, 0.35), 0.0)
            self.canvas.paint(cover, self.light.shade(asphalt * 0.6, UP))

    def draw_side(self, side: int) -> None:
        """Houses and gardens along one side, the farthest first."""
        rng, lots = self.rng, []
        dense = rng.choice([0.35, 0.7, 0.92], p=[0.25, 0.45, 0.3])
        tall, z = rng.uniform(4.5, 13.0), rng.uniform(-8.0, -2.0)
        while z < self.end:
            length = rng.uniform(8.0, 16.0)
            lots.append((z, z + length, rng.random() < dense, tall * rng.uniform(0.75, 1.3)))
            z += length
        for z0, z1, built, height in reversed(lots):
            if built:
                draw_house(self.canvas, side, side * self.wall, z0, z1, height)
            else:
                draw_garden(self.canvas, side, side * self.wall, z0, z1)

    def take(self, x: float, z: float, half_x: float, half_z: float, margin: float) -> bool:
        """Reserve a rectangle around (x, z), if it is in sight and nothing stands there yet.

        (x, z) may lie outside of the picture by ``margin`` times its width.
        """
        view = self.camera.view((x, 0.0, z))
        if view[2] < 2.5:
            return False
        column = self.camera.image(view)[0] / self.canvas.rgb.shape[1]
        middles, halves = np.reshape(self.taken, (-1, 2, 2)).swapaxes(0, 1)
        overlap = (np.abs(middles - (x, z)) < halves + (half_x, half_z)).all(axis=1)
        if not -margin < column < 1 + margin or overlap.any():
            return False
        self.taken.append((x, z, half_x, half_z))
        return True

    def place_cars(self) -> None:
        rng = self.rng
        if rng.random() < 0.16:  # across the street
            heading = rng.choice([-1, 1]) * math.pi / 2
            self._place_car(rng.uniform(-1.5, 1.5), rng.uniform(8.5, 14.0), heading)
        for side in (-1, 1):
            room = self.road > 3.6 or self.heading[side] == 0.0
            z = rng.uniform(4.0, 10.0) if room and rng.random() > 0.2 else math.inf
            while z < 16.0:  # parked at the kerb
                if rng.random() < 0.7:
                    x = side * (self.road - rng.uniform(1.05, 1.2))
                    self._place_car(x, z, self.heading[side])
                z += rng.uniform(4.8, 7.5)
        moving = 0
        for _ in range(8):
            side = int(rng.choice([-1, 1]))
            x = side * max(0.0, self.road * 0.5 + rng.uniform(-0.8, 0.2))
            moving += self._place_car(x, rng.uniform(7.0, 14.0), self.heading[side])
            if moving >= 2:
                break

    def _place_car(self, x: float, z: float, heading: float) -> bool:
        heading += self.rng.normal(0.0, 0.02)
        shape = SHAPES[self.rng.choice(len(SHAPES), p=SHAPE_ODDS)]
        half_x, half_z = shape.width / 2, shape.length / 2
        if abs(math.sin(heading)) > 0.7:
            half_x, half_z = half_z, half_x
        # The camera's own place stays free, and nothing stands right before it.
        clear = 3.6 if abs(x - self.camera.position[0]) > half_x + 0.7 else 6.0
        if z - half_z < clear or not self.take(x, z, half_x + 0.3, half_z + 0.5, margin=0.25):
            return False
        self.objects.append((draw_car, x, z, heading, shape))
        return True

    def place_poles(self) -> None:
        rng, wanted = self.rng, int(self.rng.integers(1, 3))
        for _ in range(40):
            x = int(rng.choice([-1, 1])) * (self.road + rng.uniform(0.35, 0.6))
            z = rng.uniform(3.6, 6.2)
            if self.take(x, z, 0.7, 0.5, margin=-0.03):
                kind = rng.choice(["lamp", "signal", "sign"], p=[0.4, 0.2, 0.4])
                self.objects.append((draw_pole, x, z, _KERB, kind))
                wanted -= 1
            if wanted == 0:
                break

    def place_people(self) -> None:
        rng, wanted = self.rng, int(self.rng.integers(2, 4))
        for _ in range(80):
            side, crossing = int(rng.choice([-1, 1])), rng.random() < 0.12
            low, high = (-0.8, 0.8) if crossing else (self.road + 0.5, self.wall - 0.5)
            x, z = rng.uniform(low, high) * (self.road if crossing else side), rng.uniform(3.4, 5.8)
            if self.take(x, z, 0.5, 0.6, margin=-0.01):
                height = rng.uniform(1.6, 1.95)
                height *= rng.uniform(0.65, 0.8) if rng.random() < 0.1 else 1.0  # a child
                self.objects.append((draw_person, x, z, 0.0 if crossing else _KERB, height))
                wanted -= 1
            if wanted == 0:
                break

    def place_trees(self) -> None:
        for side in (-1, 1):
            z = self.rng.uniform(8.0, 14.0) if self.rng.random() > 0.6 else math.inf
            while z < 24.0:
                x = side * (self.road + self.rng.uniform(0.6, 0.9))
                if self.take(x, z, 0.4, 0.4, margin=0.2):
                    self.objects.append((draw_tree, x, z, _KERB))
                z += self.rng.uniform(8.0, 14.0)

    def draw_objects(self) -> list[dict]:
        """Whatever was placed, the farthest first; what :class:`Scene` says about its instances."""
        self.light.headlamps = self.light.night or self.rng.random() < 0.15
        known = []
        for draw, *details in sorted(self.objects, key=lambda o: -self.camera.depth(*o[1:3])):
            if draw in (draw_car, draw_person):
                color = draw(self.canvas, *details, len(known) + 1)
                distance = float(self.camera.depth(*details[:2]))
                known.append({"distance": round(distance, 2), "color": color})
            else:
                draw(self.canvas, *details)
        return known


def _strip(x0: float, x1: float, z0: float, z1: float, y: float = 0.0) -> np.ndarray:
    """A rectangle (4, 3) on the ground."""
    return np.array([(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)])

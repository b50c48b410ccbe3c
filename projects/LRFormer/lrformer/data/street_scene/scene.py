"""A street scene: where things stand, and in which order they are drawn."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .buildings import cast_house_shadow, draw_house
from .canvas import SUPERSAMPLING, UP, Camera, Canvas, Material, ground_ellipse
from .cars import draw_car, random_shape
from .classes import PAVEMENT, ROAD, SKY
from .finish import finish, visible_elements
from .greenery import draw_garden, draw_street_end
from .light import Light, random_light
from .people import draw_person
from .plants import draw_tree
from .poles import draw_pole

MIN_SIDE = 32  # pixels
_KERB = 0.12  # metres from the road up to the pavement


class Scene(NamedTuple):
    """A rendered scene.

    Attributes:
        image: RGB, uint8 (H, W, 3).
        semantic: indices into ``CLASSES``, uint8 (H, W); every pixel has a class.
        instance: number of the object that the pixel shows, int32 (H, W): 1, 2, … for the visible
            pixels of cars and people, 0 elsewhere.
    """

    image: np.ndarray
    semantic: np.ndarray
    instance: np.ndarray


class _Street:
    """Measures of one street, and what already stands on it."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.road = rng.uniform(2.7, 4.2)  # half its width
        self.pavement = rng.uniform(3.0, 4.6)
        self.end = rng.uniform(30.0, 55.0)
        self.traffic = int(rng.choice([-1, 1], p=[0.3, 0.7]))  # side on which cars drive
        self.taken: list[tuple[float, float, float, float]] = []

    @property
    def wall(self) -> float:
        """Distance of the house fronts from the middle of the road."""
        return self.road + self.pavement

    def take(self, x: float, z: float, half_x: float, half_z: float) -> bool:
        """Reserve a rectangle of ground if nothing stands there yet."""
        for x1, z1, half_x1, half_z1 in self.taken:
            if abs(x - x1) < half_x + half_x1 and abs(z - z1) < half_z + half_z1:
                return False
        self.taken.append((x, z, half_x, half_z))
        return True


def render_scene(seed: int, height: int, width: int) -> Scene:
    """Render the street scene of a seed.

    The same arguments give the same labels everywhere, and the same image up to the rounding of
    the machine's arithmetic.

    Args:
        seed: any integer from 0.
        height, width: size in pixels, at least 32. What is seen scales with the height; a wider
            picture shows more to both sides.

    Raises:
        ValueError: the seed is negative or the picture too small.
    """
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")
    if min(height, width) < MIN_SIDE:
        raise ValueError(
            f"a scene needs at least {MIN_SIDE}x{MIN_SIDE} pixels, not {height}x{width}"
        )
    rng = np.random.Generator(np.random.PCG64(seed))
    light = random_light(rng)
    street = _Street(rng)
    camera = _random_camera(rng, street, height, width)
    canvas = Canvas(camera, height, width)
    _draw_backdrop(canvas, light)
    _draw_ground(canvas, light, rng, street)
    draw_street_end(canvas, light, rng, street.wall, street.end)
    for side in (-1, 1):
        _draw_side(canvas, light, rng, street, side)
    _draw_objects(canvas, light, rng, street, width * SUPERSAMPLING)

    elements = visible_elements(canvas)
    image = finish(canvas, light, rng, elements)
    semantic = np.array(canvas.classes, np.uint8)[elements]
    instance = np.array(canvas.instances, np.int32)[elements]
    return Scene(image, semantic, instance)


def _random_camera(rng: np.random.Generator, street: _Street, height: int, width: int) -> Camera:
    rows, columns = height * SUPERSAMPLING, width * SUPERSAMPLING
    if rng.random() < 0.2:  # from the pavement
        x = float(rng.choice([-1, 1])) * (street.road + 0.35 * street.pavement)
    else:
        x = rng.uniform(-0.6, 0.6) * street.road
    # Look towards the farther side of the street more often than not.
    yaw = float(np.clip(rng.normal(-0.03 * x, 0.1), -0.26, 0.26))
    return Camera(
        focal=rows * rng.uniform(0.98, 1.25),
        cx=columns * 0.5 + rows * rng.uniform(-0.08, 0.08),
        horizon=rows * rng.uniform(0.36, 0.48),
        x=x,
        y=rng.uniform(2.0, 3.0),
        yaw=yaw,
    )


def _draw_backdrop(canvas: Canvas, light: Light) -> None:
    """The gradient of the sky, everywhere."""
    canvas.element(SKY)
    rows = canvas.rgb.shape[0]
    rise = np.clip((canvas.camera.horizon - np.arange(rows)) / canvas.camera.horizon, 0.0, 1.0)
    share = (rise**0.75)[:, None]
    colours = light.horizon + share * (light.zenith - light.horizon)
    canvas.rgb[:] = np.clip(np.round(colours * 255), 0, 255).astype(np.uint8)[:, None]


def _strip(x0: float, x1: float, z0: float, z1: float, y: float = 0.0) -> np.ndarray:
    return np.array([(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)])


def _draw_ground(canvas: Canvas, light: Light, rng: np.random.Generator, street: _Street) -> None:
    near, far = -4.0, street.end + 6.0
    stone = np.array([0.8, 0.72, 0.6]) * rng.uniform(0.95, 1.15) * rng.uniform(0.97, 1.03, 3)
    if rng.random() < 0.2:  # red or yellow paving
        stone = np.array([(0.62, 0.44, 0.36), (0.68, 0.6, 0.44)][rng.integers(2)])
    slab = rng.choice([0.5, 0.8, 1.2])
    paving = Material(
        flat=True,
        mottle=0.1,
        grain=0.07,
        size=6.0,
        joints=(slab, slab * rng.choice([1.0, 1.5])),
        joint_contrast=rng.uniform(0.15, 0.4),
    )
    canvas.element(PAVEMENT, (0, _KERB, 0), UP, material=paving)
    canvas.polygon(_strip(-80, 80, near, far, _KERB), light.shade(stone, UP))
    kerb = light.shade(np.full(3, 0.62) * rng.uniform(0.85, 1.15), UP)
    for side in (-1, 1):
        edge = side * street.road
        canvas.polygon(_strip(edge, edge + side * 0.2, near, far, _KERB), kerb, mark=False)

    asphalt = np.array([0.26, 0.27, 0.3]) * rng.uniform(0.8, 1.15) * rng.uniform(0.96, 1.04, 3)
    canvas.element(
        ROAD,
        (0, 0, 0),
        UP,
        material=Material(flat=True, mottle=rng.uniform(0.04, 0.11), grain=0.08, size=9.0),
    )
    canvas.polygon(_strip(-street.road, street.road, near, far), light.shade(asphalt, UP))
    _draw_road_surface(canvas, light, rng, street, asphalt, near, far)
    for side in (-1, 1):  # the face of the kerb, after the road that it may hide
        edge = side * street.road
        face = np.array([(edge, 0, near), (edge, _KERB, near), (edge, _KERB, far), (edge, 0, far)])
        inward = np.array([-float(side), 0.0, 0.0])
        if (canvas.camera.x - edge) * side < 0:
            canvas.element(
                PAVEMENT, (edge, 0, 0), inward, material=Material(along=(0, 1), grain=0.05)
            )
            canvas.polygon(face, light.shade(np.full(3, 0.45), inward))


def _draw_road_surface(canvas, light, rng, street, asphalt, near, far) -> None:
    def paint(points: np.ndarray, colour: np.ndarray) -> None:
        canvas.polygon(points, light.shade(colour, UP), mark=False)

    def paint_all(strips: list[np.ndarray], colour: np.ndarray) -> None:
        for strip in strips:
            paint(strip, colour)

    half = street.road
    if rng.random() < 0.18:  # a cycle lane
        side = rng.choice([-1, 1])
        lane = np.array([(0.5, 0.24, 0.2), (0.24, 0.4, 0.26), (0.26, 0.34, 0.48)][rng.integers(3)])
        paint(_strip(side * (half - 1.5), side * half, near, far), lane)
    for _ in range(rng.integers(0, 4)):  # repaired patches
        x, z = rng.uniform(-half, half), rng.uniform(4, 25)
        size = rng.uniform(0.3, 1.2), rng.uniform(0.6, 3.0)
        shade = rng.uniform(0.75, 1.2)
        strip = _strip(max(-half, x - size[0]), min(half, x + size[0]), z - size[1], z + size[1])
        paint(strip, asphalt * shade)
    white = np.full(3, rng.uniform(0.62, 0.9))
    yellow = np.array([0.82, 0.64, 0.16])
    centre_line = rng.choice(["dashed", "solid", "double", "none"], p=[0.5, 0.17, 0.15, 0.18])
    colour = yellow if rng.random() < 0.25 else white
    middle = rng.uniform(-0.3, 0.3)
    if centre_line == "dashed":
        start = rng.uniform(0, 4)
        paint_all(
            [_strip(middle - 0.07, middle + 0.07, z, z + 2.2) for z in np.arange(start, 45, 4.4)],
            colour,
        )
    elif centre_line != "none":
        for offset in (0.0,) if centre_line == "solid" else (-0.14, 0.14):
            paint(_strip(middle + offset - 0.07, middle + offset + 0.07, near, far), colour)
    for side in (-1, 1):
        if rng.random() < 0.4:
            inset = rng.choice([0.25, 2.1])
            paint(_strip(side * (half - inset), side * (half - inset - 0.11), near, far), white)
        if rng.random() < 0.5:  # gutter
            paint(_strip(side * (half - 0.3), side * half, near, far), asphalt * 0.8)
    if rng.random() < 0.35:  # zebra crossing
        z = rng.uniform(5.0, 15.0)
        stripes = np.arange(-half + 0.3, half - 0.5, 1.0)
        paint_all([_strip(x, x + 0.5, z, z + 2.6) for x in stripes], white)
    for _ in range(rng.integers(0, 3)):  # manhole covers
        cover = ground_ellipse(
            (rng.uniform(-half, half) * 0.8, rng.uniform(4, 14)), (0.35, 0.35), (1.0, 0.0), 0.0
        )
        paint(cover, asphalt * 0.6)


def _draw_side(
    canvas: Canvas, light: Light, rng: np.random.Generator, street: _Street, side: int
) -> None:
    """Houses and gardens along one side, the farthest first."""
    dense = rng.choice([0.35, 0.7, 0.92], p=[0.25, 0.45, 0.3])
    tall = rng.uniform(4.5, 13.0)
    lots = []
    z = rng.uniform(-8.0, -2.0)
    while z < street.end:
        length = rng.uniform(8.0, 16.0)
        lots.append((z, z + length, rng.random() < dense, tall * rng.uniform(0.75, 1.3)))
        z += length
    x = side * street.wall
    for z0, z1, built, height in reversed(lots):
        if built:
            draw_house(canvas, light, rng, side, x, z0, z1, height)
            cast_house_shadow(canvas, light, side, x, z0, z1, height)
        else:
            draw_garden(canvas, light, rng, side, x, z0, z1)


def _draw_objects(
    canvas: Canvas, light: Light, rng: np.random.Generator, street: _Street, columns: int
) -> None:
    """Cars, people, poles and street trees, the farthest first."""
    camera = canvas.camera
    objects: list[tuple[float, int, str, tuple]] = []

    def visible(x: float, z: float, margin: float = 0.0) -> bool:
        view = camera.view(np.array([x, 0.0, z]))
        if view[2] < 2.5:
            return False
        return -margin * columns < camera.image(view)[0] < (1 + margin) * columns

    def add(kind: str, x: float, z: float, *details) -> None:
        objects.append((camera.depth(x, z), len(objects), kind, (x, z, *details)))

    _place_cars(rng, street, camera, visible, add)
    _place_poles(rng, street, visible, add)
    _place_people(rng, street, visible, add)
    for side in (-1, 1):
        if rng.random() < 0.6:
            continue
        z = rng.uniform(8.0, 14.0)
        while z < 24.0:
            x = side * (street.road + rng.uniform(0.6, 0.9))
            if visible(x, z, 0.2) and street.take(x, z, 0.4, 0.4):
                add("tree", x, z)
            z += rng.uniform(8.0, 14.0)

    lights_on = light.night or rng.random() < 0.15
    instance = 0
    for _, _, kind, (x, z, *details) in sorted(objects, key=lambda o: (-o[0], o[1])):
        if kind == "car":
            instance += 1
            draw_car(canvas, light, rng, details[0], x, z, details[1], instance, lights_on)
        elif kind == "person":
            instance += 1
            draw_person(canvas, light, rng, x, z, details[0], details[1], instance)
        elif kind == "pole":
            draw_pole(canvas, light, rng, details[0], x, z, _KERB, -int(math.copysign(1, x)))
        else:
            draw_tree(canvas, light, rng, x, z, cast_shadow=True, ground=_KERB)


def _place_cars(rng, street, camera, visible, add) -> None:
    def place(x: float, z: float, heading: float) -> bool:
        shape = random_shape(rng)
        half_x, half_z = shape.width / 2, shape.length / 2
        if abs(math.sin(heading)) > 0.7:
            half_x, half_z = half_z, half_x
        # The camera's own place stays free, and nothing stands right before it.
        clear = 3.6 if abs(x - camera.x) > half_x + 0.7 else 6.0
        if z - half_z < clear or not visible(x, z, 0.25):
            return False
        if not street.take(x, z, half_x + 0.3, half_z + 0.5):
            return False
        add("car", x, z, shape, heading)
        return True

    def along(side: int) -> float:
        return (0.0 if side == street.traffic else math.pi) + rng.normal(0.0, 0.02)

    if rng.random() < 0.16:
        heading = rng.choice([-1, 1]) * math.pi / 2 + rng.normal(0.0, 0.08)
        place(rng.uniform(-1.5, 1.5), rng.uniform(8.5, 14.0), heading)
    for side in (-1, 1):
        room = street.road > 3.6 or side == street.traffic
        if not room or rng.random() < 0.2:
            continue
        z = rng.uniform(4.0, 10.0)
        while z < 16.0:  # parked at the kerb
            if rng.random() < 0.7:
                place(side * (street.road - rng.uniform(1.05, 1.2)), z, along(side))
            z += rng.uniform(4.8, 7.5)
    moving = 0
    for _ in range(8):
        side = int(rng.choice([-1, 1]))
        x = side * max(0.0, street.road * 0.5 + rng.uniform(-0.8, 0.2))
        moving += place(x, rng.uniform(7.0, 14.0), along(side))
        if moving >= 2:
            break


def _place_poles(rng, street, visible, add) -> None:
    wanted = int(rng.integers(1, 3))
    for _ in range(40):
        side = int(rng.choice([-1, 1]))
        x = side * (street.road + rng.uniform(0.35, 0.6))
        z = rng.uniform(3.6, 6.2)
        if visible(x, z, -0.03) and street.take(x, z, 0.7, 0.5):
            add("pole", x, z, rng.choice(["lamp", "signal", "sign"], p=[0.4, 0.2, 0.4]))
            wanted -= 1
            if wanted == 0:
                return


def _place_people(rng, street, visible, add) -> None:
    wanted = int(rng.integers(2, 4))
    for _ in range(80):
        side = int(rng.choice([-1, 1]))
        on_road = rng.random() < 0.12
        if on_road:
            x = rng.uniform(-0.8, 0.8) * street.road
        else:
            x = side * rng.uniform(street.road + 0.5, street.wall - 0.5)
        z = rng.uniform(3.4, 5.8)
        if visible(x, z, -0.01) and street.take(x, z, 0.5, 0.6):
            height = rng.uniform(1.6, 1.95) * (
                rng.uniform(0.65, 0.8) if rng.random() < 0.1 else 1.0
            )
            add("person", x, z, 0.0 if on_road else _KERB, height)
            wanted -= 1
            if wanted == 0:
                return

"""Trees, hedges, the gardens between the houses, and what closes the street at its far end."""

import cv2
import numpy as np

from .buildings import House, Wall, draw_front
from .canvas import BUILDING, TOWARD, TREE, Billboard, Canvas
from .light import palette
from .noise import GRAINY, MOTTLED, TILE, noise_at

_GREENS = palette("3d6624 2e5424 577529 294c33 667033 4c5c3d")
_LEAVES = np.concatenate([_GREENS, palette("9e6b1f 8f421f a88a29 c7949e")])  # autumn, blossom
_LEAF_ODDS = np.array([0.18, 0.18, 0.17, 0.13, 0.11, 0.11, 0.04, 0.03, 0.03, 0.02])
_BARK = palette("4c3b2b 5c5247 382e26 7a7366")
_LEAFY = {"mottle": 0.3, "grain": 0.3, "size": 5.0, "falloff": 0.45}


def _leaf_colour(rng: np.random.Generator, evergreen: bool = False) -> np.ndarray:
    """Albedo (3,) of foliage: mostly green, or always if it is evergreen."""
    hue = rng.choice(_GREENS) if evergreen else rng.choice(_LEAVES, p=_LEAF_ODDS)
    return hue * rng.uniform(0.9, 1.1, 3)


def draw_tree(canvas: Canvas, x: float, z: float, ground: float = 0.0) -> None:
    """A tree with its trunk and a leafy crown, lit from the sun's side."""
    # A tree's own generator: whether it is drawn must not change the rest of the scene.
    rng = np.random.Generator(np.random.PCG64(int(canvas.rng.integers(1 << 31))))
    if canvas.camera.depth(x, z) < 4.0:  # its crown would fill the picture
        return
    kind = str(rng.choice(["round", "clumps", "conifer", "column"], p=[0.25, 0.5, 0.13, 0.12]))
    height = rng.uniform(5.0, 9.0)
    half = rng.uniform(1.8, 2.8) * (0.5 if kind == "column" else 1.0)
    low = height * {"conifer": 0.1, "column": 0.12}.get(kind, rng.uniform(0.22, 0.34))
    middle, tall = (low + height) / 2, (height - low) / 2
    board = Billboard(canvas, TREE, x, z, ground, grain=0.1, size=2.0)
    bark = rng.choice(_BARK) * rng.uniform(0.8, 1.15)
    foot, neck = 0.033 * height + 0.06, 0.02 * height
    trunk = np.array([(-foot, 0), (foot, 0), (neck, middle), (-neck, middle)])
    board.polygon(trunk, canvas.light.diffuse(bark, 0.25))
    lit_half = np.maximum(trunk * (canvas.light.side, 1), 0) * (canvas.light.side, 1)
    board.polygon(lit_half, canvas.light.diffuse(bark * 1.15, 0.6))
    _draw_crown(board, rng, kind, half, middle, tall)
    # Three lobes: one smooth ellipse does not look like foliage.
    lobes = np.array([(0.0, 0.0, 0.95, 0.95), (-0.4, -0.35, 0.65, 0.65), (0.45, 0.4, 0.6, 0.6)])
    lobes = lobes * (half, tall, tall, half) + (0.0, middle, 0.0, 0.0)
    canvas.cast_shadow(x, z, ground, 0.5, *lobes)


def _draw_crown(board: Billboard, rng, kind: str, half: float, middle: float, tall: float) -> None:
    hue = _leaf_colour(rng, evergreen=kind == "conifer")
    offset, raggedness = rng.uniform(0, TILE, 2), rng.uniform(0.06, 0.12)
    canvas, light = board.canvas, board.canvas.light
    # Every second pixel is computed, and what lies between them interpolated.
    reach = np.array([-half, tall]) * 1.15
    corners = board.pixel([(0, middle) + reach, (0, middle) - reach])
    (u0, v0), (u1, v1) = np.clip(corners, 0, canvas.elements.shape[::-1]).astype(int) // 2 * 2
    if u0 >= u1 or v0 >= v1:
        return
    u, v = np.meshgrid(np.arange(u0 + 1, u1, 2), np.arange(v0 + 1, v1, 2))
    x = ((u - board.foot[0]) / (board.scale * half)).astype(np.float32)
    y = (((board.foot[1] - v) / board.scale - middle) / tall).astype(np.float32)
    field = _crown(rng, kind, x, y)
    # Clumps of branches about 0.7 m across, leaves a tenth of that.
    s = (x * (half * 16) + offset[0]).astype(np.float32)
    t = (y * (tall * 16) + offset[1]).astype(np.float32)
    clumps, leaves = noise_at(MOTTLED, s, t), noise_at(GRAINY, s * 1.6, t * 1.6)
    inside = (field + raggedness * clumps + 0.06 * leaves).astype(np.float32)

    # Relief: what rises towards the light is brighter than what lies behind it.
    toward = light.sun_direction[:2] + (0.0, 0.3)
    dx, dy = (toward / np.hypot(*toward)).astype(np.float32)
    behind = noise_at(MOTTLED, s + 5 * dx, t + 5 * dy)
    tone = 0.45 + 0.24 * (dx * x + dy * y) + 0.3 * (clumps - behind) + 0.1 * leaves
    tone += 0.1 * np.clip(field, 0.0, 1.0)
    sunlit = 0.5 if light.sun_direction[2] > 0 else 0.8
    dark, bright = light.diffuse(hue * 0.42, 0.05), light.diffuse(hue * 1.25, sunlit)
    inside, tone = (cv2.resize(a, (u1 - u0, v1 - v0)) for a in (inside, tone.astype(np.float32)))
    shades = dark + np.clip(tone[inside > 0], 0.0, 1.0)[:, None] * (bright - dark)
    canvas.rgb[v0:v1, u0:u1][inside > 0] = np.clip(shades * 255, 0, 255)
    canvas.elements[v0:v1, u0:u1][inside > 0] = len(canvas.table) - 1


def _crown(rng: np.random.Generator, kind: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Field over a crown of half width and half height 1: positive inside, 1 at most."""
    if kind == "conifer":
        up = (y + 1) / 2
        tiers = 0.78 + 0.22 * (1 - (up * rng.uniform(4.0, 6.0)) % 1.0)
        return 1.6 * ((1.04 - up) * tiers - np.abs(x))
    if kind != "clumps":
        return 1.0 - (x * x + y * y)
    field = np.full_like(x, -9.0)
    for _ in range(rng.integers(4, 8)):
        cx, cy, r = rng.uniform((-0.5, -0.5, 0.42), (0.5, 0.55, 0.6))
        np.maximum(field, 1.0 - ((x - cx) ** 2 + (y - cy) ** 2) / r**2, out=field)
    return field


def draw_garden(canvas: Canvas, side: int, x: float, z0: float, z1: float) -> None:
    """A gap between houses: trees behind a hedge or a wall."""
    rng, light, length = canvas.rng, canvas.light, z1 - z0
    inward, along = np.array([-side, 0, 0]), np.array([0, 0, 1])
    hue = _leaf_colour(rng, evergreen=True)
    backdrop = rng.uniform(2.6, 4.5)

    # Shrubs fill the gap, so that nothing without a class shows behind the trees.
    edge = np.linspace(0, length, max(3, int(3 * length)))
    tops = backdrop + np.convolve(rng.uniform(-1.0, 1.0, len(edge)), np.full(5, 0.2), "same")
    shrubs = Wall(canvas, (x + side * 2, 0, z0), along, inward, length, backdrop)
    shrubs.element(TREE, **_LEAFY)
    shrubs.below(edge, tops, light.diffuse(hue * 0.6, 0.2))
    end = Wall(canvas, (x, 0, z0), -inward, TOWARD, 14.0, backdrop)
    end.element(TREE, **_LEAFY)
    end.below([0, 2, 14], [1.2, backdrop - 0.5, backdrop - 0.5], light.diffuse(hue * 0.55, 0.2))

    count = max(1, int(length / rng.uniform(3.5, 6.0)))
    for z in np.sort(rng.uniform(z0, z1, count))[::-1]:
        draw_tree(canvas, x + side * rng.uniform(1.8, 4.0), float(z))

    fence = Wall(canvas, (x, 0, z0), along, inward, length, rng.uniform(0.9, 1.9))
    if rng.random() < 0.55:
        fence.element(TREE, **_LEAFY)
        tops = fence.height + rng.uniform(-0.1, 0.1, len(edge))
        fence.below(edge, tops, fence.lit(hue * 0.55) + light.diffuse(hue * 0.5, 0.4))
    else:
        house = House(rng)
        joints = {"joints_along": 0.6, "joints_up": 0.3, "joint_contrast": 0.25}
        fence.element(BUILDING, mottle=0.2, grain=0.1, falloff=0.2, **joints)
        fence.boxes(0, length, 0, fence.height, fence.lit(house.wall))
        fence.boxes(0, length, fence.height - 0.15, fence.height, fence.lit(house.trim))


def draw_street_end(canvas: Canvas, half_width: float, z: float) -> None:
    """Close the street at distance z, with a row of houses or with trees."""
    rng, along, span = canvas.rng, np.array([1.0, 0.0, 0.0]), half_width + 60.0
    woods = Wall(canvas, (-span, 0, z + 6), along, TOWARD, 2 * span, 8.0)
    woods.element(TREE, mottle=0.4, grain=0.3, size=20.0)
    tops = rng.uniform(3.0, 7.0) + rng.uniform(-1.2, 1.2, 60)
    colour = canvas.light.diffuse(_leaf_colour(rng) * 0.8, 0.3)
    woods.below(np.linspace(0, 2 * span, 60), tops, colour)
    if rng.random() < 0.55:
        x = -half_width - rng.uniform(6.0, 12.0)
        while x < half_width + 8.0:
            width, height = rng.uniform(7.0, 13.0), rng.uniform(5.0, 12.0)
            draw_front(Wall(canvas, (x, 0, z + 4), along, TOWARD, width, height), House(rng))
            x += width
    else:
        for x in rng.uniform(-half_width - 4, half_width + 4, 6):
            draw_tree(canvas, float(x), z + rng.uniform(1.0, 4.0))

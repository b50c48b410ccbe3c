"""Trees."""

from __future__ import annotations

import numpy as np

from .canvas import Billboard, Canvas, Material, ground_ellipse
from .classes import TREE
from .light import Light
from .noise import GRAINY, MOTTLED, TILE, noise_at

_LEAVES = np.array(
    [
        (0.24, 0.40, 0.14), (0.18, 0.33, 0.14), (0.34, 0.46, 0.16), (0.16, 0.30, 0.20),
        (0.40, 0.44, 0.20), (0.30, 0.36, 0.24),
        (0.62, 0.42, 0.12), (0.56, 0.26, 0.12), (0.66, 0.54, 0.16),  # autumn
        (0.78, 0.58, 0.62),  # blossom
    ]
)  # fmt: skip
_LEAF_ODDS = np.array([0.18, 0.18, 0.17, 0.13, 0.11, 0.11, 0.04, 0.03, 0.03, 0.02])
_GREENS = 6  # the first of them stay green all year
_BARK = np.array([(0.30, 0.23, 0.17), (0.36, 0.32, 0.28), (0.22, 0.18, 0.15), (0.48, 0.45, 0.4)])
_MIN_DEPTH = 4.0  # metres; a crown nearer than that would fill the picture


def leaf_colour(rng: np.random.Generator, evergreen: bool = False) -> np.ndarray:
    """Albedo (3,) of foliage: mostly green, or always if it is evergreen."""
    index = rng.integers(_GREENS) if evergreen else rng.choice(len(_LEAVES), p=_LEAF_ODDS)
    return _LEAVES[index] * rng.uniform(0.9, 1.1, 3)


def _outline(rng: np.random.Generator, kind: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Field (h, w) over a crown of half width and half height 1: positive inside, 1 within."""
    if kind == "conifer":
        up = (y + 1) / 2
        tiers = 0.78 + 0.22 * (1 - (up * rng.uniform(4.0, 6.0)) % 1.0)
        return 1.6 * ((1.04 - up) * tiers - np.abs(x))
    if kind != "clumps":
        return 1.0 - (x * x + y * y)
    field = np.full(np.broadcast_shapes(x.shape, y.shape), -9.0, np.float32)
    for _ in range(rng.integers(4, 8)):
        cx, cy, r = rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.55), rng.uniform(0.42, 0.6)
        np.maximum(field, 1.0 - ((x - cx) ** 2 + (y - cy) ** 2) / r**2, out=field)
    return field


def draw_tree(
    canvas: Canvas,
    light: Light,
    rng: np.random.Generator,
    x: float,
    z: float,
    cast_shadow: bool,
    ground: float = 0.0,
) -> None:
    """A tree with its trunk and a leafy crown, lit from the sun's side."""
    seed = int(rng.integers(1 << 31))
    if canvas.camera.depth(x, z) < _MIN_DEPTH:
        return
    # A tree's own generator: whether it is drawn must not change the rest of the scene.
    rng = np.random.Generator(np.random.PCG64(seed))
    kind = str(rng.choice(["round", "clumps", "conifer", "column"], p=[0.25, 0.5, 0.13, 0.12]))
    height = rng.uniform(5.0, 9.0)
    half = rng.uniform(1.8, 2.8) * (0.5 if kind == "column" else 1.0)
    low = height * {"conifer": 0.1, "column": 0.12}.get(kind, rng.uniform(0.22, 0.34))
    board = Billboard(canvas, x, z, ground)
    window = board.grid(-half * 1.15, 0.0, half * 1.15, height * 1.08)
    if window is None:
        return
    canvas.element(TREE, depth=board.depth, material=Material(grain=0.1, size=2.0))
    _draw_trunk(board, light, rng, height, low)
    _draw_crown(board, light, rng, kind, half, low, height)
    if cast_shadow:
        _cast_shadow(canvas, light, x, z, ground, half, (low + height) / 2, (height - low) / 2)
    canvas.ground_shadow(ground_ellipse((x, z), (0.5, 0.5), (1.0, 0.0), ground), contact=True)


def _draw_crown(board, light, rng, kind, half, low, height) -> None:
    hue = leaf_colour(rng, evergreen=kind == "conifer")
    window = board.grid(-half * 1.15, low - 0.2 * half, half * 1.15, height * 1.08)
    offset = rng.uniform(0, TILE, 2)
    raggedness = rng.uniform(0.06, 0.12)
    middle, tall = (low + height) / 2, (height - low) / 2
    if window is None:
        return
    slices, x, y = window
    x, y = x / np.float32(half), (y - np.float32(middle)) / np.float32(tall)
    field = _outline(rng, kind, x, y)
    # Noise in metres: clumps of branches about 0.7 m across, leaves a tenth of that.
    sx, sy = (np.broadcast_to(a, field.shape) for a in (x * half * 16.0, y * tall * 16.0))
    sx, sy = (sx + offset[0]).astype(np.float32), (sy + offset[1]).astype(np.float32)
    clumps = noise_at(MOTTLED, sx, sy)
    leaves = noise_at(GRAINY, sx * 1.6, sy * 1.6)
    inside = field + raggedness * clumps + 0.06 * leaves

    # Relief: what rises towards the light is brighter than what lies behind it.
    toward = np.array([light.sun_direction[0], light.sun_direction[1] + 0.3])
    toward /= np.hypot(*toward)
    behind = noise_at(MOTTLED, sx + np.float32(5 * toward[0]), sy + np.float32(5 * toward[1]))
    facing = np.float32(toward[0]) * x + np.float32(toward[1]) * y
    tone = 0.45 + 0.24 * facing + 0.3 * (clumps - behind) + 0.1 * leaves
    tone = (tone + 0.1 * np.clip(field, 0.0, 1.0)).astype(np.float32)
    sunlit = 0.5 if light.sun_direction[2] > 0 else 0.8
    dark, bright = light.diffuse(hue * 0.42, 0.05), light.diffuse(hue * 1.25, sunlit)
    share = np.linspace(0.0, 1.0, 256)[:, None]
    palette = np.clip(np.round((dark + share * (bright - dark)) * 255), 0, 255).astype(np.uint8)
    board.paint(slices, inside.astype(np.float32), tone, palette)


def _draw_trunk(board, light, rng, height, low) -> None:
    bark = _BARK[rng.integers(len(_BARK))] * rng.uniform(0.8, 1.15)
    foot, neck = 0.03 * height + 0.05, 0.02 * height
    top = low + (height - low) * 0.5
    sunny = 1.0 if light.sun_direction[0] > 0 else -1.0
    left = [(-neck, top), (-foot, 0.3), (-foot * 1.3, 0.0)]
    right = [(foot * 1.3, 0.0), (foot, 0.3), (neck, top)]
    board.polygon(np.array(left + right), light.diffuse(bark, 0.25))
    board.polygon(
        np.array([(0, 0), (sunny * foot, 0.0), (sunny * neck, top), (0, top)]),
        light.diffuse(bark * 1.15, 0.6),
    )


def _cast_shadow(canvas, light, x, z, ground, half, middle, tall) -> None:
    offset = light.shadow_offset()
    length = float(np.hypot(*offset))
    direction = tuple(offset / max(length, 1e-6))
    # Three lobes: one smooth ellipse does not look like foliage.
    for dx, dy, size in ((0.0, 0.0, 0.95), (-0.4, -0.35, 0.65), (0.45, 0.4, 0.6)):
        rise = middle + dy * tall
        centre = (x + dx * half + offset[0] * rise, z + offset[1] * rise)
        radii = (size * max(half, tall * length), size * half)
        canvas.ground_shadow(ground_ellipse(centre, radii, direction, ground))

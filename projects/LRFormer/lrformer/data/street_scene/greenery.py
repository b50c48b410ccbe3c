"""Gardens between the houses, and what closes the street at its far end."""

from __future__ import annotations

import numpy as np

from .buildings import Front, draw_front, random_house
from .canvas import Canvas, Material
from .classes import BUILDING, TREE
from .light import Light
from .plants import draw_tree, leaf_colour


def draw_garden(
    canvas: Canvas,
    light: Light,
    rng: np.random.Generator,
    side: int,
    x: float,
    z0: float,
    z1: float,
) -> None:
    """A gap between houses: trees behind a hedge or a wall."""
    inward = np.array([-float(side), 0.0, 0.0])
    toward = np.array([0.0, 0.0, -1.0])
    hue = leaf_colour(rng, evergreen=True)
    backdrop = rng.uniform(2.6, 4.5)
    leafy = Material(along=(0.0, 1.0), mottle=0.3, grain=0.3, size=5.0, light_falloff=0.45)

    # Shrubs fill the gap, so that nothing without a class shows behind the trees.
    canvas.element(TREE, (x + side * 2.0, 0, z0), inward, material=leafy)
    edge = np.linspace(z0, z1, max(3, int(3 * (z1 - z0))))
    tops = backdrop + np.convolve(rng.uniform(-1.0, 1.0, len(edge)), np.full(5, 0.2), "same")
    outline = np.concatenate(
        [
            np.stack([np.full(len(edge), x + side * 2.0), tops, edge], 1),
            [(x + side * 2.0, 0.0, z1), (x + side * 2.0, 0.0, z0)],
        ]
    )
    canvas.polygon(outline, light.diffuse(hue * 0.6, 0.2))
    canvas.element(TREE, (x, 0, z0), toward, material=leafy)
    canvas.polygon(
        np.array(
            [
                (x, 0.0, z0),
                (x + side * 14.0, 0.0, z0),
                (x + side * 14.0, backdrop - 0.5, z0),
                (x + side * 2.0, backdrop - 0.5, z0),
                (x, 1.2, z0),
            ]
        ),
        light.diffuse(hue * 0.55, 0.2),
    )

    count = max(1, int((z1 - z0) / rng.uniform(3.5, 6.0)))
    for z in np.sort(rng.uniform(z0, z1, count))[::-1]:
        draw_tree(canvas, light, rng, x + side * rng.uniform(1.8, 4.0), float(z), cast_shadow=True)

    height = rng.uniform(0.9, 1.9)
    along = np.array([0.0, 0.0, 1.0])
    front = Front(np.array([x, 0.0, z0]), along, inward, z1 - z0, height)
    if rng.random() < 0.55:
        canvas.element(TREE, front.origin, inward, material=leafy)
        wave = height + rng.uniform(-0.1, 0.1, len(edge))
        top = front.points(edge - z0, wave)
        canvas.polygon(
            np.concatenate([top, front.points(np.array([z1 - z0, 0.0]), np.zeros(2))]),
            light.shade(hue * 1.1, inward) * 0.5 + light.diffuse(hue, 0.4) * 0.5,
        )
    else:
        house = random_house(rng)
        canvas.element(
            BUILDING,
            front.origin,
            inward,
            material=Material(
                along=(0.0, 1.0),
                mottle=0.2,
                grain=0.1,
                joints=(0.6, 0.3),
                joint_contrast=0.25,
                light_falloff=0.2,
            ),
        )
        canvas.polygon(front.box(0, z1 - z0, 0, height), light.shade(house.wall, inward))
        canvas.polygon(
            front.box(0, z1 - z0, height - 0.15, height),
            light.shade(house.trim, inward),
            mark=False,
        )


def draw_street_end(
    canvas: Canvas, light: Light, rng: np.random.Generator, half_width: float, z: float
) -> None:
    """Close the street at distance z, with a row of houses or with trees."""
    along = np.array([1.0, 0.0, 0.0])
    toward = np.array([0.0, 0.0, -1.0])
    span = half_width + 60.0
    canvas.element(
        TREE,
        (0, 0, z + 6),
        toward,
        material=Material(mottle=0.4, grain=0.3, size=20.0),
    )
    xs = np.linspace(-span, span, 60)
    top = rng.uniform(3.0, 7.0) + rng.uniform(-1.2, 1.2, 60)
    ridge = np.stack([xs, top, np.full(60, z + 6.0)], 1)
    foot = np.array([(span, 0.0, z + 6.0), (-span, 0.0, z + 6.0)])
    canvas.polygon(np.concatenate([ridge, foot]), light.diffuse(leaf_colour(rng) * 0.8, 0.3))
    if rng.random() < 0.55:
        x = -half_width - rng.uniform(6.0, 12.0)
        while x < half_width + 8.0:
            width = rng.uniform(7.0, 13.0)
            front = Front(np.array([x, 0.0, z + 4.0]), along, toward, width, rng.uniform(5.0, 12.0))
            draw_front(canvas, light, rng, front, random_house(rng))
            x += width
    else:
        for x in rng.uniform(-half_width - 4, half_width + 4, 6):
            draw_tree(canvas, light, rng, float(x), z + rng.uniform(1.0, 4.0), cast_shadow=False)

"""Pedestrians."""

from __future__ import annotations

import math

import numpy as np

from .canvas import Billboard, Canvas, Material, ground_ellipse
from .classes import PERSON
from .light import Light

_SKIN = np.array([(0.93, 0.76, 0.65), (0.82, 0.62, 0.48), (0.62, 0.43, 0.31), (0.38, 0.26, 0.19)])
_HAIR = np.array(
    [(0.1, 0.08, 0.07), (0.25, 0.16, 0.1), (0.55, 0.4, 0.22), (0.6, 0.6, 0.6), (0.4, 0.18, 0.1)]
)
_TROUSERS = np.array([(0.16, 0.22, 0.5), (0.1, 0.1, 0.12), (0.22, 0.3, 0.55), (0.3, 0.14, 0.4)])


def _hue(angle: float) -> np.ndarray:
    """A saturated colour; the angle is in turns."""
    return 0.5 + 0.5 * np.cos(2 * math.pi * (angle + np.array([0.0, -1 / 3, 1 / 3])))


def _cloth(rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.1:
        return np.full(3, rng.choice([0.1, 0.9]))
    vivid = _hue(rng.random())
    saturation = rng.uniform(0.65, 0.95)
    return (vivid * saturation + (1 - saturation) * 0.5) * rng.uniform(0.6, 1.0)


def draw_person(
    canvas: Canvas,
    light: Light,
    rng: np.random.Generator,
    x: float,
    z: float,
    ground: float,
    height: float,
    instance: int,
) -> None:
    """A person standing or walking on the ground point (x, z), ``height`` metres tall."""
    board = Billboard(canvas, x, z, ground)
    canvas.element(
        PERSON,
        depth=board.depth,
        instance=instance,
        material=Material(mottle=0.06, grain=0.04, size=1.0),
    )
    h = height
    skin = _SKIN[rng.integers(len(_SKIN))]
    hair = _HAIR[rng.integers(len(_HAIR))]
    shirt = _cloth(rng)
    trousers = _cloth(rng) if rng.random() < 0.35 else _TROUSERS[rng.integers(len(_TROUSERS))]
    shoe = np.full(3, rng.choice([0.08, 0.2, 0.75]))
    profile = rng.random() < 0.5  # seen from the side, walking left or right
    facing = rng.choice([-1, 1])
    back = not profile and rng.random() < 0.5
    stride = rng.uniform(0.1, 0.34) if profile else rng.uniform(0.0, 0.06)
    skirt = rng.random() < 0.18
    coat = rng.random() < 0.35
    build = rng.uniform(1.05, 1.3)

    def lit(colour: np.ndarray, share: float = 0.45) -> np.ndarray:
        return light.diffuse(colour, share)

    hip, shoulder = 0.5 * h, 0.82 * h
    half_shoulder = (0.085 if profile else 0.125) * h * build
    half_hip = (0.075 if profile else 0.09) * h * build
    leg, arm = 0.105 * h * build, 0.075 * h * build
    leg_skin = skirt or rng.random() < 0.12

    def draw_arm(sign: int, shade: float) -> None:
        root = (sign * half_shoulder * (0.2 if profile else 1.0), shoulder - 0.03 * h)
        swing = sign * stride * 0.8 if profile else sign * 0.06
        elbow = (root[0] + 0.17 * h * math.sin(swing), root[1] - 0.17 * h)
        hand = (
            elbow[0] + 0.15 * h * math.sin(swing + 0.25 * facing * profile),
            elbow[1] - 0.15 * h,
        )
        board.limb(root, elbow, arm, lit(shirt * shade))
        board.limb(elbow, hand, arm * 0.85, lit(shirt * shade))
        board.ellipse(hand, (arm * 0.5, arm * 0.5), lit(skin))

    def draw_leg(sign: int, shade: float) -> None:
        root = (sign * half_hip * (0.15 if profile else 0.55), hip)
        swing = sign * stride * facing
        bend = 0.25 * stride * (sign < 0) * facing
        knee = (root[0] + 0.25 * h * math.sin(swing), 0.27 * h)
        foot = (knee[0] + 0.22 * h * math.sin(swing - bend), 0.035 * h)
        colour = skin if leg_skin else trousers
        board.limb(root, knee, leg, lit((trousers if not skirt else skin) * shade))
        board.limb(knee, foot, leg * 0.8, lit(colour * shade))
        toe = facing * 0.06 * h if profile else sign * 0.015 * h
        board.limb((foot[0], 0.02 * h), (foot[0] + toe, 0.02 * h), leg * 0.6, lit(shoe))

    draw_arm(-facing if profile else -1, 0.72)
    draw_leg(-1, 0.75)
    draw_leg(1, 0.92)
    if skirt or coat:
        hem = (0.3 if skirt else 0.36) * h
        flare = half_hip * (1.5 if skirt else 1.25)
        board.polygon(
            np.array(
                [(-half_hip, hip * 1.08), (half_hip, hip * 1.08), (flare, hem), (-flare, hem)]
            ),
            lit((trousers if skirt else shirt) * 0.9),
        )
    board.polygon(
        np.array(
            [
                (-half_shoulder, shoulder),
                (half_shoulder, shoulder),
                (half_hip * 1.1, hip * 0.94),
                (-half_hip * 1.1, hip * 0.94),
            ]
        ),
        lit(shirt),
    )
    sunny = 1.0 if light.sun_direction[0] > 0 else -1.0
    board.polygon(  # the side away from the sun
        np.array(
            [
                (-sunny * half_shoulder, shoulder),
                (-sunny * half_shoulder * 0.25, shoulder),
                (-sunny * half_hip * 0.2, hip * 0.94),
                (-sunny * half_hip * 1.1, hip * 0.94),
            ]
        ),
        lit(shirt * 0.9, 0.25),
    )
    board.limb(
        (-half_shoulder * 0.8, shoulder), (half_shoulder * 0.8, shoulder), 0.05 * h, lit(shirt)
    )
    if rng.random() < 0.3:  # rucksack or bag
        colour = lit(_cloth(rng) * 0.8)
        if profile:
            board.ellipse((-facing * half_shoulder * 1.3, 0.7 * h), (0.05 * h, 0.1 * h), colour)
        elif back:
            board.limb((0.0, 0.62 * h), (0.0, 0.74 * h), half_shoulder * 1.3, colour)
        else:
            board.ellipse((half_shoulder * 1.6, 0.45 * h), (0.06 * h, 0.07 * h), colour)
    draw_arm(facing if profile else 1, 0.88)

    head = (facing * 0.01 * h * profile, 0.925 * h)
    board.limb((0.0, shoulder), head, 0.055 * h, lit(skin * 0.85))
    board.ellipse(head, (0.052 * h, 0.07 * h), lit(skin, 0.5))
    if back:
        board.ellipse((head[0], head[1] + 0.01 * h), (0.055 * h, 0.068 * h), lit(hair))
    else:
        board.ellipse(
            (head[0] - facing * 0.014 * h * profile, head[1] + 0.034 * h),
            (0.055 * h, 0.042 * h),
            lit(hair),
        )
        if rng.random() < 0.35:
            board.ellipse(
                (head[0] - facing * 0.035 * h * profile, head[1] - 0.02 * h),
                (0.03 * h, 0.07 * h),
                lit(hair),
            )

    offset = light.shadow_offset() * 0.5 * h
    length = float(np.hypot(*offset))
    canvas.ground_shadow(
        ground_ellipse(
            (x + offset[0], z + offset[1]), (length, 0.2), tuple(offset / max(length, 1e-6)), ground
        )
    )
    canvas.ground_shadow(ground_ellipse((x, z), (0.32, 0.2), (1.0, 0.0), ground), contact=True)

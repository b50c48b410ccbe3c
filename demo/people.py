"""Pedestrians."""

import math

import numpy as np

from .canvas import PERSON, Billboard, Canvas
from .light import palette

_SKIN = palette("edc2a6 d19e7a 9e6e4f 614230")
_HAIR = palette("1a1412 40291a 8c6638 999999 662e1a")
_TROUSERS = palette("293880 1a1a1f 384c8c 4c2466")


def _cloth(rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.1:
        return np.full(3, rng.choice([0.1, 0.9]))
    vivid = 0.5 + 0.5 * np.cos(2 * math.pi * (rng.random() + np.array([0.0, -1 / 3, 1 / 3])))
    saturation = rng.uniform(0.65, 0.95)
    return (vivid * saturation + (1 - saturation) * 0.5) * rng.uniform(0.6, 1.0)


def draw_person(canvas: Canvas, x: float, z: float, ground: float, height: float, instance: int):
    """A person of a height in metres, standing or walking on the ground point (x, z)."""
    rng = canvas.rng
    board = Billboard(canvas, PERSON, x, z, ground, instance=instance, mottle=0.08, size=1.0)
    board.scale *= height  # from here on the person is one unit tall
    skin, hair, shirt = rng.choice(_SKIN), rng.choice(_HAIR), _cloth(rng)
    trousers = _cloth(rng) if rng.random() < 0.35 else rng.choice(_TROUSERS)
    shoe = rng.choice([0.08, 0.2, 0.75])
    # Seen from the side, walking left or right; or from the front or the back.
    profile, facing = rng.random() < 0.5, rng.choice([-1, 1])
    back = not profile and rng.random() < 0.5
    stride = rng.uniform(0.1, 0.34) if profile else rng.uniform(0.0, 0.06)
    skirt, coat = rng.random() < 0.18, rng.random() < 0.35
    build = rng.uniform(1.05, 1.3)
    shorts = not skirt and rng.random() < 0.12
    thigh, shin = skin if skirt else trousers, skin if skirt or shorts else trousers

    hip, shoulder = 0.5, 0.82
    chest, waist = build * (0.085 if profile else 0.125), build * (0.075 if profile else 0.09)
    leg, arm = 0.105 * build, 0.075 * build

    def lit(colour: np.ndarray, share: float = 0.45) -> np.ndarray:
        return canvas.light.diffuse(colour, share)

    def hang(root: tuple[float, float], *parts: tuple[float, float]) -> np.ndarray:
        """Joints of a limb from its root down; each part has a drop and a swing."""
        return np.cumsum([root, *((drop * math.sin(a), -drop) for drop, a in parts)], axis=0)

    def draw_arm(sign: int, shade: float) -> None:
        root = (sign * chest * (0.2 if profile else 1.0), shoulder - 0.03)
        swing = sign * stride * 0.8 if profile else sign * 0.06
        joints = hang(root, (0.17, swing), (0.15, swing + 0.25 * facing * profile))
        board.limb(joints, arm * 0.95, lit(shirt * shade))
        board.ellipse(joints[-1], (arm * 0.5, arm * 0.5), lit(skin))

    def draw_leg(sign: int, shade: float) -> None:
        root = (sign * waist * (0.15 if profile else 0.55), hip)
        swing, bend = sign * stride * facing, 0.25 * stride * (sign < 0) * facing
        _, knee, foot = hang(root, (0.23, swing), (0.235, swing - bend))
        board.limb([root, knee], leg, lit(thigh * shade))
        board.limb([knee, foot], leg * 0.8, lit(shin * shade))
        toe = facing * 0.06 if profile else sign * 0.015
        board.limb([(foot[0], 0.02), (foot[0] + toe, 0.02)], leg * 0.6, lit(shoe))

    draw_arm(-facing if profile else -1, 0.72)
    draw_leg(-1, 0.75)
    draw_leg(1, 0.92)
    if skirt or coat:
        hem, flare = (0.3, waist * 1.5) if skirt else (0.36, waist * 1.25)
        corners = [(-waist, hip * 1.08), (waist, hip * 1.08), (flare, hem), (-flare, hem)]
        board.polygon(corners, lit((trousers if skirt else shirt) * 0.9))
    belly = waist * 1.1
    torso = np.array([(-chest, shoulder), (chest, shoulder), (belly, 0.47), (-belly, 0.47)])
    board.polygon(torso, lit(shirt))
    away = canvas.light.side * chest * -0.65  # the side away from the sun
    board.polygon(torso * (0.37, 1.0) + (away, 0.0), lit(shirt * 0.9, 0.25))
    board.limb([(-chest * 0.8, shoulder), (chest * 0.8, shoulder)], 0.05, lit(shirt))
    if rng.random() < 0.3:  # rucksack or bag
        front = (chest * 1.6, 0.45)
        middle = (-facing * chest * 1.3, 0.7) if profile else (0.0, 0.68) if back else front
        board.ellipse(middle, (0.09 if back else 0.055, 0.1), lit(_cloth(rng) * 0.8))
    draw_arm(facing if profile else 1, 0.88)

    forward = facing * profile
    head = np.array([0.01 * forward, 0.925])
    board.limb([(0.0, shoulder), head], 0.055, lit(skin * 0.85))
    board.ellipse(head, (0.052, 0.07), lit(skin, 0.5))
    rise, tall = (0.01, 0.068) if back else (0.034, 0.042)
    board.ellipse(head + (-0.014 * forward, rise), (0.055, tall), lit(hair))
    if not back and rng.random() < 0.35:  # long hair
        board.ellipse(head + (-0.035 * forward, -0.02), (0.03, 0.07), lit(hair))
    canvas.cast_shadow(x, z, ground, 0.27, (0.0, height / 2, height / 2, 0.2))

"""Daylight, dusk, overcast and night: what lights the scene."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Light:
    """Lighting of a scene. Colours are RGB in 0…1 (3,).

    Attributes:
        sun_direction: unit vector (3,) towards the sun.
        sun, ambient: light that a white surface gets from the sun, facing it, and from the sky.
        zenith, horizon: colours of the sky; ``horizon`` is also the colour of haze.
        clouds: cover in 0…1.
        haze: share of the light lost in one metre.
        night: lamps and windows are lit.
    """

    sun_direction: np.ndarray
    sun: np.ndarray
    ambient: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    cloud: np.ndarray
    clouds: float
    haze: float
    night: bool

    def shade(self, colour: np.ndarray, normal: np.ndarray) -> np.ndarray:
        """Colour (3,) of a matt surface under this light."""
        facing = max(0.0, float(np.dot(normal, self.sun_direction)))
        # Upward surfaces see the whole sky, walls half of it and the light of the street.
        sky = 0.86 + 0.14 * float(normal[1])
        return np.asarray(colour) * (self.ambient * sky + self.sun * facing)

    def diffuse(self, colour: np.ndarray, share: float = 0.5) -> np.ndarray:
        """Colour (3,) of a rounded or leafy surface, of which ``share`` sees the sun."""
        return np.asarray(colour) * (self.ambient + self.sun * share)

    def shadow_offset(self) -> np.ndarray:
        """Displacement (x, z) on the ground of the shadow of a point one metre high."""
        return -self.sun_direction[[0, 2]] / self.sun_direction[1]

    def shadow_strength(self) -> float:
        """Share of the ground's light that the sun gives."""
        sun = float(self.sun.mean()) * float(self.sun_direction[1])
        return sun / (sun + float(self.ambient.mean()))


def _direction(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    elevation = math.radians(rng.uniform(low, high))
    azimuth = rng.uniform(-math.pi, math.pi)
    return np.array(
        [
            math.cos(elevation) * math.sin(azimuth),
            math.sin(elevation),
            math.cos(elevation) * math.cos(azimuth),
        ]
    )


def random_light(rng: np.random.Generator) -> Light:
    """Draw the weather and the time of day."""
    kind = rng.choice(["day", "overcast", "dusk", "night"], p=[0.78, 0.14, 0.06, 0.02])
    jitter = rng.normal(0.0, 0.025, size=(4, 3))
    if kind == "day":
        return Light(
            sun_direction=_direction(rng, 28, 62),
            sun=np.array([1.0, 0.95, 0.84]) * rng.uniform(0.5, 0.7),
            ambient=np.array([0.56, 0.6, 0.68]) * rng.uniform(0.85, 1.05),
            zenith=np.array([0.22, 0.45, 0.78]) + jitter[0],
            horizon=np.array([0.74, 0.84, 0.92]) + jitter[1],
            cloud=np.array([0.97, 0.97, 0.98]),
            clouds=rng.uniform(0.0, 0.75),
            haze=rng.uniform(0.0005, 0.006),
            night=False,
        )
    if kind == "overcast":
        grey = rng.uniform(0.6, 0.82)
        return Light(
            sun_direction=_direction(rng, 40, 70),
            sun=np.full(3, rng.uniform(0.1, 0.22)),
            ambient=np.array([0.8, 0.82, 0.85]) * rng.uniform(0.85, 1.05),
            zenith=np.array([0.92, 0.96, 1.02]) * grey + jitter[0],
            horizon=np.array([0.98, 0.99, 1.0]) * (grey + 0.1) + jitter[1] * 0.5,
            cloud=np.array([0.9, 0.93, 0.97]) * (grey - 0.1),
            clouds=rng.uniform(0.2, 1.0),
            haze=rng.uniform(0.001, 0.007),
            night=False,
        )
    if kind == "dusk":
        return Light(
            sun_direction=_direction(rng, 12, 24),
            sun=np.array([1.0, 0.74, 0.48]) * rng.uniform(0.5, 0.7),
            ambient=np.array([0.5, 0.47, 0.55]) * rng.uniform(0.85, 1.1),
            zenith=np.array([0.28, 0.36, 0.6]) + jitter[0],
            horizon=np.array([0.96, 0.68, 0.46]) + jitter[1] * 2,
            cloud=np.array([0.93, 0.62, 0.55]),
            clouds=rng.uniform(0.1, 0.9),
            haze=rng.uniform(0.002, 0.01),
            night=False,
        )
    return Light(
        sun_direction=_direction(rng, 40, 70),
        sun=np.full(3, 0.02),
        ambient=np.array([0.3, 0.31, 0.4]) * rng.uniform(0.9, 1.3),
        zenith=np.array([0.06, 0.08, 0.17]) + jitter[0] * 0.5,
        horizon=np.array([0.2, 0.2, 0.3]) + jitter[1],
        cloud=np.array([0.16, 0.16, 0.23]),
        clouds=rng.uniform(0.0, 0.8),
        haze=rng.uniform(0.002, 0.008),
        night=True,
    )

"""Daylight, dusk, overcast and night: what lights the scene. Colours are RGB in 0…1."""

import math

import numpy as np
from numpy.typing import ArrayLike

_WEATHER = ("day", "overcast", "dusk", "night")
_ODDS = (0.78, 0.14, 0.06, 0.02)
# One column for each weather: colours, and (low, high) of what is drawn at random.
_ELEVATION = (28, 62), (40, 70), (12, 24), (40, 70)  # degrees
_SUN = (1.0, 0.95, 0.84), (1.0, 1.0, 1.0), (1.0, 0.74, 0.48), (1.0, 1.0, 1.0)
_SUN_LEVEL = (0.5, 0.7), (0.1, 0.22), (0.5, 0.7), (0.02, 0.02)
_AMBIENT = (0.56, 0.6, 0.68), (0.8, 0.82, 0.85), (0.5, 0.47, 0.55), (0.3, 0.31, 0.4)
_AMBIENT_LEVEL = (0.85, 1.05), (0.85, 1.05), (0.85, 1.1), (0.9, 1.3)
_ZENITH = (0.22, 0.45, 0.78), (0.65, 0.68, 0.73), (0.28, 0.36, 0.6), (0.06, 0.08, 0.17)
_HORIZON = (0.74, 0.84, 0.92), (0.8, 0.8, 0.81), (0.96, 0.68, 0.46), (0.2, 0.2, 0.3)
_CLOUD = (0.97, 0.97, 0.98), (0.55, 0.57, 0.59), (0.93, 0.62, 0.55), (0.16, 0.16, 0.23)
_CLOUDS = (0.0, 0.75), (0.2, 1.0), (0.1, 0.9), (0.0, 0.8)
_HAZE = (0.0005, 0.006), (0.001, 0.007), (0.002, 0.01), (0.002, 0.008)


class Light:
    """Lighting of a scene: the weather and the time of day, drawn at random.

    Attributes:
        sun_direction: unit vector (3,) towards the sun.
        side: where the sun is: 1 is the right, -1 the left.
        shadow: displacement (x, z) on the ground of the shadow of a point one metre high.
        sun, ambient: light that a white surface gets from the sun, facing it, and from the sky.
        zenith, horizon: colours of the sky; ``horizon`` is also the colour of haze.
        cloud, clouds: their colour, and their cover in 0…1.
        haze: share of the light lost in one metre.
        night, headlamps: lamps and windows are lit; and so are those of cars.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        kind = rng.choice(len(_WEATHER), p=_ODDS)
        jitter = rng.normal(0.0, 0.025, size=(4, 3))
        # An overcast sky is anything from nearly white to dark grey.
        sky = rng.uniform(0.84, 1.14) if _WEATHER[kind] == "overcast" else 1.0
        elevation = math.radians(rng.uniform(*_ELEVATION[kind]))
        azimuth = rng.uniform(-math.pi, math.pi)
        x, z = math.cos(elevation) * np.array([math.sin(azimuth), math.cos(azimuth)])
        self.sun_direction = np.array([x, math.sin(elevation), z])
        self.side = 1 if x > 0 else -1
        self.shadow = np.array([x, z]) / -math.sin(elevation)
        self.sun = np.array(_SUN[kind]) * rng.uniform(*_SUN_LEVEL[kind])
        self.ambient = np.array(_AMBIENT[kind]) * rng.uniform(*_AMBIENT_LEVEL[kind])
        self.zenith = np.array(_ZENITH[kind]) * sky + jitter[0]
        self.horizon = np.array(_HORIZON[kind]) * sky + jitter[1]
        self.cloud = np.array(_CLOUD[kind]) * sky
        self.clouds, self.haze = rng.uniform(*_CLOUDS[kind]), rng.uniform(*_HAZE[kind])
        self.night = self.headlamps = _WEATHER[kind] == "night"

    def shade(self, colour: ArrayLike, normal: np.ndarray) -> np.ndarray:
        """Colour (3,) of a matt surface, from its own colour (3,) or grey."""
        facing = max(0.0, float(normal @ self.sun_direction))
        # Upward surfaces see the whole sky, walls half of it and the light of the street.
        sky = 0.86 + 0.14 * float(normal[1])
        return np.asarray(colour) * (self.ambient * sky + self.sun * facing)

    def diffuse(self, colour: ArrayLike, share: float = 0.5) -> np.ndarray:
        """Colour (3,) of a rounded or leafy surface, of which ``share`` sees the sun."""
        return np.asarray(colour) * (self.ambient + self.sun * share)


def palette(text: str) -> np.ndarray:
    """Colours (n, 3) from whitespace-separated rrggbb triples."""
    return np.array([tuple(bytes.fromhex(colour)) for colour in text.split()]) / 255

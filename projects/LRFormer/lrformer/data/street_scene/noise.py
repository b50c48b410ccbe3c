"""Noise that repeats without a seam, the grain of every surface."""

from __future__ import annotations

import functools

import cv2
import numpy as np

TILE = 256  # side of a tile, in texels

MOTTLED, GRAINY = range(2)
_SEED = 20240229


@functools.lru_cache(maxsize=1)
def _tiles() -> tuple[np.ndarray, np.ndarray]:
    """A tile of each kind: float32, mean 0, standard deviation 1."""
    white = np.random.Generator(np.random.PCG64(_SEED)).standard_normal((2, TILE, TILE))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(TILE), np.fft.fftfreq(TILE))) * TILE
    tiles = []
    for noise, slope, cutoff in zip(white, (1.6, 0.4), (60.0, 90.0), strict=True):
        gain = np.where(frequency > 0, np.maximum(frequency, 1.0) ** -slope, 0.0)
        tile = np.fft.ifft2(np.fft.fft2(noise) * gain * np.exp(-((frequency / cutoff) ** 2))).real
        tiles.append((tile / tile.std()).astype(np.float32))
    return tiles[0], tiles[1]


def noise_at(kind: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Noise of a kind at texel positions x, y: float32 arrays (H, W), as is the result."""
    return cv2.remap(
        _tiles()[kind],
        x - TILE * np.floor(x * (1 / TILE)),
        y - TILE * np.floor(y * (1 / TILE)),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )

"""Noise that repeats without a seam, the grain of every surface."""

import functools

import cv2
import numpy as np

TILE = 256  # side of a tile, in texels
MOTTLED, GRAINY = range(2)


@functools.cache
def _tile(kind: int) -> np.ndarray:
    """A tile of a kind: float32, mean 0, standard deviation 1."""
    slope, cutoff = ((1.6, 60.0), (0.4, 90.0))[kind]
    white = np.random.Generator(np.random.PCG64(20240229)).standard_normal((2, TILE, TILE))[kind]
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(TILE), np.fft.fftfreq(TILE))) * TILE
    gain = np.where(frequency > 0, np.maximum(frequency, 1.0) ** -slope, 0.0)
    tile = np.fft.ifft2(np.fft.fft2(white) * gain * np.exp(-((frequency / cutoff) ** 2))).real
    return (tile / tile.std()).astype(np.float32)


def noise_at(kind: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Noise of a kind at texel positions x, y: float32 arrays (H, W), as is the result."""
    x, y = (a - TILE * np.floor(a * np.float32(1 / TILE)) for a in (x, y))
    return cv2.remap(_tile(kind), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)

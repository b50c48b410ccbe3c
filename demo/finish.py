"""From the drawn canvas to a photograph: texture, shadows, sky, haze, lens and sensor."""

import cv2
import numpy as np

from .canvas import PAVEMENT, ROAD, SKY, SUPERSAMPLING, Canvas
from .noise import GRAINY, MOTTLED, TILE, noise_at

_FAR = 400.0  # metres; the depth of the sky
_JOINT = 0.025  # metres; half the width of a joint between stones


def finish(canvas: Canvas) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The finished picture (H, W, 3), its classes (H, W) and its objects (H, W): see ``Scene``."""
    elements = _visible_elements(canvas.elements)
    label, instance, a, b, c, *texture = np.array(canvas.table, np.float32).T[:, elements]
    u = (np.arange(label.shape[1], dtype=np.float32) + 0.5) * SUPERSAMPLING
    v = ((np.arange(label.shape[0], dtype=np.float32) + 0.5) * SUPERSAMPLING)[:, None]
    depth = 1.0 / np.maximum(a * u + b * v + c, 1.0 / _FAR)
    sky = (label == SKY).astype(np.float32)

    image = _reduce(canvas.rgb, label.shape)
    # Neighbouring surfaces of the same kind must not continue each other's pattern.
    shift = elements * np.float32(61.7)
    image *= _brightness(canvas, texture, shift, depth, u, v)[..., None]
    _shade_ground(canvas, image, (label == ROAD) | (label == PAVEMENT))
    haze = (1.0 - np.exp(depth * -canvas.light.haze)) * (1.0 - sky)
    image += haze[..., None] * (canvas.light.horizon.astype(np.float32) - image)
    _draw_sky(canvas, image, sky, u, v)
    return _expose(canvas, image), label.astype(np.uint8), instance.astype(np.int32)


def _visible_elements(samples: np.ndarray) -> np.ndarray:
    """The element that most of the four samples of each finished pixel show."""
    a, b, c, d = (samples[row::2, column::2] for row in (0, 1) for column in (0, 1))
    # Of four samples, any value that a pair shares is the majority or tied for it.
    out = np.where((b == c) | (b == d), b, a)
    return np.where((c == d) & (a != b), c, out)


def _reduce(samples: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Samples in 0…255 as pixels in 0…1."""
    pixels = cv2.resize(samples, shape[::-1], interpolation=cv2.INTER_AREA)
    return pixels * np.float32(1 / 255)


def _brightness(canvas: Canvas, texture, shift, depth, u, v) -> np.ndarray:
    """Factor (H, W) by which the surfaces' textures change the brightness."""
    camera = canvas.camera
    along_z, flat, mottle, grain, size, *gaps, contrast, falloff = texture
    right = (u - camera.cx) * (1 / camera.focal) * depth
    y = float(camera.position[1]) + (camera.horizon - v) * (1 / camera.focal) * depth
    (cos, _, sin), _, _ = camera.axes.tolist()
    x, z = float(camera.position[0]) + right * cos + depth * sin, depth * cos - right * sin
    position = np.where(along_z, z, x), np.where(flat, z, y)

    texels = TILE / size
    footprint = depth * (SUPERSAMPLING / camera.focal)  # metres across one pixel
    soften = np.minimum(1.0, 2.5 / np.maximum(texels * footprint, 1e-6))
    s, t = (axis * texels for axis in position)
    factor = 1.0 + mottle * noise_at(MOTTLED, s * 0.5 + shift, t * 0.5)
    factor += grain * soften * noise_at(GRAINY, s + shift, t + shift)
    np.clip(factor, 0.3, 1.9, out=factor)

    half = np.maximum(_JOINT, footprint * 0.5)  # a line is never thinner than a pixel
    strength = 2.0 * contrast * (_JOINT / half)
    for axis, gap in zip(position, gaps, strict=True):
        spacing = np.maximum(gap, 1e-3)
        cycle = axis / spacing
        distance = (0.5 - np.abs(cycle - np.floor(cycle) - 0.5)) * spacing
        line = np.clip(1.5 - distance / half, 0.0, 0.5)
        factor *= 1.0 - line * strength * (gap > 0)
    return factor * (1.0 - falloff * np.exp(np.maximum(y, 0.0) * (-1 / 1.3)))


def _shade_ground(canvas: Canvas, image: np.ndarray, ground: np.ndarray) -> None:
    light, unit = canvas.light, image.shape[0] / 192
    full = light.ambient + light.sun * light.sun_direction[1]
    for shadow, blur, loss in (
        (canvas.sun_shadow, 0.6, 1.0 - 0.92 * light.ambient / full),
        (canvas.contact_shadow, 1.6, np.full(3, 0.6)),
    ):
        share = cv2.GaussianBlur(_reduce(shadow, ground.shape), (0, 0), blur * unit) * ground
        image *= 1.0 - share[..., None] * loss.astype(np.float32)


def _draw_sky(canvas: Canvas, image: np.ndarray, sky: np.ndarray, u, v) -> None:
    """Clouds, and the glow of the sun."""
    camera, light, rng = canvas.camera, canvas.light, canvas.rng
    offset = rng.uniform(0, TILE, 2).tolist()
    stretch, sharpness = rng.uniform(14.0, 34.0), rng.uniform(0.35, 0.9)
    rise = np.maximum((camera.horizon - v) * (1 / camera.focal), 0.0)
    elevation = rise + 0.16
    x = (u - camera.cx) * (stretch / camera.focal) / elevation + offset[0]
    y = np.broadcast_to(1.7 * stretch / elevation + offset[1], sky.shape)
    cover = noise_at(MOTTLED, x, y) + (light.clouds * 3.2 - 2.2)
    alpha = np.clip(cover * sharpness, 0.0, 1.0) * np.clip(rise * 6.0, 0.0, 1.0) * 0.9 * sky
    # Clouds are darker where they are thick.
    tone = light.cloud.astype(np.float32) * (1.0 - 0.13 * np.clip(cover, 0.0, 1.6))[..., None]
    image += alpha[..., None] * (tone - image)

    direction = camera.view(light.sun_direction + camera.position)
    if direction[2] > 0.15 and light.sun.mean() > 0.2:
        sun_u, sun_v = camera.image(direction).tolist()
        square = ((u - sun_u) ** 2 + (v - sun_v) ** 2) * (1 / camera.focal**2)
        glow = 0.55 * np.exp(square * -20.0) * sky + 0.12 * np.exp(square * -3.3)
        image += glow[..., None] * light.sun.astype(np.float32)


def _expose(canvas: Canvas, image: np.ndarray) -> np.ndarray:
    """Lens and sensor: focus, white balance, exposure, contrast, vignetting, noise."""
    rng, night = canvas.rng, canvas.light.night
    height, width = image.shape[:2]
    cast = rng.normal(0.0, 0.025, 3)
    target = (0.36 if night else 0.46) * rng.uniform(0.88, 1.12)
    contrast, vignette = rng.uniform(0.0, 0.3), rng.uniform(0.0, 0.35)
    blur = rng.uniform(0.0, 0.45) * (height / 192) ** 0.5
    noise = rng.uniform(0.003, 0.012) + 0.008 * night

    # Lamps and other bright things glow, mostly at night.
    glow = cv2.GaussianBlur(np.maximum(image - 0.85, 0.0), (0, 0), height / 48)
    image += glow * (2.5 if night else 0.4)
    if blur > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    gain = (target / max(float(image.mean()), 0.05)) ** 0.8
    image = np.clip(image * (gain * (1.0 + cast)).astype(np.float32), 0.0, 1.0)
    image += contrast * (image * image * (3.0 - 2.0 * image) - image)
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    image *= (1.0 - vignette * 1.4 * (x * x + y * y))[..., None]
    image += noise * rng.standard_normal(image.shape, np.float32)
    return np.clip(image * 255.0 + 0.5, 0.0, 255.0).astype(np.uint8)

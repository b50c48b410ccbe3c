"""From the drawn canvas to a photograph: texture, shadows, sky, haze, lens and sensor."""

from __future__ import annotations

import math

import cv2
import numpy as np

from .canvas import SUPERSAMPLING, Canvas
from .classes import PAVEMENT, ROAD, SKY
from .light import Light
from .noise import GRAINY, MOTTLED, TILE, noise_at

_FAR = 400.0  # metres; the depth of the sky
_JOINT = 0.025  # metres; half the width of a joint between stones


def visible_elements(canvas: Canvas) -> np.ndarray:
    """The element (H, W) that most of each finished pixel's samples show."""
    a, b = canvas.elements[0::2, 0::2], canvas.elements[0::2, 1::2]
    c, d = canvas.elements[1::2, 0::2], canvas.elements[1::2, 1::2]
    # Of four samples, any value that a pair shares is the majority or tied for it.
    out = np.where((b == c) | (b == d), b, a)
    return np.where((c == d) & (a != b), c, out)


def finish(
    canvas: Canvas, light: Light, rng: np.random.Generator, elements: np.ndarray
) -> np.ndarray:
    """The finished picture.

    Args:
        canvas: what was drawn.
        elements: ``visible_elements(canvas)``.

    Returns:
        RGB uint8 (H, W, 3).
    """
    height, width = elements.shape
    image = cv2.resize(canvas.rgb, (width, height), interpolation=cv2.INTER_AREA)
    image = image.astype(np.float32) * np.float32(1 / 255)
    classes = np.array(canvas.classes, np.uint8)[elements]
    u = (np.arange(width, dtype=np.float32) + 0.5) * SUPERSAMPLING
    v = ((np.arange(height, dtype=np.float32) + 0.5) * SUPERSAMPLING)[:, None]

    a, b, c = (column[elements] for column in np.array(canvas.inverse_depths, np.float32).T)
    depth = 1.0 / np.maximum(a * u + b * v + c, 1.0 / _FAR)
    sky = (classes == SKY).astype(np.float32)

    image *= _texture(canvas, elements, depth, u, v)[..., None]
    _shade_ground(canvas, light, image, (classes == ROAD) | (classes == PAVEMENT))
    haze = (1.0 - np.exp(depth * -light.haze)) * (1.0 - sky)
    image += haze[..., None] * (light.horizon.astype(np.float32) - image)
    _draw_sky(canvas, light, rng, image, sky, u, v)
    _add_lamps(canvas, image)
    return _expose(image, light, rng)


def _texture(canvas: Canvas, elements, depth, u, v) -> np.ndarray:
    """Factor (H, W) by which the materials change the brightness."""
    camera = canvas.camera
    right = (u - camera.cx) * (1 / camera.focal) * depth
    y = camera.y + (camera.horizon - v) * (1 / camera.focal) * depth
    cos, sin = math.cos(camera.yaw), math.sin(camera.yaw)
    x, z = camera.x + right * cos + depth * sin, depth * cos - right * sin

    table = np.array(canvas.materials, np.float32).T
    (along_x, along_z, upright, flat, mottle, grain, per_metre, gap_s, gap_t, joint, falloff) = (
        column[elements] for column in table
    )
    s, t = along_x * x + along_z * z, upright * y + flat * z
    texels = per_metre * TILE
    # Neighbouring surfaces of the same kind must not continue each other's pattern.
    shift = elements * np.float32(61.7)
    footprint = depth * (SUPERSAMPLING / camera.focal)  # metres across one pixel
    soften = np.minimum(1.0, 2.5 / np.maximum(texels * footprint, 1e-6))
    s_texels, t_texels = s * texels, t * texels
    factor = 1.0 + mottle * noise_at(MOTTLED, s_texels * 0.5 + shift, t_texels * 0.5)
    factor += grain * soften * noise_at(GRAINY, s_texels + shift, t_texels + shift)
    np.clip(factor, 0.3, 1.9, out=factor)

    half = np.maximum(_JOINT, footprint * 0.5)  # a line is never thinner than a pixel
    strength = 2.0 * joint * (_JOINT / half)
    for position, gap in ((s, gap_s), (t, gap_t)):
        spacing = np.maximum(gap, 1e-3)
        cycle = position / spacing
        distance = (0.5 - np.abs(cycle - np.floor(cycle) - 0.5)) * spacing
        line = np.clip(1.5 - distance / half, 0.0, 0.5)
        factor *= 1.0 - line * strength * (gap > 0)
    return factor * (1.0 - falloff * np.exp(np.maximum(y, 0.0) * (-1 / 1.3)))


def _shade_ground(canvas: Canvas, light: Light, image: np.ndarray, ground: np.ndarray) -> None:
    size = (image.shape[1], image.shape[0])
    unit = image.shape[0] / 192
    sun = cv2.resize(canvas.sun_shadow, size, interpolation=cv2.INTER_AREA)
    sun = cv2.GaussianBlur(sun, (0, 0), 0.6 * unit) * (ground * np.float32(1 / 255))
    contact = cv2.resize(canvas.contact_shadow, size, interpolation=cv2.INTER_AREA)
    contact = cv2.GaussianBlur(contact, (0, 0), 1.6 * unit) * (ground * np.float32(0.6 / 255))
    full = light.ambient + light.sun * light.sun_direction[1]
    loss = (1.0 - 0.92 * light.ambient / full).astype(np.float32)
    image *= (1.0 - sun[..., None] * loss) * (1.0 - contact)[..., None]


def _draw_sky(canvas: Canvas, light: Light, rng, image, sky, u, v) -> None:
    offset = rng.uniform(0, TILE, 2).tolist()
    stretch = rng.uniform(14.0, 34.0)
    sharpness = rng.uniform(0.35, 0.9)
    camera = canvas.camera
    rise = np.maximum((camera.horizon - v) * (1 / camera.focal), 0.0)
    elevation = rise + 0.16
    x = (u - camera.cx) * (stretch / camera.focal) / elevation + offset[0]
    y = np.broadcast_to(1.7 * stretch / elevation + offset[1], sky.shape)
    cover = noise_at(MOTTLED, x, y) + (light.clouds * 3.2 - 2.2)
    alpha = np.clip(cover * sharpness, 0.0, 1.0) * np.clip(rise * 6.0, 0.0, 1.0) * 0.9 * sky
    # Clouds are darker where they are thick.
    tone = light.cloud.astype(np.float32) * (1.0 - 0.13 * np.clip(cover, 0.0, 1.6))[..., None]
    image += alpha[..., None] * (tone - image)

    direction = camera.view(light.sun_direction + (camera.x, camera.y, 0.0))
    if direction[2] > 0.15 and light.sun.mean() > 0.2:
        sun_u, sun_v = camera.image(direction).tolist()
        square = ((u - sun_u) ** 2 + (v - sun_v) ** 2) * (1 / camera.focal**2)
        glow = 0.55 * np.exp(square * -20.0) * sky + 0.12 * np.exp(square * -3.3)
        image += glow[..., None] * light.sun.astype(np.float32)


def _add_lamps(canvas: Canvas, image: np.ndarray) -> None:
    height, width = image.shape[:2]
    rows, columns = canvas.elements.shape
    for lamp in canvas.lamps:
        row, column = int(lamp.v), int(lamp.u)
        inside = 0 <= row < rows and 0 <= column < columns
        if inside and canvas.elements[row, column] != lamp.element:
            continue
        u, v, radius = (value / SUPERSAMPLING for value in (lamp.u, lamp.v, lamp.radius))
        x0, x1 = int(max(0, u - 2 * radius)), int(min(width, u + 2 * radius + 1))
        y0, y1 = int(max(0, v - 2 * radius)), int(min(height, v + 2 * radius + 1))
        if x0 < x1 and y0 < y1:
            dx = (np.arange(x0, x1, dtype=np.float32) - u) ** 2
            dy = (np.arange(y0, y1, dtype=np.float32) - v) ** 2
            glow = np.exp((dx + dy[:, None]) * (-2.0 / radius**2))
            image[y0:y1, x0:x1] += glow[..., None] * lamp.colour.astype(np.float32)


def _expose(image: np.ndarray, light: Light, rng: np.random.Generator) -> np.ndarray:
    """Lens and sensor: focus, white balance, exposure, contrast, vignetting, noise."""
    height, width = image.shape[:2]
    cast = rng.normal(0.0, 0.025, 3)
    target = (0.36 if light.night else 0.46) * rng.uniform(0.88, 1.12)
    contrast = rng.uniform(0.0, 0.3)
    vignette = rng.uniform(0.0, 0.35)
    blur = rng.uniform(0.0, 0.45) * (height / 192) ** 0.5
    noise = rng.uniform(0.003, 0.012) + 0.008 * light.night

    if blur > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    gain = (target / max(float(image.mean()), 0.05)) ** 0.8
    image = image * (gain * (1.0 + cast)).astype(np.float32)
    np.clip(image, 0.0, 1.0, out=image)
    curve = image * image * (3.0 - 2.0 * image)
    image += contrast * (curve - image)
    x = (np.arange(width, dtype=np.float32) + 0.5) / width - 0.5
    y = ((np.arange(height, dtype=np.float32) + 0.5) / height - 0.5)[:, None]
    image *= (1.0 - vignette * 1.4 * (x * x + y * y))[..., None]
    image += noise * rng.standard_normal(image.shape, np.float32)
    return np.clip(image * 255.0 + 0.5, 0.0, 255.0).astype(np.uint8)

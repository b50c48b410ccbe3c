"""Sine position encoding of two-dimensional maps (DETR, arXiv 2005.12872, section A.4)."""

import math

import torch
from torch import Tensor


def sine_position_map(
    height: int, width: int, channels: int, device: torch.device | str | None = None
) -> Tensor:
    """The encoding of every position of a map.

    The first half of the channels encodes y, the second x: sines and cosines in turn, of the
    position scaled to (0, 2 pi] over wavelengths that grow geometrically up to 10000.

    Args:
        height, width: of the map.
        channels: divisible by 4.
        device: where to make it.

    Returns:
        HxWxC, float32.
    """
    if channels % 4:
        raise ValueError(f"a position encoding needs channels divisible by 4, not {channels}")
    y = _sine_table(height, channels // 2, device)[:, None].expand(height, width, -1)
    x = _sine_table(width, channels // 2, device)[None].expand(height, width, -1)
    return torch.cat([y, x], dim=-1)


def _sine_table(length: int, channels: int, device: torch.device | str | None) -> Tensor:
    position = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    # By the last position, the length: as a tensor engines take it of any size.
    position = position / (position[-1:] + 1e-6) * (2 * math.pi)
    exponent = torch.arange(0, channels, 2, dtype=torch.float32, device=device) / channels
    angle = position[:, None] / 10000**exponent
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)

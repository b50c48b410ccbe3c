"""How an image becomes the first map, and a map the next coarser one."""

from collections.abc import Callable

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn


def _conv(in_dim: int, out_dim: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_dim, out_dim, kernel_size=3, stride=stride, padding=1)


class Stem(nn.Module):
    """Image to a map of stride 4: four 3x3 convolutions, the first and third of stride 2.

    Args:
        in_dim: channels of the image.
        dim: channels of the map; the first two convolutions have half as many.
        norm: channels to the norm after each of the first three convolutions.
    """

    def __init__(self, in_dim: int, dim: int, norm: Callable[[int], nn.Module] = nn.BatchNorm2d):
        super().__init__()
        self.conv1, self.norm1 = _conv(in_dim, dim // 2, 2), norm(dim // 2)
        self.conv2, self.norm2 = _conv(dim // 2, dim // 2, 1), norm(dim // 2)
        self.conv3, self.norm3 = _conv(dim // 2, dim, 2), norm(dim)
        self.conv4, self.norm4 = _conv(dim, dim, 1), LayerNorm2d(dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Nx``in_dim``xHxW to Nx``dim``xceil(H/4)xceil(W/4)."""
        # LayerNorm and 1x1 convolutions want channels last; one copy here spares one at each.
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.act(self.norm1(self.conv1(x)))
        x = self.act(self.norm2(self.conv2(x)))
        x = self.act(self.norm3(self.conv3(x)))
        return self.norm4(self.conv4(x))


class PatchEmbed(nn.Module):
    """Overlapping patch embedding between stages: 3x3 convolution of stride 2, LayerNorm."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        self.proj = _conv(in_dim, dim, 2)
        self.norm = LayerNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Nx``in_dim``xHxW to Nx``dim``xceil(H/2)xceil(W/2)."""
        return self.norm(self.proj(x))

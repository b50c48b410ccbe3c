"""Bilinear resizing without storing the result: of loss, masks and class maps alike.

A chain of resizes and crops is linear, and the same for all columns and for all rows: two matrices.
Bands of rows are computed at a time, each from the few rows that it depends on, and used up before
the next. The reference is ``F.interpolate(mode="bilinear", align_corners=False)``, step by step.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]

# Values in a band. On a CPU they stay in the cache; a GPU wants larger pieces.
_BAND_VALUES = {"cpu": 1 << 20, "cuda": 1 << 26}


class BandedResize:
    """Resizes of maps of one size.

    Args:
        size: height and width of the maps.
        steps: (size to resize to, size to crop to at the top left) of each step.
        like: of the maps' data type, float32 or float64, and device.
    """

    def __init__(self, size: Size, steps: Sequence[tuple[Size, Size]], like: Tensor):
        self.size = steps[-1][1]
        along_y, along_x = (tuple((to[i], crop[i]) for to, crop in steps) for i in (0, 1))
        self._vertical = _chain(size[0], along_y).to(like)
        self._horizontal = _chain(size[1], along_x).t().to(like)
        self._spans = _spans(size[0], along_y)
        self._values = _BAND_VALUES.get(like.device.type, _BAND_VALUES["cuda"])

    def bands(self, channels: int) -> Iterator[tuple[slice, slice]]:
        """Bands of rows of the result, in order, and the rows of the maps that each depends on."""
        height, width = self.size
        rows = max(1, self._values // (max(channels, 1) * width))
        for start in range(0, height, rows):
            stop = min(start + rows, height)
            yield slice(start, stop), slice(self._spans[start][0], self._spans[stop - 1][1])

    def __call__(self, source: Tensor, rows: slice, around: slice) -> Tensor:
        """A band of the result, differentiable.

        Args:
            source: (the rows ``around``) x channels x width.
            rows, around: of :meth:`bands`.

        Returns:
            (the rows ``rows``) x channels x (width of the result).
        """
        widened = source @ self._horizontal
        return (self._vertical[rows, around] @ widened.flatten(1)).unflatten(1, widened.shape[1:])


def resized_bands(
    maps: Tensor, steps: Sequence[tuple[Size, Size]]
) -> Iterator[tuple[slice, Tensor]]:
    """All rows of CxHxW maps after ``steps``, in order: where a band lies, and its values.

    Args:
        maps: CxHxW.
        steps: of :class:`BandedResize`.

    Yields:
        A slice of rows, and rows x C x width, float32.
    """
    source = maps.float().transpose(0, 1)
    resize = BandedResize(tuple(maps.shape[1:]), steps, source)
    with torch.autocast(maps.device.type, enabled=False):
        for rows, around in resize.bands(len(maps)):
            yield rows, resize(source[around], rows, around)


@lru_cache(maxsize=16)
def _chain(length: int, steps: tuple[tuple[int, int], ...]) -> Tensor:
    """The matrix, (last crop) x ``length``, of resizes to a length and crops to one after each."""
    # A tensor made in inference mode could not be used in training later.
    with torch.inference_mode(False), torch.no_grad():
        rows = torch.eye(length, dtype=torch.float64)[None]
        for to, crop in steps:
            rows = F.interpolate(rows, size=to, mode="linear", align_corners=False)[..., :crop]
        return rows[0].t().contiguous()


@lru_cache(maxsize=64)
def _spans(length: int, steps: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    """First and last-but-one column of each row of :func:`_chain` that is not 0."""
    used = (_chain(length, steps) != 0).int()
    first = used.argmax(1)
    last = length - used.flip(1).argmax(1)
    return list(zip(first.tolist(), last.tolist(), strict=True))

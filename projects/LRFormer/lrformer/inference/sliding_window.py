"""Sliding-window inference for any model that returns ``sem_seg``."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
import torch
from detectron2.modeling.postprocessing import sem_seg_postprocess
from torch import Tensor, nn

from ..ops.resize import Size
from .class_map import argmax
from .wrapper import SemSegWrapper

_Corner = tuple[int, int]


class SlidingWindow(SemSegWrapper):
    """Runs a model on overlapping windows and averages what it returns where they overlap.

    The layout is mmsegmentation's slide inference: windows of ``crop_size`` every ``stride`` pixels
    of the network's input, the last row and column shifted back to stay inside; along a shorter
    side, the window is that side. The mean is resized to the image's own size.

    Args:
        model: see :class:`SemSegWrapper`.
        crop_size: height and width of a window, pixels of the network's input.
        stride: distance of neighbouring windows, down and across; at most ``crop_size``.
        batch_size: windows of one image given to the model at once.

    Raises:
        ValueError: a size is not positive, or the windows would leave gaps.
    """

    def __init__(
        self, model: nn.Module, crop_size: Sequence[int], stride: Sequence[int], batch_size: int = 1
    ) -> None:
        super().__init__(model)
        for key, sides in (("CROP_SIZE", crop_size), ("STRIDE", stride)):
            if len(sides) != 2 or any(int(side) != side or side < 1 for side in sides):
                raise ValueError(
                    f"TEST.SLIDING_WINDOW.{key} is {list(sides)}, expected a height and a width"
                )
        if any(s > c for s, c in zip(stride, crop_size, strict=True)):
            raise ValueError(
                f"TEST.SLIDING_WINDOW.STRIDE {list(stride)} is larger than CROP_SIZE "
                f"{list(crop_size)}: pixels between the windows would get no prediction"
            )
        if batch_size < 1:
            raise ValueError(f"TEST.SLIDING_WINDOW.BATCH_SIZE is {batch_size}, expected at least 1")
        self.crop_size, self.stride = tuple(crop_size), tuple(stride)
        self.batch_size = batch_size

    def _predict(self, image: Tensor, height: int, width: int) -> Tensor:
        size = tuple(image.shape[-2:])
        h, w = map(min, self.crop_size, size)
        corners = list(product(*map(_starts, size, (h, w), self.stride)))
        total, count = None, torch.zeros(size)
        for (y, x), scores in self._windows(corners, lambda *box: _crop(image, *box), (h, w)):
            if total is None:
                total = scores.new_zeros((len(scores), *size), dtype=torch.float32)
            total[:, y : y + h, x : x + w] += scores
            count[y : y + h, x : x + w] += 1
        total /= count.to(total.device)
        if size == (height, width):
            return total
        return sem_seg_postprocess(total, size, height, width)

    @torch.inference_mode()
    def write_class_map(
        self, classes: np.ndarray, read: Callable[..., Tensor], memory: int = 2**28
    ) -> None:
        """The class of every pixel of an image that is too large for the scores of all its pixels.

        It is what :meth:`forward` gives for the image as it is, without a resize. The windows go
        through the image in strips from top to bottom, and only the scores of one row of windows
        are kept; those that cross the border of two strips are predicted twice.

        Args:
            classes: H x W integers to be written, such as a file mapped into memory.
            read: gives the pixels ``y, x, height, width`` as 3 x height x width.
            memory: bytes for scores, which set the width of a strip (at least a window's).
        """
        height, width = classes.shape
        h, w = size = tuple(map(min, self.crop_size, classes.shape))
        rows, columns = map(_starts, classes.shape, size, self.stride)
        ((_, first),) = self._windows([(0, 0)], read, size)  # for the number of classes
        strip = max(w, memory // (4 * len(first) * h))
        for left in range(0, width, strip):
            right = min(left + strip, width)
            inside = [x for x in columns if x < right and x + w > left]
            # Of rows y to y + h. Its means are not needed: all classes have the same count.
            total = first.new_zeros((len(first), h, right - left), dtype=torch.float32)
            for y, end in zip(rows, [*rows[1:], height], strict=True):
                for (_, x), scores in self._windows([(y, x) for x in inside], read, size):
                    a, b = max(x, left), min(x + w, right)
                    total[..., a - left : b - left] += scores[..., a - x : b - x]
                done = end - y
                classes[y:end, left:right] = argmax(total[:, :done]).cpu().numpy()
                total[:, : h - done] = total[:, done:].clone()
                total[:, h - done :] = 0

    def _windows(
        self, corners: Sequence[_Corner], read: Callable[..., Tensor], size: Size
    ) -> Iterator[tuple[_Corner, Tensor]]:
        """Each window's first row and column with its scores."""
        for first in range(0, len(corners), self.batch_size):
            batch = corners[first : first + self.batch_size]
            yield from zip(batch, self._run([read(*x, *size) for x in batch], *size), strict=True)


def _crop(image: Tensor, y: int, x: int, height: int, width: int) -> Tensor:
    return image[..., y : y + height, x : x + width]


def _starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one axis; the last is shifted back to end with the axis."""
    last = length - window
    return [*range(0, last, stride), last]

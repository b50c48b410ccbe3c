"""Sliding-window inference for any model that returns ``sem_seg``."""

from collections.abc import Sequence
from itertools import product

import torch
from detectron2.modeling.postprocessing import sem_seg_postprocess
from torch import Tensor, nn

from .wrapper import SemSegWrapper


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
        for first in range(0, len(corners), self.batch_size):
            batch = corners[first : first + self.batch_size]
            windows = [image[..., y : y + h, x : x + w] for y, x in batch]
            for (y, x), scores in zip(batch, self._run(windows, h, w), strict=True):
                if total is None:
                    total = scores.new_zeros((len(scores), *size), dtype=torch.float32)
                total[:, y : y + h, x : x + w] += scores
                count[y : y + h, x : x + w] += 1
        total /= count.to(total.device)
        if size == (height, width):
            return total
        return sem_seg_postprocess(total, size, height, width)


def _starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one axis; the last is shifted back to end with the axis."""
    last = length - window
    return [*range(0, last, stride), last]

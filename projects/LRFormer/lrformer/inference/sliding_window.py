"""Sliding-window inference for any model that returns ``sem_seg``."""

from collections.abc import Iterator, Sequence
from itertools import islice, product

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling.postprocessing import sem_seg_postprocess
from torch import Tensor, nn

from .wrapper import SemSegWrapper


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one axis; the last is shifted back to end with the axis.

    An axis shorter than the window gets a single start, 0.
    """
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


class SlidingWindow(SemSegWrapper):
    """Runs a model on overlapping windows and averages what it returns where they overlap.

    The layout is mmsegmentation's slide inference: windows of ``crop_size`` every ``stride`` pixels
    of the network's input, the last row and column shifted back to stay inside; along a side that
    is shorter than the window, the window is that side. The mean is taken at the input's resolution
    and then resized to the image's own size, as detectron2 does for a whole image.
    """

    @configurable
    def __init__(
        self,
        model: nn.Module,
        *,
        crop_size: Sequence[int],
        stride: Sequence[int],
        batch_size: int = 1,
    ) -> None:
        """
        Args:
            model: see :class:`SemSegWrapper`.
            crop_size: height and width of a window, pixels of the network's input.
            stride: distance of neighbouring windows, down and across; at most ``crop_size``.
            batch_size: windows of one image given to the model at once; more is faster on a large
                GPU and takes proportionally more memory.

        Raises:
            ValueError: a size is not positive, or the windows would leave gaps.
        """
        super().__init__(model)
        self.crop_size = _size("CROP_SIZE", crop_size)
        self.stride = _size("STRIDE", stride)
        if any(s > c for s, c in zip(self.stride, self.crop_size, strict=True)):
            raise ValueError(
                f"TEST.SLIDING_WINDOW.STRIDE {list(self.stride)} is larger than CROP_SIZE "
                f"{list(self.crop_size)}, so that pixels between the windows would get no "
                "prediction; give a stride of at most the crop size"
            )
        if batch_size < 1:
            raise ValueError(f"TEST.SLIDING_WINDOW.BATCH_SIZE is {batch_size}, expected at least 1")
        self.batch_size = batch_size

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> dict:
        return {
            "model": model,
            "crop_size": cfg.TEST.SLIDING_WINDOW.CROP_SIZE,
            "stride": cfg.TEST.SLIDING_WINDOW.STRIDE,
            "batch_size": cfg.TEST.SLIDING_WINDOW.BATCH_SIZE,
        }

    def _predict(self, x: dict, height: int, width: int) -> Tensor:
        image = x["image"]
        size = tuple(image.shape[-2:])
        h, w = (min(crop, side) for crop, side in zip(self.crop_size, size, strict=True))
        tops = window_starts(size[0], h, self.stride[0])
        lefts = window_starts(size[1], w, self.stride[1])

        total = None
        for corners in _batches(product(tops, lefts), self.batch_size):
            windows = [image[..., y : y + h, x : x + w] for y, x in corners]
            for (top, left), scores in zip(corners, self._run(windows, h, w), strict=True):
                if total is None:
                    total = scores.new_zeros((len(scores), *size), dtype=torch.float32)
                total[:, top : top + h, left : left + w] += scores

        # Windows form a grid: their number over a pixel is a product of a row and a column count.
        down = _coverage(tops, h, size[0]).to(total.device)
        across = _coverage(lefts, w, size[1]).to(total.device)
        total /= torch.outer(down, across)
        if size == (height, width):
            return total
        return sem_seg_postprocess(total, size, height, width)


def _size(key: str, value: Sequence[int]) -> tuple[int, int]:
    if len(value) != 2 or any(int(v) != v or v < 1 for v in value):
        raise ValueError(
            f"TEST.SLIDING_WINDOW.{key} is {list(value)}, expected two positive integers: "
            "height, width"
        )
    return int(value[0]), int(value[1])


def _batches(items: Iterator, size: int) -> Iterator[list]:
    while batch := list(islice(items, size)):
        yield batch


def _coverage(starts: list[int], window: int, length: int) -> Tensor:
    count = torch.zeros(length)
    for start in starts:
        count[start : start + window] += 1
    return count

"""Multi-scale and flip test-time augmentation for any model that returns ``sem_seg``."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lrformer.data.augmentation import ResizeAligned, ResizeShortestEdge

from .wrapper import SemSegWrapper


class SemanticTTA(SemSegWrapper):
    """Averages a model's scores over resized and mirrored versions of the image.

    The input's "image" is the original one, which is resized here, and only once. One version goes
    through the model at a time, and the mean is taken at the image's own height and width.

    Args:
        model: see :class:`SemSegWrapper`.
        min_sizes: short sides to resize the image to, pixels; the aspect is kept.
        max_size: upper bound of the long side, pixels.
        flip: also run each size mirrored left to right.
        align: stretch each resized image up to a multiple of this on each side; 0: not.
        softmax: average class probabilities, for a model that returns logits; False averages what
            the model returns.

    Raises:
        ValueError: no sizes, or a size that is not positive.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        min_sizes: Sequence[int],
        max_size: int,
        flip: bool = True,
        align: int = 0,
        softmax: bool = True,
    ) -> None:
        super().__init__(model)
        if len(min_sizes) == 0 or min(*min_sizes, max_size) < 1:
            raise ValueError(
                f"TEST.AUG.MIN_SIZES is {list(min_sizes)} and MAX_SIZE {max_size}; expected one or "
                "more positive sizes"
            )
        if align > 0:
            self.resizes = [ResizeAligned(size, max_size, align) for size in min_sizes]
        else:
            self.resizes = [ResizeShortestEdge([s], max_size, "choice") for s in min_sizes]
        self.flip = flip
        self.softmax = softmax

    def _predict(self, image: Tensor, height: int, width: int) -> Tensor:
        if image.dtype != torch.uint8:  # the floats of detectron2's DefaultPredictor
            image = image.round().clamp(0, 255).to(torch.uint8)
        pixels = image.permute(1, 2, 0).cpu().numpy()
        total, count = None, 0
        for resize in self.resizes:
            resized = resize.get_transform(pixels).apply_image(pixels)
            resized = torch.from_numpy(resized.transpose(2, 0, 1).copy())
            for mirrored in (False, True) if self.flip else (False,):
                (scores,) = self._run([resized.flip(-1) if mirrored else resized], height, width)
                scores = scores.float().softmax(dim=0) if self.softmax else scores
                if total is None:
                    total = torch.zeros_like(scores, dtype=torch.float32)
                total += scores.flip(-1) if mirrored else scores
                count += 1
        return total / count

"""Multi-scale and flip test-time augmentation for any model that returns ``sem_seg``."""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from torch import Tensor, nn

from lrformer.data.augmentation import ResizeAligned

from .wrapper import SemSegWrapper


class SemanticTTA(SemSegWrapper):
    """Averages a model's scores over resized and mirrored versions of the image.

    The input's "image" is best the original one: it is resized here, and only once. (With
    ``TEST.AUG.ENABLED`` the test mapper and the predictor leave it as it is.) One version goes
    through the model at a time, and the mean is taken at the image's own height and width.
    """

    @configurable
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
        """
        Args:
            model: see :class:`SemSegWrapper`.
            min_sizes: short sides to resize the image to, pixels; the aspect is kept.
            max_size: upper bound of the long side, pixels.
            flip: also run each size mirrored left to right.
            align: stretch each resized image up to a multiple of this on each side; 0: not.
            softmax: average class probabilities, for a model that returns logits; False averages
                what the model returns.

        Raises:
            ValueError: no sizes, or a size that is not positive.
        """
        super().__init__(model)
        if len(min_sizes) == 0 or any(size < 1 for size in min_sizes):
            raise ValueError(
                f"TEST.AUG.MIN_SIZES is {list(min_sizes)}, expected one or more positive sizes"
            )
        if max_size < 1:
            raise ValueError(f"TEST.AUG.MAX_SIZE is {max_size}, expected a positive size")
        if align > 0:
            self.resizes = [ResizeAligned(size, max_size, align) for size in min_sizes]
        else:
            self.resizes = [T.ResizeShortestEdge([s], max_size, "choice") for s in min_sizes]
        self.flip = flip
        self.softmax = softmax

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> dict:
        return {
            "model": model,
            "min_sizes": cfg.TEST.AUG.MIN_SIZES,
            "max_size": cfg.TEST.AUG.MAX_SIZE,
            "flip": cfg.TEST.AUG.FLIP,
            "align": cfg.INPUT.ALIGN_TEST,
            # Mask classification already weights its masks by class probabilities.
            "softmax": cfg.MODEL.META_ARCHITECTURE != "MaskFormer",
        }

    def _predict(self, x: dict, height: int, width: int) -> Tensor:
        image = _to_uint8(x["image"])
        total = None
        for resize in self.resizes:
            resized = resize.get_transform(image).apply_image(image)
            resized = torch.from_numpy(resized.transpose(2, 0, 1).copy())
            for mirrored in (False, True) if self.flip else (False,):
                (scores,) = self._run([resized.flip(-1) if mirrored else resized], height, width)
                if self.softmax:
                    scores = scores.float().softmax(dim=0)
                if total is None:
                    total = torch.zeros_like(scores, dtype=torch.float32)
                total += scores.flip(-1) if mirrored else scores
        total /= len(self.resizes) * (2 if self.flip else 1)
        return total


def _to_uint8(image: Tensor) -> np.ndarray:
    """H x W x C bytes, which the resize filters best; DefaultPredictor gives floats."""
    if image.dtype != torch.uint8:
        image = image.round().clamp(0, 255).to(torch.uint8)
    return image.permute(1, 2, 0).cpu().numpy()

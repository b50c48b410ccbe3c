"""The class of every pixel, without the scores of all classes at the image's size."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.resize import Size, resized_bands

# Rounding of two bilinear resizes, relative to the largest logit.
_ROUNDING = 1e-5


def class_map(logits: Tensor, stride: int, size: Size, output_size: Size) -> Tensor:
    """Where each pixel's score is highest, from a head's logits for one image; HxW int64.

    The scores are, up to rounding, ``sem_seg_postprocess(enlarged, size, *output_size)``, where
    ``enlarged`` are the logits after a bilinear resize by ``stride``.

    Args:
        logits: Kxhxw, float32. What is not finite counts as the nearest number, NaN as 0.
        stride: of the logits in the network's input.
        size: height and width of the image in the network's input, which may be padded.
        output_size: height and width of the map.
    """
    height, width = (stride * side for side in logits.shape[1:])
    steps = [((height, width), size)]
    if output_size != size:
        steps.append((output_size, output_size))
    logits = logits.nan_to_num()
    classes = _candidates(logits)
    winners = torch.empty(output_size, dtype=torch.int64, device=logits.device)
    for rows, scores in resized_bands(logits[classes], steps):
        winners[rows] = classes[scores.max(dim=1).indices]
    return winners


def argmax(scores: Tensor) -> Tensor:
    """``scores.argmax(0)`` of KxHxW; on CPUs several times as fast."""
    return scores.max(dim=0).indices


def _candidates(logits: Tensor) -> Tensor:
    """The classes that may have the highest score somewhere after the resizes, ascending.

    A pixel's scores are means of the logits around it, with the same weights for all classes. A
    class is left out if around every pixel its highest logit is below the lowest of another.
    """
    # Two resizes in sequence reach over 3x3 logits at most, which one of these windows holds.
    window = {"kernel_size": 4, "stride": 2, "padding": 1, "ceil_mode": True}
    x = logits[None].contiguous(memory_format=torch.channels_last)
    highest = F.max_pool2d(x, **window)[0]
    lowest = -F.max_pool2d(-x, **window)[0]
    to_reach = lowest.amax(0) - _ROUNDING * logits.abs().max()
    return (highest >= to_reach).flatten(1).any(1).nonzero()[:, 0]

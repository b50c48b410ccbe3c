"""The class of every pixel, without the scores of all classes at the image's size.

Every class is enlarged by the calls that detectron2 makes for all of them at once, and its scores
are those same numbers; the map is therefore the one that ``argmax`` would give. Classes that cannot
win anywhere are left out before that.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from detectron2.modeling.postprocessing import sem_seg_postprocess
from torch import Tensor

Size = tuple[int, int]

# Scores that are enlarged at once: few enough for a CPU's cache, enough to fill a GPU.
_CPU_VALUES = 2**20
_GPU_VALUES = 2**26
# Fewer channels are resized by other kernels, and so are small maps, in which the place of a
# channel among the others decides how it is rounded.
_LEAST_CHANNELS = 4
_SMALL_MAP = 128  # height + width
# Rounding of two bilinear resizes, relative to the largest logit: some ten times 2**-24.
_ROUNDING = 1e-5


def class_map(logits: Tensor, stride: int, size: Size, output_size: Size) -> Tensor:
    """The class map that follows from a head's logits for one image.

    Exactly ``sem_seg_postprocess(enlarged, size, *output_size).argmax(0)``, where ``enlarged`` are
    the contiguous logits after ``F.interpolate(scale_factor=stride, mode="bilinear")``. (Logits in
    channels-last memory are enlarged by another kernel, whose scores are rounded differently: maps
    can differ where two classes are equal up to rounding.)

    Args:
        logits: Kxhxw, float32.
        stride: of the logits in the network's input.
        size: height and width of the image in the network's input, which may be padded.
        output_size: height and width of the map.

    Returns:
        HxW int64, on the logits' device.
    """
    classes, at_once = range(len(logits)), len(logits)
    enlarged_size = [stride * side for side in logits.shape[1:]]
    if min(sum(enlarged_size), sum(output_size)) > _SMALL_MAP:
        if bool(logits.isfinite().all()):
            classes = _candidates(logits)
        values = _GPU_VALUES if logits.is_cuda else _CPU_VALUES
        at_once = max(_LEAST_CHANNELS, values // (output_size[0] * output_size[1]))

    def enlarged() -> Iterator[tuple[Sequence[int], Tensor]]:
        for start in range(0, len(classes), at_once):
            # The last ones may be there a second time; that does not change who wins.
            first = min(start, max(len(classes) - _LEAST_CHANNELS, 0))
            chunk = classes[first : start + at_once]
            scores = logits[list(chunk)].contiguous()
            scores = F.interpolate(
                scores[None], scale_factor=stride, mode="bilinear", align_corners=False
            )[0]
            if size == output_size:  # A resize to the same size changes nothing.
                yield chunk, scores[:, : size[0], : size[1]]
            else:
                yield chunk, sem_seg_postprocess(scores, size, *output_size)

    return _winners(enlarged())


def argmax(scores: Tensor) -> Tensor:
    """``scores.argmax(0)`` of KxHxW without NaN; on CPUs several times as fast."""
    if scores.is_cuda:
        return scores.argmax(0)
    return _winners((range(k, k + 1), scores[k : k + 1]) for k in range(len(scores)))


def _candidates(logits: Tensor) -> list[int]:
    """The classes that may have the highest score somewhere after the enlargements.

    A pixel's scores are means of the logits around it, with the same weights for all classes. A
    class is left out if around every pixel its highest logit is below the lowest of another.
    """
    # Two resizes in sequence reach over 3x3 logits at most, which one of these windows holds.
    window = {"kernel_size": 4, "stride": 2, "padding": 1, "ceil_mode": True}
    x = logits[None].contiguous(memory_format=torch.channels_last)
    highest = F.max_pool2d(x, **window)[0]
    lowest = -F.max_pool2d(-x, **window)[0]
    to_reach = lowest.amax(0) - _ROUNDING * logits.abs().max()
    can_win = (highest >= to_reach).flatten(1).any(1)
    missing = _LEAST_CHANNELS - int(can_win.sum())
    if missing > 0:
        can_win[(~can_win).nonzero()[:missing, 0]] = True
    return can_win.nonzero()[:, 0].tolist()


def _winners(parts: Iterator[tuple[Sequence[int], Tensor]]) -> Tensor:
    """HxW int64 from classes, ascending, and their scores; of equal scores the first class."""
    best = winner = None
    for classes, scores in parts:
        if scores.is_cuda:  # One reduction is faster there than many small kernels.
            value, index = scores.max(0)
            planes = [(torch.tensor(classes, device=scores.device)[index], value)]
        else:
            planes = list(zip(classes, scores, strict=True))
        for label, value in planes:
            if best is None:
                best = value.clone()
                winner = torch.full_like(value, 0, dtype=torch.int16) + label
                continue
            better = value > best
            torch.maximum(best, value, out=best)
            if isinstance(label, int):
                winner.masked_fill_(better, label)
            else:
                winner = torch.where(better, label, winner)
    return winner.long()

"""From a class and a mask for every query to semantic, instance and panoptic predictions.

Masks are enlarged to the image's size band by band of rows, and what a task needs is gathered from
each band. Queries x height x width values therefore never exist at once.
"""

from collections.abc import Collection, Iterator, Sequence

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from torch import Tensor

Size = tuple[int, int]

# Values in a band: few enough for a CPU's cache, enough to fill a GPU.
_CPU_BAND = 2**20
_GPU_BAND = 2**26


class EnlargedMasks:
    """Rows of masks after a chain of bilinear resizes, each of which may be cropped afterwards.

    The rows are those that ``F.interpolate`` (align_corners=False) would give for the whole map.

    Args:
        masks: Qxhxw.
        steps: (size to resize to, size to crop to at the top left) of each step.
    """

    def __init__(self, masks: Tensor, steps: Sequence[tuple[Size, Size]]):
        self.masks = masks
        self.steps = list(steps)
        self.size = self.steps[-1][1]

    def bands(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order: where each band lies, and its Qx(rows)x(width) values, float32."""
        height, width = self.size
        values = _CPU_BAND if self.masks.device.type == "cpu" else _GPU_BAND
        rows = max(1, values // (max(len(self.masks), 1) * width))
        for start in range(0, height, rows):
            band = slice(start, min(start + rows, height))
            yield band, self._rows(len(self.steps), band.start, band.stop)

    def _rows(self, step: int, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` after so many steps."""
        if step == 0:
            return self.masks[:, start:stop].float()
        size, crop = self.steps[step - 1]
        source = self.steps[step - 2][1] if step > 1 else tuple(self.masks.shape[1:])
        if size == source:
            rows = self._rows(step - 1, start, stop)
        else:
            # Vertically by hand, as F.interpolate does; it cannot start in the middle of a map.
            position = torch.arange(start, stop, dtype=torch.float64) + 0.5
            position = (position * (source[0] / size[0]) - 0.5).clamp(min=0)
            above = position.long()
            below = (above + 1).clamp(max=source[0] - 1)
            first, last = int(above[0]), int(below[-1])
            rows = self._rows(step - 1, first, last + 1)
            share = (position - above).to(rows)[:, None]
            above, below = (above - first).to(rows.device), (below - first).to(rows.device)
            rows = torch.lerp(rows[:, above], rows[:, below], share)
            rows = F.interpolate(
                rows[None], (stop - start, size[1]), mode="bilinear", align_corners=False
            )[0]
        return rows[..., : crop[1]]


class SemanticMap:
    """Class scores of every pixel: sum over queries of class probability times mask."""

    def __init__(self, class_logits: Tensor, size: Size):
        self.weights = class_logits.float().softmax(-1)[:, :-1].T.contiguous()
        self.scores = class_logits.new_empty((len(self.weights), *size), dtype=torch.float32)

    def add(self, band: slice, logits: Tensor, inside: Tensor) -> None:
        self.scores[:, band] = (self.weights @ inside.flatten(1)).unflatten(1, inside.shape[1:])

    def result(self) -> Tensor:
        """KxHxW float32."""
        return self.scores


class InstanceList:
    """The most probable (query, class) pairs, scored by probability times quality of the mask."""

    def __init__(
        self,
        class_logits: Tensor,
        size: Size,
        max_instances: int,
        classes: Collection[int] | None = None,
    ):
        """
        Args:
            class_logits: Qx(classes + 1).
            size: of the image.
            max_instances: how many at most.
            classes: those that may be instances; None: all.
        """
        scores = class_logits.float().softmax(-1)[:, :-1]
        num_classes = scores.shape[1]
        scores, index = scores.flatten().topk(min(max_instances, scores.numel()))
        labels = index % num_classes
        if classes is not None:
            allowed = torch.zeros(num_classes, dtype=torch.bool)
            allowed[list(classes)] = True
            keep = allowed.to(labels.device)[labels]
            scores, index, labels = scores[keep], index[keep], labels[keep]
        # A query may be there with several classes; its mask is needed once.
        self.queries, self.mask_of = (index // num_classes).unique(return_inverse=True)
        self.scores, self.labels = scores, labels
        count, device = len(self.queries), class_logits.device
        self.masks = torch.zeros((count, *size), dtype=torch.bool, device=device)
        self.area = torch.zeros(count, device=device)
        self.confidence = torch.zeros(count, device=device)

    def add(self, band: slice, logits: Tensor, inside: Tensor) -> None:
        mask = logits[self.queries] > 0
        self.masks[:, band] = mask
        self.area += mask.sum((1, 2))
        self.confidence += (inside[self.queries] * mask).sum((1, 2))

    def result(self) -> Instances:
        """``pred_masks`` (bool), ``pred_boxes`` (around them), ``scores``, ``pred_classes``."""
        quality = self.confidence / (self.area + 1e-6)
        result = Instances(tuple(self.masks.shape[1:]))
        result.pred_masks = self.masks[self.mask_of]
        result.pred_boxes = Boxes(_boxes(self.masks)[self.mask_of])
        result.scores = self.scores * quality[self.mask_of]
        result.pred_classes = self.labels
        return result


class PanopticMap:
    """Every pixel to the query that is most probable there (MaskFormer, arXiv 2107.06278)."""

    def __init__(
        self,
        class_logits: Tensor,
        size: Size,
        object_mask_threshold: float,
        overlap_threshold: float,
        things: Collection[int],
    ):
        """
        Args:
            class_logits: Qx(classes + 1).
            size: of the image.
            object_mask_threshold: queries at most this probable are left out.
            overlap_threshold: so are those of whose mask less than this share is left to them.
            things: classes whose segments stay apart; those of any other are merged.
        """
        scores, labels = class_logits.float().softmax(-1).max(-1)
        keep = (labels != class_logits.shape[-1] - 1) & (scores > object_mask_threshold)
        self.queries = keep.nonzero()[:, 0]
        self.scores, self.labels = scores[keep], labels[keep]
        self.overlap_threshold = overlap_threshold
        self.things = frozenset(things)
        count, device = len(self.queries), class_logits.device
        # The winning query of each pixel; ``count`` where it is not sure of it.
        self.winner = torch.full(size, count, dtype=torch.int64, device=device)
        # Pixels that a query wins, that its mask has, and both at once.
        self.areas = torch.zeros((3, count + 1), dtype=torch.int64, device=device)

    def add(self, band: slice, logits: Tensor, inside: Tensor) -> None:
        count = len(self.queries)
        if count == 0:
            return
        inside = inside[self.queries]
        winner = (inside * self.scores[:, None, None]).argmax(0)
        inside = inside >= 0.5
        sure = inside.gather(0, winner[None])[0]
        self.winner[band] = torch.where(sure, winner, count)
        self.areas[0] += winner.flatten().bincount(minlength=count + 1)
        self.areas[1, :count] += inside.sum((1, 2))
        self.areas[2] += self.winner[band].flatten().bincount(minlength=count + 1)

    def result(self) -> tuple[Tensor, list[dict]]:
        """HxW int32 segment numbers, 0 where there is none, and what the segments are."""
        segment_of = [0] * (len(self.queries) + 1)
        segments: list[dict] = []
        stuff: dict[int, int] = {}
        won, whole, left = self.areas.tolist()
        labels, scores = self.labels.tolist(), self.scores.tolist()
        for i, (label, score) in enumerate(zip(labels, scores, strict=True)):
            if left[i] == 0 or won[i] / whole[i] < self.overlap_threshold:
                continue
            is_thing = label in self.things
            if not is_thing and label in stuff:
                segment_of[i] = stuff[label]
                continue
            segment_of[i] = len(segments) + 1
            if not is_thing:
                stuff[label] = segment_of[i]
            segments.append(
                {
                    "id": segment_of[i],
                    "isthing": is_thing,
                    "category_id": label,
                    "score": score,
                }
            )
        table = torch.tensor(segment_of, dtype=torch.int32).to(self.winner.device)
        return table[self.winner], segments


def _boxes(masks: Tensor) -> Tensor:
    """Boxes around Nx(HxW) masks, Nx4 as (x1, y1, x2, y2); 0 for an empty mask."""

    def extent(present: Tensor) -> tuple[Tensor, Tensor]:
        length = present.shape[1]
        position = torch.arange(length, device=present.device)
        first = torch.where(present, position, length).amin(1)
        last = torch.where(present, position + 1, 0).amax(1)
        return first.clamp(max=last), last

    x1, x2 = extent(masks.any(1))
    y1, y2 = extent(masks.any(2))
    return torch.stack([x1, y1, x2, y2], dim=1).float()

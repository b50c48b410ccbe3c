"""From a class and a mask for every query to semantic, instance and panoptic predictions.

Masks are enlarged to the image's size band by band of rows (:mod:`lrformer.ops.resize`), and what a
task needs is gathered from each band. Queries x height x width values therefore never exist at
once. A band's mask logits, and what they are after the sigmoid, are rows x queries x width.
"""

from collections.abc import Collection

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ...ops.resize import Size


class SemanticMap:
    """Class scores of every pixel: sum over queries of class probability times mask."""

    def __init__(self, class_logits: Tensor, size: Size):
        self.weights = class_logits.float().softmax(-1)[:, :-1].T.contiguous()
        self.scores = class_logits.new_empty((len(self.weights), *size), dtype=torch.float32)

    def add(self, band: slice, logits: Tensor, inside: Tensor) -> None:
        self.scores[:, band] = (self.weights @ inside).transpose(0, 1)

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
        mask = logits[:, self.queries] > 0
        self.masks[:, band] = mask.transpose(0, 1)
        self.area += mask.sum((0, 2))
        self.confidence += (inside[:, self.queries] * mask).sum((0, 2))

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
        inside = inside[:, self.queries]
        winner = (inside * self.scores[:, None]).argmax(1)
        inside = inside >= 0.5
        sure = inside.gather(1, winner[:, None])[:, 0]
        self.winner[band] = torch.where(sure, winner, count)
        self.areas[0] += winner.flatten().bincount(minlength=count + 1)
        self.areas[1, :count] += inside.sum((0, 2))
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
                {"id": segment_of[i], "isthing": is_thing, "category_id": label, "score": score}
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

"""Class maps, instances and panoptic segments in one form, which is what gets drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Instances


@dataclass(frozen=True)
class Segment:
    """A region of an image.

    Attributes:
        mask: H x W bool.
        label: contiguous id of its class.
        thing: an object that is told apart from others of its class.
        score: from 0 to 1; None for a ground truth.
        crowd: several objects that were not told apart (COCO's ``iscrowd``).
    """

    mask: np.ndarray
    label: int
    thing: bool = True
    score: float | None = None
    crowd: bool = False


_PHRASE_COLOR = (255, 0, 200)

# What segments_of() takes.
Prediction = np.ndarray | Instances | tuple[np.ndarray, Sequence[dict]] | list[Segment]


def segments_of(
    prediction: Prediction, metadata: Any, score_threshold: float = 0.0
) -> list[Segment]:
    """What a model predicts, or a ground truth, as segments that have any pixel.

    Args:
        prediction: on the CPU, one of

            - H x W integers, the class of each pixel; the metadata's ignore label (255 where it has
              none) and negative labels are no class;
            - ``Instances`` with ``pred_masks`` (N x H x W), ``pred_classes`` and ``scores``;
            - (H x W integers, a dict a segment: "id", "category_id", "isthing", and where they are
              known "score" and "iscrowd"); an id that no segment has is nothing;
            - segments.
        metadata: detectron2 metadata.
        score_threshold: instances below it are left out.
    """
    if isinstance(prediction, Instances):
        chosen = prediction[prediction.scores >= score_threshold]
        masks, labels = np.asarray(chosen.pred_masks, dtype=bool), chosen.pred_classes.tolist()
        segments = map(Segment, masks, labels, [True] * len(masks), chosen.scores.tolist())
    elif isinstance(prediction, tuple):
        ids = np.asarray(prediction[0])
        segments = (
            Segment(
                mask=ids == info["id"],
                label=info["category_id"],
                thing=bool(info["isthing"]),
                score=info.get("score"),
                crowd=bool(info.get("iscrowd", False)),
            )
            for info in prediction[1]
        )
    elif isinstance(prediction, np.ndarray):
        labels = set(np.unique(prediction).tolist()) - {metadata.get("ignore_label", 255)}
        segments = (Segment(prediction == i, i, False) for i in sorted(labels) if i >= 0)
    else:
        segments = prediction
    return [segment for segment in segments if segment.mask.any()]


def phrase_segment(mask: np.ndarray) -> Segment:
    """What a phrase means, an H x W bool mask: of the only class of :func:`phrase_metadata`."""
    return Segment(mask, 0, thing=False)


def phrase_metadata(phrase: str) -> Metadata:
    """A picture's names and colours where it shows what a phrase means."""
    return Metadata(phrase=phrase, stuff_classes=[phrase], stuff_colors=[_PHRASE_COLOR])


def resize_segments(segments: Sequence[Segment], height: int, width: int) -> list[Segment]:
    """The segments of a larger or smaller image; those that lose every pixel are left out."""
    size, nearest = (width, height), cv2.INTER_NEAREST_EXACT
    masks = [cv2.resize(s.mask.view(np.uint8), size, interpolation=nearest) for s in segments]
    resized = (replace(s, mask=m.view(bool)) for s, m in zip(segments, masks, strict=True))
    return [segment for segment in resized if segment.mask.any()]

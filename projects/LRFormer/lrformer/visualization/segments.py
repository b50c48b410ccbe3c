"""Instances and panoptic segments in one form, which is what gets drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
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


def segments_of_instances(instances: Instances, score_threshold: float = 0.0) -> list[Segment]:
    """The instances that a model predicted, those of at least this score that have any pixel.

    Args:
        instances: with ``pred_masks`` (N x H x W), ``pred_classes`` and ``scores``, on any device.
        score_threshold: from 0 to 1.

    Raises:
        ValueError: they have no ``pred_masks``.
    """
    if not instances.has("pred_masks"):
        raise ValueError(
            "the instances have no pred_masks (they have: "
            f"{', '.join(instances.get_fields())}); a model that predicts masks is needed here"
        )
    instances = instances[instances.scores >= score_threshold].to("cpu")
    segments = (
        Segment(mask, label, score=score)
        for mask, label, score in zip(
            np.asarray(instances.pred_masks, dtype=bool),
            instances.pred_classes.tolist(),
            instances.scores.tolist(),
            strict=True,
        )
    )
    return [segment for segment in segments if segment.mask.any()]


def segments_of_panoptic(panoptic_seg: Any, segments_info: Sequence[dict]) -> list[Segment]:
    """The segments of a panoptic map that have any pixel.

    Args:
        panoptic_seg: H x W integers, an array or a tensor on any device; an id that no segment has
            (0 by detectron2's convention) is nothing.
        segments_info: a dict a segment: "id", "category_id" (contiguous), "isthing", and where they
            are known "score" and "iscrowd".
    """
    ids = to_array(panoptic_seg)
    present = set(np.unique(ids).tolist())
    return [
        Segment(
            ids == info["id"],
            info["category_id"],
            thing=bool(info["isthing"]),
            score=info.get("score"),
            crowd=bool(info.get("iscrowd", False)),
        )
        for info in segments_info
        if info["id"] in present
    ]


def resize_segments(segments: Sequence[Segment], height: int, width: int) -> list[Segment]:
    """The segments of a larger or smaller image; those that lose every pixel are left out."""
    resized = [
        replace(
            s,
            mask=cv2.resize(
                s.mask.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
            ).view(bool),
        )
        for s in segments
    ]
    return [s for s in resized if s.mask.any()]


def to_array(values: Any) -> np.ndarray:
    """An array of what is an array, or a tensor on any device."""
    return values if isinstance(values, np.ndarray) else values.cpu().numpy()

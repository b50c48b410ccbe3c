"""COCO-format annotations of the demo scenes: objects, and panoptic segments.

The id of a segment is its category (label + 1) plus 256 times the number of its object (0 for
stuff), so that the panoptic maps hold everything that the json files are made of.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from .street_scene import CLASSES, COLORS, THINGS, Scene

# Objects of which fewer pixels are seen are neither learned nor scored.
MIN_PIXELS = 10

_CATEGORIES = [
    {
        "id": label + 1,
        "name": name,
        "supercategory": "thing" if name in THINGS else "stuff",
        "isthing": int(name in THINGS),
        "color": list(color),
    }
    for label, (name, color) in enumerate(zip(CLASSES, COLORS, strict=True))
]
_THING_CATEGORIES = frozenset(c["id"] for c in _CATEGORIES if c["isthing"])
_INFO = {"description": "LRFormer's demo scenes", "version": "1.0"}


def panoptic_image(scene: Scene) -> np.ndarray:
    """The panoptic map of a scene as COCO stores it.

    Returns:
        H×W×3 uint8, RGB with id = R + 256 G + 256² B; 0 where fewer than ``MIN_PIXELS`` pixels of
        an object are seen.
    """
    seen = np.bincount(scene.instance.ravel())
    kept = (scene.instance == 0) | (seen >= MIN_PIXELS)[scene.instance]
    channels = (scene.semantic + 1, scene.instance & 255, scene.instance >> 8)
    return np.stack([(c * kept).astype(np.uint8) for c in channels], axis=-1)


class CocoFiles:
    """Collects the annotations of one split, scene by scene in the order of their numbers."""

    def __init__(self) -> None:
        self._images: list[dict[str, Any]] = []
        self._objects: list[dict[str, Any]] = []
        self._panoptic: list[dict[str, Any]] = []

    def add(self, image_name: str, map_name: str, panoptic: np.ndarray) -> None:
        """Add the scene whose panoptic map is ``panoptic`` (see :func:`panoptic_image`)."""
        height, width = panoptic.shape[:2]
        image_id = len(self._images) + 1
        self._images.append(
            {"id": image_id, "file_name": image_name, "height": height, "width": width}
        )
        # Column by column, as run lengths go.
        red, green, blue = np.asfortranarray(panoptic).transpose(2, 0, 1).astype(np.int32)
        ids = red + 256 * green + 256**2 * blue
        segments = []
        for segment in np.flatnonzero(np.bincount(ids.ravel(order="K"))).tolist():
            if segment == 0:
                continue
            rle = mask_util.encode(np.asfortranarray(ids == segment).view(np.uint8))
            entry = {
                "id": segment,
                "category_id": segment & 255,
                "area": int(mask_util.area(rle)),
                "bbox": [int(value) for value in mask_util.toBbox(rle)],
                "iscrowd": 0,
            }
            segments.append(entry)
            if entry["category_id"] in _THING_CATEGORIES:
                rle["counts"] = rle["counts"].decode("ascii")
                # pycocotools takes a match with annotation 0 for no match.
                number = {"id": len(self._objects) + 1, "image_id": image_id}
                self._objects.append(entry | number | {"segmentation": rle})
        self._panoptic.append(
            {"image_id": image_id, "file_name": map_name, "segments_info": segments}
        )

    def instances_json(self) -> bytes:
        """COCO's object annotations, of cars and people."""
        things = [c for c in _CATEGORIES if c["isthing"]]
        return self._json(self._objects, things)

    def panoptic_json(self) -> bytes:
        """COCO's panoptic annotations, of all classes."""
        return self._json(self._panoptic, _CATEGORIES)

    def _json(self, annotations: Sequence[dict], categories: Sequence[dict]) -> bytes:
        content = {
            "info": _INFO,
            "licenses": [],
            "images": self._images,
            "annotations": annotations,
            "categories": categories,
        }
        return json.dumps(content).encode() + b"\n"

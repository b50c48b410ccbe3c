"""Made-up scenes: ellipses of different classes before a background, with smooth colours and grain.

Models are trained on batches of them, and mappers read them as files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.structures import BitMasks, BoxMode, Instances
from PIL import Image

_OBJECTS = 10  # an image of ADE20K has about as many segments
_GRAIN = 6.0  # of 255; JPEG files are then as large as those of photographs


@dataclass(frozen=True)
class Scene:
    """A made-up image."""

    image: np.ndarray  # HxWx3 uint8
    segments: np.ndarray  # HxW uint8, which of the classes a pixel is; 0 is the background
    classes: np.ndarray  # of the segments
    outlines: list[np.ndarray]  # Nx2 (x, y) polygons of all but the background, also where covered


def scene(size: tuple[int, int], classes: int, seed: int) -> Scene:
    """The scene of ``seed``, (height, width) large; the same for as many classes."""
    random = np.random.default_rng(seed)
    height, width = size
    smooth = random.uniform(0, 255, (9, 9, 3)).astype(np.float32)
    image = cv2.resize(smooth, (width, height), interpolation=cv2.INTER_CUBIC)
    image += random.normal(0, _GRAIN, image.shape)
    segments, outlines = np.zeros(size, np.uint8), []
    for number in range(1, _OBJECTS + 1):
        centre, axes = random.uniform(0, (width, height)), random.uniform(0.05, 0.3, 2) * min(size)
        outline = cv2.ellipse2Poly(
            np.int32(centre).tolist(), np.int32(axes + 1).tolist(), random.integers(180), 0, 360, 10
        )
        outlines.append(np.clip(outline, 0, (width - 1, height - 1)))
        cv2.fillPoly(segments, [outline], number)
        image[segments == number] += random.uniform(-60, 60, 3)
    of_segments = random.integers(classes, size=_OBJECTS + 1)
    return Scene(np.clip(image, 0, 255).astype(np.uint8), segments, of_segments, outlines)


def training_batch(batch: int, size: tuple[int, int], classes: int, masks: bool) -> list[dict]:
    """What detectron2's models are trained on: images with label maps, or with ``masks``."""
    inputs = []
    for made in (scene(size, classes, seed) for seed in range(batch)):
        inputs.append({"image": torch.from_numpy(made.image.transpose(2, 0, 1).copy())})
        if not masks:
            inputs[-1]["sem_seg"] = torch.from_numpy(made.classes[made.segments])
            continue
        seen = np.unique(made.segments)
        found = inputs[-1]["instances"] = Instances(size)
        found.gt_classes = torch.from_numpy(made.classes[seen])
        found.gt_masks = BitMasks(torch.from_numpy(made.segments == seen[:, None, None]))
    return inputs


def write_scenes(
    count: int, size: tuple[int, int], classes: int, kind: str, folder: Path, suffix: str
) -> list[dict[str, Any]]:
    """Write scenes and list them as detectron2's dataset dicts.

    Args:
        count, size, classes: of the scenes.
        kind: their annotations: "sem_seg_file_name", "annotations" or "pan_seg_file_name".
        folder, suffix: where, and ".jpg" or ".png" for the images.
    """
    records = []
    for seed in range(count):
        made, path = scene(size, classes, seed), folder / str(seed)
        record = {"file_name": f"{path}{suffix}", kind: f"{path}_truth.png"}
        Image.fromarray(made.image).save(record["file_name"], quality=93)
        if kind == "annotations":
            objects = zip(made.outlines, made.classes[1:].tolist(), strict=True)
            record[kind] = [_object(outline, of_class) for outline, of_class in objects]
        elif kind == "sem_seg_file_name":
            labels = made.classes[made.segments].astype(np.uint8)
            Image.fromarray(labels).save(record[kind])
        else:
            # COCO's ids: red + 256 green + 256² blue; 0 is no segment.
            ids = np.stack([made.segments + 1, *2 * [np.zeros_like(made.segments)]], axis=-1)
            Image.fromarray(ids).save(record[kind])
            record["segments_info"] = [
                {"id": number + 1, "category_id": int(made.classes[number])}
                for number in np.unique(made.segments).tolist()
            ]
        records.append(record)
    return records


def _object(outline: Sequence, of_class: int) -> dict[str, Any]:
    return {
        "category_id": of_class,
        "segmentation": [outline.ravel().tolist()],
        "bbox": [*outline.min(0).tolist(), *outline.max(0).tolist()],
        "bbox_mode": BoxMode.XYXY_ABS,
        "iscrowd": 0,
    }

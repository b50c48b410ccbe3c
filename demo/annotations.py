"""COCO-format annotations of the demo scenes: objects, and panoptic segments.

The id of a segment is its category (label + 1) plus 256 times the number of its object (0 for
stuff), so that the panoptic maps hold everything that the json files are made of.
"""

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from lrformer.data.metadata import DEMO_CLASSES, DEMO_COLORS, DEMO_THINGS

from .scene import Scene

# Objects of which fewer pixels are seen are neither learned nor scored.
MIN_PIXELS = 10


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


def write_annotations(maps: Path, file: Path) -> None:
    """Write COCO's annotations of the panoptic maps (PNG) in a folder to a JSON file.

    One whose name begins with "panoptic" gets all segments of each image, any other only the
    objects, each with its mask.
    """
    panoptic = file.name.startswith("panoptic")
    images, annotations, categories = [], [], []
    for image_id, source in enumerate(sorted(maps.glob("*.png")), start=1):
        with Image.open(source) as image:
            ids = np.asarray(image.convert("RGB")).astype(np.int32) @ [1, 1 << 8, 1 << 16]
        size = {"height": ids.shape[0], "width": ids.shape[1]}
        images.append({"id": image_id, "file_name": f"{source.stem}.jpg", **size})
        segments = []
        for segment in np.unique(ids[ids > 0]).tolist():
            if not panoptic and DEMO_CLASSES[segment % 256 - 1] not in DEMO_THINGS:
                continue
            mask = mask_util.encode(np.asfortranarray(ids == segment, np.uint8))
            entry = {"id": segment, "category_id": segment % 256, "iscrowd": 0}
            entry["area"] = int(mask_util.area(mask))
            entry["bbox"] = [int(value) for value in mask_util.toBbox(mask)]
            segments.append(entry)
            if not panoptic:
                # pycocotools takes a match with annotation 0 for no match.
                entry |= {"id": len(annotations) + len(segments), "image_id": image_id}
                entry["segmentation"] = mask | {"counts": mask["counts"].decode("ascii")}
        if panoptic:
            segments = [{"image_id": image_id, "file_name": source.name, "segments_info": segments}]
        annotations += segments
    for label, (name, color) in enumerate(zip(DEMO_CLASSES, DEMO_COLORS, strict=True)):
        thing = name in DEMO_THINGS
        if panoptic or thing:
            kind = {"supercategory": "thing" if thing else "stuff", "isthing": int(thing)}
            categories.append({"id": label + 1, "name": name, "color": list(color), **kind})
    content = {"images": images, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps({"info": {"description": "LRFormer's demo scenes"}, **content}))

"""Label files that list objects, read into one form: COCO, labelme, CVAT, Label Studio."""

import base64
import io
import json
import logging
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from ..masks import object_mask
from ..prepare import save_label
from ..reading import check_map_size, image_size, read_panoptic
from ..tree import DatasetError, some
from .masks import list_files, read_values

logger = logging.getLogger(__name__)


class Object(NamedTuple):
    """An object of an image.

    Attributes:
        name: of its class.
        segmentation: polygons [[x0, y0, x1, …], …] or COCO's run lengths, in pixels; a file that
            is not 0 where it is; empty where it has no area, as a point.
        crowd: whether it stands for several that are not told apart.
        segment: its id, where the file is COCO's panoptic map.
    """

    name: str
    segmentation: list | dict | Path
    crowd: bool = False
    segment: int | None = None


# Names of classes, and by file name the objects of an image in the order in which they are drawn.
_Read = tuple[list[str], dict[str, list[Object]]]


def kind_of(labels: Path) -> str | None:
    """ "coco", "panoptic", "labelme", "cvat", "labelstudio", or None for what lists no objects."""
    if labels.is_dir():
        first = next(_json_files(labels), None)
        return first and kind_of(first)
    if labels.suffix.lower() == ".xml":
        return "cvat"
    if labels.suffix.lower() != ".json":
        return None
    # Not parsed, as these files may have hundreds of megabytes.
    text = labels.read_text(encoding="utf-8", errors="replace")
    if text.lstrip()[:1] == "[":
        return "labelstudio"
    if '"segments_info"' in text:
        return "panoptic"
    if '"annotations"' in text and '"images"' in text:
        return "coco"
    return "labelme" if '"shapes"' in text else None


def read_objects(labels: Path, images: Mapping[str, Path]) -> _Read:
    """The classes, and the objects of ``images``, by their paths below their folder without suffix.

    Raises:
        DatasetError: a file cannot be understood, or none of the images is in it.
    """
    kind = kind_of(labels)
    try:
        names, found = _READERS[kind](labels)
    except (KeyError, TypeError, ValueError, AttributeError, ElementTree.ParseError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(
            f"{labels}: cannot be understood as {kind} labels: {type(error).__name__}: {error}."
        ) from error
    by_name = {Path(key).name: key for key in images}
    objects, left_out = {}, 0
    for file_name, listed in found.items():
        path = Path(file_name.replace("\\", "/")).with_suffix("")
        # Label Studio puts 8 digits before the name of an upload.
        places = by_name.get(path.name), by_name.get(re.sub("^[0-9a-f]{8}-", "", path.name))
        key = next((x for x in (str(path), *places) if x in images), None)
        if key is not None:
            objects[key] = [x for x in listed if x.segmentation]
            left_out += len(listed) - len(objects[key])
            names += [x.name for x in objects[key]]
    if left_out:
        logger.warning(
            f"{labels}: {left_out} annotations are no areas and not used (boxes, points)"
        )
    if not objects:
        raise DatasetError(f"{labels}: lists none of the {len(images)} images ({some(images)}).")
    return list(dict.fromkeys(names)), objects


def _json_files(folder: Path) -> Iterator[Path]:
    return (x for x in list_files(folder) if x.suffix.lower() == ".json")


def _load_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} is no readable JSON file: {error}") from error


def _coco(file: Path) -> _Read:
    """Larger objects first, so that what lies on them is seen."""
    content = _load_json(file)
    names = {x["id"]: x["name"] for x in content["categories"]}
    files = {x["id"]: x["file_name"] for x in content["images"]}
    found = {name: [] for name in files.values()}
    for x in sorted(content["annotations"], key=lambda x: -(x.get("area") or _box_area(x))):
        one = Object(names[x["category_id"]], x.get("segmentation") or [], bool(x.get("iscrowd")))
        found.get(files.get(x["image_id"]), []).append(one)
    # Roboflow's first category stands for all others.
    used = {x["category_id"] for x in content["annotations"]}
    parents = {x.get("supercategory") for x in content["categories"]}
    return [names[i] for i in sorted(names) if i in used or names[i] not in parents], found


def _box_area(annotation: dict) -> float:
    return math.prod(annotation.get("bbox", (0, 0, 0, 0))[2:])


def _panoptic(file: Path) -> _Read:
    content, maps = _load_json(file), file.with_suffix("")
    maps = maps if maps.is_dir() else file.parent  # as COCO's own: of the same name
    names = {x["id"]: x["name"] for x in content["categories"]}
    found = {}
    for image in content["annotations"]:
        map_file = maps / image["file_name"]
        found[image["file_name"]] = [
            Object(names[x["category_id"]], map_file, segment=x["id"])
            for x in image["segments_info"]
        ]
    return [names[i] for i in sorted(names)], found


def _labelme(folder: Path) -> _Read:
    def segmentation(shape: dict, size: Sequence[int]) -> list | dict:
        points, kind = shape["points"], shape.get("shape_type") or "polygon"
        if kind == "polygon" and len(points) > 2:
            return [sum(points, [])]
        if kind == "rectangle":
            return [_box(*points[0], *points[1])]
        if kind == "circle":
            return [_ellipse(*points[0], *2 * [math.dist(*points)])]
        if kind == "mask":
            part = Image.open(io.BytesIO(base64.b64decode(shape["mask"])))
            left, top = (round(x) for x in np.min(points, axis=0))
            return _run_lengths(np.asarray(part) != 0, top, left, size)
        return []

    found = {}
    for file in _json_files(folder):  # which has its image's name
        content = _load_json(file)
        size = content.get("imageHeight"), content.get("imageWidth")
        shapes = [Object(x["label"], segmentation(x, size)) for x in content["shapes"]]
        found[str(file.relative_to(folder))] = shapes
    return [], found


def _cvat(file: Path) -> _Read:
    def segmentation(shape: ElementTree.Element, size: Sequence[int]) -> list | dict:
        def numbers(*keys: str) -> list[float]:
            return [float(shape.get(key)) for key in keys]

        angle = float(shape.get("rotation", 0))
        if shape.tag == "polygon":
            return [[float(x) for x in re.split("[,;]", shape.get("points"))]]
        if shape.tag == "box":
            x0, y0, x1, y1 = numbers("xtl", "ytl", "xbr", "ybr")
            return [_turned(_box(x0, y0, x1, y1), angle, ((x0 + x1) / 2, (y0 + y1) / 2))]
        if shape.tag == "ellipse":
            x, y, radius_x, radius_y = numbers("cx", "cy", "rx", "ry")
            return [_turned(_ellipse(x, y, radius_x, radius_y), angle, (x, y))]
        if shape.tag == "mask":
            left, top, width, height = map(int, numbers("left", "top", "width", "height"))
            counts = [int(x) for x in shape.get("rle").split(",")]
            flat = np.repeat(np.arange(len(counts)) % 2, counts).astype(bool)
            return _run_lengths(flat.reshape(height, width), top, left, size)
        return []

    root, found = ElementTree.parse(file).getroot(), {}
    for image in root.iter("image"):
        size = int(image.get("height")), int(image.get("width"))
        shapes = (x for x in image if x.get("label") and x.tag != "tag")
        ordered = sorted(shapes, key=lambda x: int(x.get("z_order", 0)))
        found[image.get("name")] = [Object(x.get("label"), segmentation(x, size)) for x in ordered]
    return [x.findtext("name") for x in root.iter("label") if x.findtext("name")], found


def _labelstudio(file: Path) -> _Read:
    def segmentation(kind: str, value: dict, height: int, width: int) -> list | dict:
        if kind == "polygon":
            return [(np.array(value["points"]) * (width, height) / 100).reshape(-1).tolist()]
        if kind == "brush":
            mask = _unpacked(value["rle"]).reshape(height, width, 4)[..., 3] > 0
            return _run_lengths(mask, 0, 0, (height, width))
        if kind not in ("rectangle", "ellipse"):
            return []
        x, y = value["x"] * width / 100, value["y"] * height / 100
        if kind == "ellipse":
            radii = value["radiusX"] * width / 100, value["radiusY"] * height / 100
            shape = _ellipse(x, y, *radii)
        else:
            shape = _box(x, y, x + value["width"] * width / 100, y + value["height"] * height / 100)
        return [_turned(shape, value.get("rotation", 0), (x, y))]

    found = {}
    for task in _load_json(file):
        text = next(x for x in task["data"].values() if isinstance(x, str))
        objects = found[text.partition("?d=")[2] or text] = []
        done = [x for x in task.get("annotations", ()) if not x.get("was_cancelled")]
        for result in done[0]["result"] if done else ():
            kind, value = result.get("type", "").removesuffix("labels"), result.get("value", {})
            if names := value.get(f"{kind}labels"):
                size = result["original_height"], result["original_width"]
                objects.append(Object(names[0], segmentation(kind, value, *size)))
    return [], found


def _unpacked(packed: list[int]) -> np.ndarray:
    """The bytes of an RGBA picture from Label Studio's run lengths (those of thi.ng/rle-pack).

    A header: the number of words (32 bits), bits of a word less 1 (5), and of four lengths less 1
    (4 each). Then blocks: whether it is a run (1), which length (2), the length less 1, and the
    word of a run or all words.
    """
    bits, place = "".join(f"{byte:08b}" for byte in packed), 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    total, word = read(32), read(5) + 1
    sizes, words = [read(4) + 1 for _ in range(4)], []
    while len(words) < total:
        is_run, length = read(1), read(sizes[read(2)]) + 1
        words += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    return np.array(words, np.uint8)


def _box(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def _ellipse(x: float, y: float, radius_x: float, radius_y: float) -> list[float]:
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    points = np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)
    return points.reshape(-1).tolist()


def _turned(polygon: list[float], degrees: float, center: tuple[float, float]) -> list[float]:
    """Clockwise, as the image is seen."""
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return ((np.reshape(polygon, (-1, 2)) - center) @ turn + center).reshape(-1).tolist()


def _run_lengths(part: np.ndarray, top: int, left: int, size: Sequence[int]) -> dict:
    """COCO's run lengths of a mask that is a part of an image."""
    mask = np.zeros(size, np.uint8, order="F")
    height, width = mask[top : top + part.shape[0], left : left + part.shape[1]].shape
    mask[top : top + height, left : left + width] = part[:height, :width]
    return _encoded(mask)


def _encoded(mask: np.ndarray) -> dict:
    rle = mask_util.encode(np.asfortranarray(mask, np.uint8))
    return rle | {"counts": rle["counts"].decode()}


def pair_by_class(
    images: Iterable[str], files: Mapping[str, Path], names: Iterable[str]
) -> dict[str, list[Object]]:
    """The mask of each class, for the images that have some: one file a class.

    They are called ``CLASS/IMAGE.png``, ``IMAGE/CLASS.png`` or ``IMAGE_CLASS.png``.
    """
    found = {
        key: [
            Object(name, files[choice])
            for name in names
            for choice in (f"{name}/{key}", f"{key}/{name}", f"{key}_{name}")
            if choice in files
        ]
        for key in images
    }
    return {key: listed for key, listed in found.items() if listed}


_READERS: dict[str, Callable[[Path], _Read]] = {
    "coco": _coco,
    "panoptic": _panoptic,
    "labelme": _labelme,
    "cvat": _cvat,
    "labelstudio": _labelstudio,
}


def _mask(x: Object, image_file: str, size: tuple[int, int]) -> np.ndarray:
    if not isinstance(x.segmentation, Path):
        annotation = {"segmentation": x.segmentation, "category_id": x.name}
        return object_mask(annotation, image_file, size).astype(bool)
    if x.segment is None:
        mask = read_values(x.segmentation)[0] != 0
    else:
        mask = _segments(str(x.segmentation)) == x.segment
    check_map_size(mask, str(x.segmentation), size, "mask")
    return mask


_segments = lru_cache(1)(read_panoptic)  # of which an image has many


def draw(
    item: tuple[Path, list[Object]], destination: Path, names: Sequence[str], unlabelled: int
) -> None:
    """Write the label map of an image and its objects, whose labels are their places in ``names``.

    Raises:
        DatasetError: an object cannot be drawn.
    """
    file, listed = item
    label = np.full(image_size(str(file)), unlabelled, np.uint8)
    for x in listed:
        label[_mask(x, str(file), label.shape)] = names.index(x.name)
    save_label(label, destination)


def coco_dict(
    objects: Mapping[str, list[Object]],
    images: Mapping[str, Path],
    root: Path,
    names: Sequence[str],
) -> dict:
    """COCO's annotations of the objects of ``images``, whose classes are ``names`` from id 1 on.

    Raises:
        DatasetError: an object cannot be drawn.
    """
    content: dict[str, list] = {"images": [], "annotations": []}
    content["categories"] = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    for number, (key, file) in enumerate(images.items(), 1):
        size = image_size(str(file))
        image = {"id": number, "file_name": str(file.relative_to(root))}
        content["images"].append(image | dict(zip(("height", "width"), size, strict=True)))
        for x in objects[key]:
            rle = _encoded(_mask(x, str(file), size))
            one = {"id": len(content["annotations"]) + 1, "image_id": number}
            one |= {"category_id": names.index(x.name) + 1, "segmentation": x.segmentation}
            one |= {"area": int(mask_util.area(rle)), "bbox": mask_util.toBbox(rle).tolist()}
            content["annotations"].append(one | {"iscrowd": int(x.crowd)})
    return content

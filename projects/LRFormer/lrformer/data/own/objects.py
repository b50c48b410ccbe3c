"""Label files that list objects, each read into the same form: labelme, CVAT, Label Studio, COCO.

:func:`read_objects` gives for each image its objects in the order in which they are drawn, as
``(class, segmentation)``: polygons ``[[x0, y0, x1, …], …]`` or COCO's run lengths, in pixels.
"""

import base64
import io
import json
import logging
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from ..reading import image_size
from ..tree import DatasetError, some
from .masks import list_files

logger = logging.getLogger(__name__)


class Object(NamedTuple):
    """An object: the name of its class, polygons or run lengths, and whether it is a crowd."""

    name: str
    segmentation: list | dict
    crowd: bool = False


class Objects(NamedTuple):
    """What label files list.

    Attributes:
        names: of the classes, in the files' order where they have one.
        of: the objects of each image, by its path below the folder of images, without suffix.
    """

    names: list[str]
    of: dict[str, list[Object]]


def kind_of(labels: Path) -> str | None:
    """ "coco", "panoptic", "labelme", "cvat", "labelstudio", or None for what lists no objects."""
    if labels.is_dir():
        files = _json_files(labels)
        return kind_of(files[0]) if files else None
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


def read_objects(labels: Path, images: Mapping[str, Path]) -> Objects:
    """Read the objects of ``images``, given by their paths below their folder without suffix.

    Raises:
        DatasetError: a file cannot be understood, or none of the images is in it.
    """
    kind = kind_of(labels)
    try:
        found, names = _READERS[kind](labels)
        objects = {}
        by_name = {Path(key).name: key for key in images}
        for file_name, listed in found:
            path = Path(str(file_name).replace("\\", "/"))
            key = str(path.with_suffix(""))
            key = key if key in images else by_name.get(path.stem)
            if key is None and kind == "labelstudio":  # which puts 8 digits before an upload's name
                key = by_name.get(re.sub("^[0-9a-f]{8}-", "", path.stem))
            if key is not None:
                objects[key] = list(listed(images[key]) if callable(listed) else listed)
    except DatasetError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, ElementTree.ParseError) as error:
        raise DatasetError(
            f"{labels}: cannot be understood as {kind} labels: {type(error).__name__}: {error}."
        ) from error
    if not objects:
        raise DatasetError(f"{labels}: lists none of the {len(images)} images ({some(images)}).")
    for name in (x.name for listed in objects.values() for x in listed):
        if name not in names:
            names.append(name)
    return Objects(names, objects)


def _json_files(folder: Path) -> list[Path]:
    return [x for x in list_files(folder) if x.suffix.lower() == ".json"]


def _load_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} is no readable JSON file: {error}") from error


def _coco(file: Path) -> tuple[Iterator[tuple[str, list[Object]]], list[str]]:
    """Larger objects first, so that what lies on them is seen."""
    content = _load_json(file)
    names = {x["id"]: x["name"] for x in content["categories"]}
    of = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if annotation.get("segmentation"):
            of.get(annotation["image_id"], []).append(annotation)
    without = sum(not annotation.get("segmentation") for annotation in content["annotations"])
    if without:
        logger.warning(f"{file}: {without} annotations are boxes alone and not used")

    def listed(image: dict) -> list[Object]:
        def area(annotation: dict) -> float:
            given = annotation.get("area")
            return given if given else annotation["bbox"][2] * annotation["bbox"][3]

        ordered = sorted(of[image["id"]], key=area, reverse=True)
        return [
            Object(names[x["category_id"]], x["segmentation"], bool(x.get("iscrowd", 0)))
            for x in ordered
        ]

    found = ((image["file_name"], listed(image)) for image in content["images"])
    # Roboflow's first category stands for all others.
    used = {annotation["category_id"] for annotation in content["annotations"]}
    parents = {x.get("supercategory") for x in content["categories"]}
    return found, [names[i] for i in sorted(names) if i in used or names[i] not in parents]


def _labelme(folder: Path) -> tuple[Iterator[tuple[str, Any]], list[str]]:
    def listed(file: Path) -> Iterator[Object]:
        content = _load_json(file)
        size = content.get("imageHeight"), content.get("imageWidth")
        for shape in content["shapes"]:
            points, kind = shape["points"], shape.get("shape_type") or "polygon"
            if kind == "polygon" and len(points) > 2:
                yield Object(shape["label"], [[x for point in points for x in point]])
            elif kind == "rectangle":
                yield Object(shape["label"], [_box(*points[0], *points[1])])
            elif kind == "circle":
                radius = math.dist(*points)
                yield Object(shape["label"], [_ellipse(*points[0], radius, radius)])
            elif kind == "mask":
                part = Image.open(io.BytesIO(base64.b64decode(shape["mask"])))
                left, top = (round(x) for x in np.min(points, axis=0))
                yield Object(shape["label"], _run_lengths(np.asarray(part) != 0, top, left, size))
            else:
                logger.warning(f"{file}: a {kind} has no area and is not used")

    # A file has its image's name.
    files = _json_files(folder)
    return ((str(file.relative_to(folder)), list(listed(file))) for file in files), []


def _cvat(file: Path) -> tuple[Iterator[tuple[str, list[Object]]], list[str]]:
    root = ElementTree.parse(file).getroot()
    names = [x.findtext("name") for x in root.iter("label") if x.findtext("name")]

    def listed(image: ElementTree.Element) -> Iterator[Object]:
        size = int(image.get("height")), int(image.get("width"))
        for shape in sorted(image, key=lambda x: int(x.get("z_order", 0))):
            name = shape.get("label")
            if shape.tag == "polygon":
                points = shape.get("points").replace(";", ",").split(",")
                yield Object(name, [[float(x) for x in points]])
            elif shape.tag == "box":
                yield Object(
                    name, [_box(*(float(shape.get(x)) for x in ("xtl", "ytl", "xbr", "ybr")))]
                )
            elif shape.tag == "ellipse":
                yield Object(
                    name, [_ellipse(*(float(shape.get(x)) for x in ("cx", "cy", "rx", "ry")))]
                )
            elif shape.tag == "mask":
                left, top, width, height = (
                    int(float(shape.get(x))) for x in ("left", "top", "width", "height")
                )
                counts = [int(x) for x in shape.get("rle").split(",")]
                flat = np.repeat(np.arange(len(counts)) % 2, counts).astype(bool)
                yield Object(name, _run_lengths(flat.reshape(height, width), top, left, size))
            elif shape.tag not in ("tag", "attribute"):
                logger.warning(f"{file}: a {shape.tag} has no area and is not used")

    return ((x.get("name"), list(listed(x))) for x in root.iter("image")), names


def _labelstudio(file: Path) -> tuple[Iterator[tuple[str, Any]], list[str]]:
    def listed(task: dict, image: Path) -> Iterator[Object]:
        done = [x for x in task.get("annotations", ()) if not x.get("was_cancelled")]
        for result in done[0]["result"] if done else ():
            value = result.get("value", {})
            kind = result.get("type", "").removesuffix("labels")
            names = value.get(f"{kind}labels")
            if not names:
                continue
            height, width = (result.get(f"original_{x}") for x in ("height", "width"))
            if not height or not width:
                height, width = image_size(str(image))
            if kind == "polygon":
                scaled = [[x * width / 100, y * height / 100] for x, y in value["points"]]
                yield Object(names[0], [[x for point in scaled for x in point]])
            elif kind in ("rectangle", "ellipse"):
                yield Object(names[0], [_studio_shape(kind, value, height, width)])
            elif kind == "brush":
                mask = _studio_brush(value["rle"]).reshape(height, width, 4)[..., 3] > 0
                yield Object(names[0], _run_lengths(mask, 0, 0, (height, width)))

    def named(task: dict) -> str:
        text = next(x for x in task["data"].values() if isinstance(x, str))
        return text.partition("?d=")[2] or text

    tasks = _load_json(file)
    return ((named(x), lambda image, x=x: listed(x, image)) for x in tasks), []


def _studio_shape(kind: str, value: Mapping, height: int, width: int) -> list[float]:
    """A rectangle, turned about its upper left corner, or an ellipse about its centre."""
    x, y = value["x"] * width / 100, value["y"] * height / 100
    if kind == "ellipse":
        shape = _ellipse(x, y, value["radiusX"] * width / 100, value["radiusY"] * height / 100)
    else:
        shape = _box(x, y, x + value["width"] * width / 100, y + value["height"] * height / 100)
    angle = math.radians(value.get("rotation", 0))
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return ((np.reshape(shape, (-1, 2)) - (x, y)) @ turn + (x, y)).reshape(-1).tolist()


def _studio_brush(packed: list[int]) -> np.ndarray:
    """The bytes of an RGBA picture from Label Studio's run lengths (those of thi.ng/rle-pack).

    A header: the number of words (32 bits), bits of a word less 1 (5), and of four lengths less 1
    (4 each). Then blocks: whether it is a run (1), which length (2), the length less 1, and the
    word of a run or all words.
    """
    bits = np.unpackbits(np.array(packed, np.uint8))
    place = 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        return int("".join(map(str, bits[place - count : place])) or "0", 2)

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    out, done = np.zeros(total, np.uint8), 0
    while done < total:
        is_run = read(1)
        length = read(sizes[read(2)]) + 1
        out[done : done + length] = read(word) if is_run else [read(word) for _ in range(length)]
        done += length
    return out


def _box(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def _ellipse(x: float, y: float, radius_x: float, radius_y: float) -> list[float]:
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    points = np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)
    return points.reshape(-1).tolist()


def _run_lengths(part: np.ndarray, top: int, left: int, size: tuple[int, int]) -> dict:
    """COCO's run lengths of a mask that is a part of an image."""
    mask = np.zeros(size, np.uint8, order="F")
    height, width = mask[top : top + part.shape[0], left : left + part.shape[1]].shape
    mask[top : top + height, left : left + width] = part[:height, :width]
    rle = mask_util.encode(mask)
    return {"size": list(size), "counts": rle["counts"].decode()}


_READERS = {"coco": _coco, "labelme": _labelme, "cvat": _cvat, "labelstudio": _labelstudio}


def coco_dict(
    objects: Objects, images: Mapping[str, Path], root: Path, names: Iterable[str]
) -> dict:
    """COCO's annotations of the objects of ``images``, whose classes are ``names`` from id 1 on.

    Raises:
        DatasetError: an object is of another class, or cannot be drawn.
    """
    ids = {name: i for i, name in enumerate(names, 1)}
    content = {"images": [], "annotations": []}
    content["categories"] = [{"id": i, "name": name} for name, i in ids.items()]
    for number, (key, file) in enumerate(images.items(), 1):
        height, width = image_size(str(file))
        image = {"id": number, "file_name": str(file.relative_to(root))}
        content["images"].append(image | {"height": height, "width": width})
        for x in objects.of[key]:
            if x.name not in ids:
                raise DatasetError(
                    f"{file}: has an object of the class {x.name!r}, which is not one of the "
                    f"`classes`: {some(ids, 20)}."
                )
            try:
                rle = _merged(x.segmentation, height, width)
            except (ValueError, TypeError, IndexError, KeyError) as error:
                raise DatasetError(f"{file}: a {x.name} cannot be drawn: {error}.") from error
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": ids[x.name],
                    "segmentation": x.segmentation,
                    "area": float(mask_util.area(rle)),
                    "bbox": mask_util.toBbox(rle).tolist(),
                    "iscrowd": int(x.crowd),
                }
            )
    return content


def _merged(segmentation: list | dict, height: int, width: int) -> dict:
    if isinstance(segmentation, dict) and not isinstance(segmentation["counts"], list):
        return segmentation
    rle = mask_util.frPyObjects(segmentation, height, width)
    return mask_util.merge(rle) if isinstance(rle, list) else rle

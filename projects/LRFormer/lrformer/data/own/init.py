"""A yaml for a folder, from what lies in it."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from ..tree import DatasetError, some
from . import masks, objects
from .classes import is_color, read_table, to_color
from .dataset import find
from .spec import SPLITS, load_spec

_SPLITS = {name: name for name in SPLITS}
_SPLITS |= {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
_LISTS = "ImageSets/Segmentation"  # Pascal VOC's
_MAX_VALUES = 64  # distinct values of a label file, at most, by which it is told from a photograph


def write_yaml(root: Path, file: Path) -> dict[str, Any]:
    """Write a yaml for a folder; its content.

    Raises:
        DatasetError: there are no images, or nothing that labels them; the file exists.
    """
    if not root.is_dir():
        raise DatasetError(f"there is no folder {root}.")
    if file.exists():
        raise DatasetError(f"{file} exists already; remove it, or give another --output.")
    content = look(root)
    file.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):  # with the classes, the second time
        text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
        file.write_text(text, encoding="utf-8")
        found = find(load_spec(file))
        is_map = found.kind == "maps"
        content.setdefault("classes", list(found.classes.names if is_map else found.things))
    return content


def look(root: Path) -> dict[str, Any]:
    """The content of the yaml, without the classes where :func:`~.dataset.find` finds them.

    Folders of images are paired with the folders and files that label most of them; splits are
    named by a part of a path. Without splits a fifth of the images is held out.
    """
    files = masks.list_files(root)
    folders = dict.fromkeys(x.parent for x in files)
    pictures = {x: images for x in folders if (images := _images_in(x))}
    masked = [x for x in pictures if _looks_like_labels(next(iter(pictures[x].values())))]
    lists = [x for x in files if objects.kind_of(x) not in (None, "labelme")]
    jsons = [x for x in folders if next(x.glob("*.json"), None) and x not in masked]
    places, by_class = {}, None
    for folder in (x for x in pictures if x not in masked):
        here = _split_of(folder, root)

        def fit(labels: Path, folder=folder, here=here) -> tuple:
            parts = len(set(folder.parts) & set(labels.parts))
            return _count(pictures[folder], labels), _split_of(labels, root) == here, parts

        best = max((*lists, *masked, *jsons, folder), key=fit)
        if fit(best)[0]:
            siblings = [x for x in masked if x.parent == best.parent and fit(x) == fit(best)]
            if len(siblings) > 1:  # a folder a class
                best, by_class = best.parent, [x.name for x in siblings]
            place = {"images": str(folder.relative_to(root)), "labels": str(best.relative_to(root))}
            places.setdefault(here or _split_of(best, root), place)
    if not places:
        raise DatasetError(
            f"{root}: found nothing that labels images ({some(pictures) or 'there are none'}). "
            "docs/own_data.md lists the formats that are known."
        )
    content: dict[str, Any] = {"root": str(root.absolute())}
    given = [x for x in SPLITS if (root / _LISTS / f"{x}.txt").is_file()]
    if None not in places or "train" in places:
        content["splits"] = {split: places[split] for split in SPLITS if split in places}
    elif given:
        content["splits"] = {x: places[None] | {"names": f"{_LISTS}/{x}.txt"} for x in given}
    else:
        content["split"] = places[None] | {"fraction": 0.2, "seed": 0}
    labels = [x for x in (root / place["labels"] for place in places.values()) if x in masked]
    classes = by_class or _class_table(root) or _colors(labels)
    return content | ({"classes": classes} if classes else {})


def _images_in(folder: Path, labels: bool = False) -> dict[str, Path]:
    found = masks.list_images(folder, labels)
    return {key: file for key, file in found.items() if file.parent == folder}


def _looks_like_labels(file: Path) -> bool:
    with Image.open(file) as image:
        return image.mode in ("1", "P") or len(np.unique(masks.read_values(file)[0])) <= _MAX_VALUES


def _count(images: dict[str, Path], labels: Path) -> int:
    """How many of the images a folder or file labels."""
    if labels.is_file():
        text = labels.read_text(encoding="utf-8", errors="replace")
        return sum(x.name in text or f"{x.stem}.png" in text for x in images.values())
    if next(labels.glob("*.json"), None):
        return sum((labels / f"{key}.json").is_file() for key in images)
    return len(masks.pair(images, _images_in(labels, labels=True)))


def _split_of(path: Path, root: Path) -> str | None:
    parts = (Path(part).stem.replace("-", "_") for part in path.relative_to(root).parts)
    words = (word.lower().rstrip("0123456789") for part in parts for word in part.split("_"))
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def _class_table(root: Path) -> str | None:
    """The name of a table of colours in the folder."""
    for file in sorted((*root.glob("*.txt"), *root.glob("*.csv"))):
        try:
            if isinstance(read_table(file), dict):
                return file.name
        except DatasetError:
            continue
    return None


def _colors(folders: list[Path]) -> dict[str, list[int]] | None:
    """Made-up names for the colours of masks, to be changed."""
    files = (x for folder in folders for x in masks.list_images(folder, labels=True).values())
    seen, _ = masks.seen_values(files) if folders else ([], True)
    if not any(map(is_color, seen)):
        return None
    return {f"class {i}": to_color(value) for i, value in enumerate(seen)}

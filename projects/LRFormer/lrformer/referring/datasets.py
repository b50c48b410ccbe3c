"""Datasets of phrases: ReasonSeg and RefCOCO as released, and the demo scenes'.

A dataset dict has "referring": of each phrase a dict with "phrase"; "is_sentence", whether it is a
whole one; "kind", by which scores are given separately; and its mask, as COCO's "segmentation" or
as ReasonSeg's "shapes". A question that is answered in words has an "answer" in the place of a
mask. An image with a label map has one dict with "label_map", the file, and "dataset", whose
classes' names are its phrases.
"""

import json
import os
import pickle
import random
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..checkpoint.pickles import load_pickle
from ..data.masks import object_mask
from ..data.reading import Size, read_checked_label
from ..data.tree import DatasetError

IGNORED = 255
# What LISA also learns the names of classes from.
_LABEL_MAPS = ("ade20k_sem_seg_train", "coco_stuff_sem_seg_train")
# The split that is used of each dataset, and its parts.
_REFCOCO = {
    "refcoco": ("unc", ("train", "val", "testA", "testB")),
    "refcoco+": ("unc", ("train", "val", "testA", "testB")),
    "refcocog": ("umd", ("train", "val", "test")),
}


def load_reason_seg(folder: str, every_text: bool) -> list[dict]:
    """ReasonSeg: images (*.jpg), and beside each a json file of its texts and polygons.

    Args:
        folder: of one part.
        every_text: take all the wordings that a training image has, not only the first.

    Raises:
        DatasetError: files are missing or cannot be read.
    """
    images = sorted(Path(folder).glob("*.jpg"))
    if not images:
        raise DatasetError(
            f"there are no images (*.jpg) in {folder}; datasets/README.md says where ReasonSeg "
            "comes from and how its files lie."
        )
    records = []
    for image in images:
        entry = _read_json(image.with_suffix(".json"))
        texts = entry["text"] if every_text else entry["text"][:1]
        is_sentence = bool(entry["is_sentence"])
        shared = {"is_sentence": is_sentence, "shapes": entry["shapes"]}
        shared["kind"] = "long" if is_sentence else "short"
        phrases = [{"phrase": text, **shared} for text in texts]
        records.append({"file_name": str(image), "referring": phrases})
    return records


def _read_json(file: Path) -> dict:
    try:
        data = file.read_bytes()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:  # some files are of Windows
            text = data.decode("cp1252")
        entry = json.loads(text)
        if not entry["text"] or "is_sentence" not in entry or "shapes" not in entry:
            raise ValueError("text, is_sentence or shapes are missing")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{file}: cannot be read as an annotation of ReasonSeg: {type(error).__name__}: {error}"
        ) from error
    return entry


def load_refcoco(folder: str, split_by: str, part: str, image_root: str) -> list[dict]:
    """RefCOCO, RefCOCO+ or RefCOCOg: ``refs(unc).p`` and ``instances.json`` in ``folder``.

    Args:
        split_by: who divided it: "unc", "umd" or "google".
        part: such as "testA".
        image_root: COCO's train2014.

    Raises:
        DatasetError: the pickle is damaged, or asks for more than plain data.
    """
    file = Path(folder, f"refs({split_by}).p")
    try:
        references = load_pickle(file)
    except (pickle.UnpicklingError, EOFError) as error:
        raise DatasetError(
            f"{file} is damaged, or asks for more than the plain data of the released file "
            f"({type(error).__name__}: {error}); download it again (datasets/README.md)"
        ) from error
    content = json.loads(Path(folder, "instances.json").read_text())
    masks = {x["id"]: x["segmentation"] for x in content["annotations"]}
    phrases = defaultdict(list)
    for reference in (x for x in references if x["split"] == part):
        for sentence in reference["sentences"]:
            entry = {"phrase": sentence["sent"], "segmentation": masks[reference["ann_id"]]}
            phrases[reference["image_id"]].append(entry)
    return _records(content["images"], image_root, phrases)


def load_phrases(json_file: str, image_root: str) -> list[dict]:
    """COCO's "images", and "phrases" that each name the "image_id" that they are of."""
    content = json.loads(Path(json_file).read_text())
    phrases = defaultdict(list)
    for phrase in content["phrases"]:
        phrases[phrase["image_id"]].append(phrase)
    return _records(content["images"], image_root, phrases)


def load_instructions(json_file: str, image_root: str) -> list[dict]:
    """LLaVA's conversations: each question with its answer."""
    records = []
    for entry in json.loads(Path(json_file).read_text(encoding="utf-8")):
        said = [turn["value"] for turn in entry["conversations"]]
        pairs = zip(said[::2], said[1::2], strict=False)
        phrases = [{"phrase": q, "answer": a, "is_sentence": True} for q, a in pairs]
        file_name = os.path.join(image_root, entry["image"])
        records.append({"file_name": file_name, "referring": phrases})
    return records


def load_classes(dataset: str) -> list[dict]:
    """Images of a dataset of label maps, whose classes' names become phrases."""
    return [
        {
            "file_name": record["file_name"],
            "referring": [{"label_map": record["sem_seg_file_name"], "dataset": dataset}],
        }
        for record in DatasetCatalog.get(dataset)
    ]


def _records(images: list[dict], root: str, phrases: dict[int, list[dict]]) -> list[dict]:
    return [
        {
            "file_name": os.path.join(root, image["file_name"]),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
            "referring": phrases[image["id"]],
        }
        for image in images
        if image["id"] in phrases
    ]


def read_phrases(
    record: dict[str, Any], size: Size, most: int | None = None
) -> list[tuple[dict[str, Any], np.ndarray | None]]:
    """Phrases of an image of ``size`` and their masks, see :func:`read_target`.

    Args:
        most: so many at most, drawn at random; None: all.

    Returns:
        Pairs; the mask is None for a question that is answered in words.

    Raises:
        DatasetError: a mask cannot be drawn.
    """
    phrases, file_name = record["referring"], record["file_name"]
    label = None
    if phrases and "label_map" in phrases[0]:
        label, phrases = _read_classes(**phrases[0], size=size)
    chosen = phrases if most is None else random.sample(phrases, min(most, len(phrases)))
    if label is not None:
        return [(phrase, (label == phrase["label"]).astype(np.uint8)) for phrase in chosen]
    return [
        (phrase, None if "answer" in phrase else read_target(phrase, file_name, size))
        for phrase in chosen
    ]


def _read_classes(label_map: str, dataset: str, size: Size) -> tuple[np.ndarray, list[dict]]:
    meta = MetadataCatalog.get(dataset)
    names, ignored = meta.stuff_classes, meta.get("ignore_label", IGNORED)
    label = read_checked_label({"sem_seg_file_name": label_map}, size, len(names), ignored)
    present = (int(x) for x in np.unique(label) if x != ignored)
    # Of synonyms the first; as published, without such as COCO-Stuff's "wall-other".
    named = ((names[x].partition(",")[0].strip(), x) for x in present)
    return label, [{"phrase": name, "label": x} for name, x in named if "-" not in name]


def read_target(phrase: dict[str, Any], file_name: str, size: Size) -> np.ndarray:
    """The mask of a phrase of the image ``file_name``: HxW uint8, 1 what is meant, 255 ignored.

    Raises:
        DatasetError: it cannot be drawn.
    """
    if "shapes" in phrase:
        try:
            return _draw_shapes(phrase["shapes"], size)
        except (cv2.error, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DatasetError(
                f"{file_name}: the shapes of its annotation cannot be drawn: {error}"
            ) from error
    if phrase.get("segmentation") == []:  # as RefCOCO's authors do: nothing is meant
        return np.zeros(size, np.uint8)
    return np.asarray(object_mask(phrase, file_name, size), dtype=np.uint8)


def _draw_shapes(shapes: list[dict], size: Size) -> np.ndarray:
    """ReasonSeg's rule: smaller polygons over larger ones; labels "flag" are void."""
    drawn = []
    for shape in shapes:
        label = shape["label"].lower()
        if label != "flag":
            mask, points = np.zeros(size, np.uint8), np.array(shape["points"]).astype(np.int32)
            cv2.fillPoly(mask, [points], 1)
            drawn.append((mask.astype(bool), IGNORED if "ignore" in label else 1))
    target = np.zeros(size, np.uint8)
    for mask, value in sorted(drawn, key=lambda each: -np.count_nonzero(each[0])):
        target[mask] = value
    return target


def register_all(root: str) -> None:
    """Register every dataset of phrases below ``root``; a name that is known stays as it is."""
    training = {"evaluator_type": "for training only"}
    for name in _LABEL_MAPS:
        _register(f"{name}_phrases", partial(load_classes, name), **training)
    file = os.path.join(root, "llava", "llava_instruct_150k.json")
    images = os.path.join(root, "coco", "train2017")
    _register("llava_instruct", partial(load_instructions, file, images), **training)
    for part in ("train", "val", "test"):
        folder = os.path.join(root, "reason_seg", "ReasonSeg", part)
        _register(f"reason_seg_{part}", partial(load_reason_seg, folder, part == "train"))
    images = os.path.join(root, "coco", "train2014")
    for name, (split_by, parts) in _REFCOCO.items():
        folder = os.path.join(root, "refer_seg", name)
        for part in parts:
            _register(f"{name}_{part}", partial(load_refcoco, folder, split_by, part, images))
    demo = os.path.join(root, "demo_scenes")
    for part in ("train", "val"):
        file = os.path.join(demo, "annotations", f"referring_{part}.json")
        images = os.path.join(demo, "images", part)
        name = f"demo_scenes_referring_{part}"
        _register(name, partial(load_phrases, file, images), json_file=file)


def _register(name: str, load, evaluator_type: str = "referring", **metadata: str) -> None:
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, load)
        MetadataCatalog.get(name).set(evaluator_type=evaluator_type, **metadata)

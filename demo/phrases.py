"""Phrases about the demo scenes, and the masks of what they mean.

They follow from what a scene's panoptic map and its objects say: classes, colours, who stands left
of whom and who is near. A phrase of an object means exactly one, clearly.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from lrformer.data.metadata import DEMO_CLASSES

# The classes' names, and questions that each answers, in the order of DEMO_CLASSES.
_CLASSES = {
    "sky": ("what is above the houses?", "where do clouds move?"),
    "buildings": ("where do people live?", "what has windows and doors?"),
    "trees": ("what grows?", "what has leaves?"),
    "road": ("where do cars drive?", "what is made of asphalt?"),
    "pavement": ("where may I walk?", "where is it safe to stand?"),
    "cars": ("what needs fuel?", "what has wheels?"),
    "people": ("who could answer me?", "who is out on the street?"),
    "poles": ("what carries lamps and signs?",),
}
_MOST = {"class": 2, "question": 2, "colour": 2, "place": 3, "relation": 3}  # of a scene
_MIN_SHARE = 1e-3  # of the picture that has to be seen of what a phrase means
_APART = 0.03  # of the picture's width: clearly left or right of
_FARTHER = 1.0  # metres: clearly farther


class _Thing(NamedTuple):
    segment: int  # its id in the panoptic map
    name: str
    color: str | None
    x: float  # of its middle, as a share of the width
    distance: float


def write_phrases(maps: Path, file: Path) -> None:
    """Write the phrases of the panoptic maps (PNG) in a folder, and their masks, to a JSON file."""
    images, phrases = [], []
    for image_id, source in enumerate(sorted(maps.glob("*.png")), start=1):
        with Image.open(source) as image:
            ids = np.asarray(image.convert("RGB")).astype(np.int32) @ [1, 1 << 8, 1 << 16]
        objects = maps.parents[1] / "objects" / maps.name / f"{source.stem}.json"
        size = {"height": ids.shape[0], "width": ids.shape[1]}
        images.append({"id": image_id, "file_name": f"{source.stem}.jpg", **size})
        rng = np.random.default_rng(list(f"{maps.name}/{source.stem}".encode()))
        for kind, phrase, segments in choose(ids, json.loads(objects.read_text()), rng):
            mask = mask_util.encode(np.asfortranarray(np.isin(ids, segments), np.uint8))
            entry = {"image_id": image_id, "phrase": phrase, "is_sentence": phrase.endswith("?")}
            mask["counts"] = mask["counts"].decode("ascii")
            phrases.append({**entry, "kind": kind, "segmentation": mask})
    file.write_text(json.dumps({"images": images, "phrases": phrases}))


def choose(
    ids: np.ndarray, objects: list[dict], rng: np.random.Generator
) -> list[tuple[str, str, list[int]]]:
    """Some phrases of each kind: (kind, phrase, the segments that are meant).

    Args:
        ids: HxW, of the panoptic map.
        objects: of :class:`demo.Scene`.
        rng: draws which.
    """
    found, chosen = list(_all_phrases(ids, objects)), []
    for kind, most in _MOST.items():
        same = [each for each in found if each[0] == kind]
        order = rng.permutation(len(same))[:most]
        chosen += [same[i] for i in order]
    return chosen


def _all_phrases(ids: np.ndarray, objects: list[dict]) -> Iterator[tuple[str, str, list[int]]]:
    segments, areas = np.unique(ids[ids > 0], return_counts=True)
    area = dict(zip(segments.tolist(), areas.tolist(), strict=True))
    enough = _MIN_SHARE * ids.size
    for label, (name, questions) in enumerate(_CLASSES.items(), start=1):
        meant = [segment for segment in area if segment % 256 == label]
        if sum(area[segment] for segment in meant) >= enough:
            yield "class", name, meant
            yield from (("question", question, meant) for question in questions)
    things = []
    for segment in (segment for segment in area if segment >= 256):
        middle = float(np.nonzero(ids == segment)[1].mean()) / ids.shape[1]
        known = objects[segment // 256 - 1]
        name = DEMO_CLASSES[segment % 256 - 1]
        things.append(_Thing(segment, name, known["color"], middle, known["distance"]))
    for kind, phrase, thing in _of_things(things):
        if area[thing.segment] >= enough:
            yield kind, phrase, [thing.segment]


def _of_things(things: list[_Thing]) -> Iterator[tuple[str, str, _Thing]]:
    references = {}  # phrases that others can refer to
    for name in ("car", "person"):
        same = [thing for thing in things if thing.name == name]
        for color in sorted({thing.color for thing in same} - {None}):
            alike = [thing for thing in same if thing.color == color]
            if len(alike) == 1:
                references[f"{color} {name}"] = alike[0]
                yield "colour", f"{color} {name}", alike[0]
        if len(same) == 1:
            references[name] = same[0]
            yield "place", name, same[0]
        elif same:
            for place, key, least in (
                ("leftmost", lambda thing: thing.x, _APART),
                ("rightmost", lambda thing: -thing.x, _APART),
                ("nearest", lambda thing: thing.distance, _FARTHER),
                ("farthest", lambda thing: -thing.distance, _FARTHER),
            ):
                first, second, *_ = sorted(same, key=key)
                if key(second) - key(first) >= least:
                    references[f"{place} {name}"] = first
                    yield "place", f"{place} {name}", first
    for reference, other in references.items():
        for side, sign in (("left", -1), ("right", 1)):
            relation = f"{side} of the {reference}"
            yield from _related(things, other, sign, relation)


def _related(
    things: list[_Thing], other: _Thing, sign: int, relation: str
) -> Iterator[tuple[str, str, _Thing]]:
    """The only ones that stand clearly at one side of another."""
    beside = [thing for thing in things if sign * (thing.x - other.x) > 0]
    for name in ("car", "person"):
        same = [thing for thing in beside if thing.name == name]
        clear = [thing for thing in same if abs(thing.x - other.x) >= _APART]
        if len(same) == 1 and clear:
            yield "relation", f"{name} {relation}", same[0]
        for thing in clear:
            alike = [each for each in same if each.color == thing.color]
            if thing.color and len(alike) == 1:
                yield "relation", f"{thing.color} {name} {relation}", thing

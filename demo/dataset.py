"""The demo's dataset: street scenes, written as datasets/README.md shows."""

import json
import os
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from lrformer.data import DatasetError
from lrformer.data.metadata import DEMO_CLASSES
from lrformer.data.prepare import make_files

from .annotations import panoptic_image, write_annotations
from .phrases import write_phrases
from .scene import MIN_SIDE, render_scene

SPLITS = ("train", "val")
_FORMAT = 2  # raised when the same parameters no longer give the same pictures
_KINDS = {"images": "jpg", "annotations": "png", "panoptic": "png", "objects": "json"}


def write_demo_scenes(
    root: str | os.PathLike,
    *,
    num_train: int = 600,
    num_val: int = 80,
    height: int = 192,
    width: int = 256,
    seed: int = 0,
    workers: int = 1,
) -> tuple[Path, int]:
    """Write the demo scenes below ``root``, or complete or reuse those that are there.

    A scene that exists is kept, so an interrupted run is continued by the next. Scenes made with
    other parameters are replaced; files that this function did not write are never touched.

    Args:
        root: the folder of all datasets; made if missing.
        num_train, num_val: number of scenes of each split.
        height, width: size of the images in pixels.
        seed: the same seed gives the same scenes; no scene of one split is in the other.
        workers: number of processes.

    Returns:
        The dataset's folder, and the number of scenes that were rendered now.

    Raises:
        DatasetError: a parameter makes no sense, or the folder holds other files.
        OSError: a file cannot be written.
    """
    parameters = {"num_train": num_train, "num_val": num_val, "height": height, "width": width}
    parameters |= {"seed": seed, "format": _FORMAT}
    limits = (1, 10**6), (1, 10**6), (MIN_SIDE, 4096), (MIN_SIDE, 4096), (0, 2**32 - 1)
    for (name, value), (low, high) in zip(parameters.items(), limits, strict=False):
        if not low <= value <= high:
            raise DatasetError(f"{name} must be from {low} to {high}, not {value}")
    path = Path(root, "demo_scenes")
    _make_room(path, parameters)

    jobs = []
    for (split, index), (image, *others) in _scene_files(path, parameters).items():
        if not all(file.exists() for file in others):
            image.unlink(missing_ok=True)  # an incomplete scene is rendered again
        jobs.append((scene_seed(seed, split, index), image))
    missing = sum(not image.exists() for _, image in jobs)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # OpenCV's threads do not survive a fork
    try:
        make_files(jobs, partial(_write_scene, size=(height, width)), workers, "demo scenes")
    finally:
        cv2.setNumThreads(threads)
    jobs = [(path / "panoptic" / file.stem.rpartition("_")[2], file) for file in _json_files(path)]
    make_files(jobs, _write_json, workers, "demo annotations")
    return path, missing


def scene_seed(seed: int, split: str, index: int) -> int:
    """Seed of one scene. The splits' seeds are drawn from separate streams of 64 bits."""
    sequence = np.random.SeedSequence([seed, SPLITS.index(split), index])
    return int(sequence.generate_state(1, np.uint64)[0])


def class_shares(path: Path) -> dict[str, float]:
    """Share of the pixels of all label maps below ``path`` (a dataset's folder) in each class."""
    counts = np.zeros(len(DEMO_CLASSES), np.int64)
    for file in path.glob("annotations/*/*.png"):
        with Image.open(file) as label:
            counts += label.histogram()[: len(counts)]
    return dict(zip(DEMO_CLASSES, (counts / counts.sum()).tolist(), strict=True))


def _scene_files(path: Path, parameters: dict[str, int]) -> dict[tuple[str, int], list[Path]]:
    """Image, label map, panoptic map and objects of each scene, by its split and number."""
    return {
        (split, i): [path / k / split / f"demo_{i:06d}.{end}" for k, end in _KINDS.items()]
        for split in SPLITS
        for i in range(parameters[f"num_{split}"])
    }


def _json_files(path: Path) -> list[Path]:
    kinds = ("instances", "panoptic", "referring")
    names = (f"{kind}_{split}.json" for kind in kinds for split in SPLITS)
    return [path / "annotations" / name for name in names]


def _write_json(maps: Path, file: Path) -> None:
    write = write_phrases if file.name.startswith("referring") else write_annotations
    write(maps, file)


def _make_room(path: Path, parameters: dict[str, int]) -> None:
    """Make the folders, and take away our own scenes of other parameters."""
    notes = path / "demo_scenes.json"
    ours, old = set(), {}
    if notes.exists():
        try:
            old = json.loads(notes.read_text())
            ours = {file for files in _scene_files(path, old).values() for file in files}
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{notes} is not readable; move {path} away") from error
        ours |= set(_json_files(path))
    # A loader takes all files of a folder, so there must be none that are not ours.
    folders = [path / kind / split for kind in _KINDS for split in SPLITS]
    found = {file for folder in folders for file in folder.glob("[!.]*") if file.suffix != ".part"}
    found |= {file for file in _json_files(path) if file.exists()}
    if foreign := sorted(found - ours):
        raise DatasetError(
            f"{foreign[0]} was not written by make_demo_scenes ({len(foreign)} such files); move "
            f"it out of {path}, or choose another --root"
        )
    if old and old != parameters:
        changed = [f"{k} {old.get(k)} -> {v}" for k, v in parameters.items() if old.get(k) != v]
        print(f"{path} was made with other parameters ({', '.join(changed)}): rendering it again")
        for file in ours:
            file.unlink(missing_ok=True)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    if old != parameters:
        notes.write_text(json.dumps(parameters, indent=2) + "\n")


def _write_scene(seed: int, image: Path, size: tuple[int, int]) -> None:
    """Write the label map, the panoptic map and the objects of a scene, then its ``image``."""
    scene = render_scene(seed, *size)
    split, name = image.parent.name, image.name.partition(".")[0]
    for kind, pixels in (("annotations", scene.semantic), ("panoptic", panoptic_image(scene))):
        part = image.parents[2] / kind / split / f"{name}.png.part"
        Image.fromarray(pixels).save(part, format="PNG")
        part.replace(part.with_suffix(""))
    objects = image.parents[2] / "objects" / split / f"{name}.json"
    objects.write_text(json.dumps(scene.objects))
    Image.fromarray(scene.image).save(image, format="JPEG", quality=93)

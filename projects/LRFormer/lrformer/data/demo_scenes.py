"""Demo scenes: the embedded default dataset, street scenes written as a real dataset lies on disk.

::

    <root>/demo_scenes/
      demo_scenes.json                        what the dataset was made with
      images/{train,val}/demo_000000.jpg …    RGB
      annotations/{train,val}/demo_000000.png …  labels, 8 bit, one channel: indices into CLASSES
      panoptic/{train,val}/demo_000000.png …  segments, COCO's RGB coding
      annotations/instances_{train,val}.json  COCO's annotations of objects
      annotations/panoptic_{train,val}.json   and of segments
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from .demo_annotations import CocoFiles, panoptic_image
from .street_scene import CLASSES, COLORS, MIN_SIDE, THINGS, Scene, render_scene

__all__ = [
    "CLASSES",
    "COLORS",
    "DIRECTORY",
    "SPLITS",
    "THINGS",
    "DemoScenesError",
    "Scene",
    "Written",
    "class_shares",
    "render_scene",
    "write_demo_scenes",
]

DIRECTORY = "demo_scenes"  # below the root of all datasets
SPLITS = ("train", "val")
PARAMETERS_FILE = "demo_scenes.json"
_FORMAT = 1  # raised when the same parameters no longer give the same pictures
_KINDS = ("images", "annotations", "panoptic")
_JPEG_QUALITY = 93
_MAX_SIDE = 4096
_MAX_SCENES = 1_000_000
_LINUX = sys.platform == "linux"


class DemoScenesError(Exception):
    """The dataset cannot be written; the message says why and what to do."""


@dataclass(frozen=True)
class _Parameters:
    """What decides the content of the dataset, as kept beside it."""

    num_train: int
    num_val: int
    height: int
    width: int
    seed: int
    format: int = _FORMAT

    def count(self, split: str) -> int:
        return self.num_train if split == "train" else self.num_val


@dataclass(frozen=True)
class Written:
    """What ``write_demo_scenes`` did.

    Attributes:
        path: the dataset's folder.
        rendered: number of scenes rendered now.
        reused: number of scenes that were there already.
    """

    path: Path
    rendered: int
    reused: int


def scene_seed(seed: int, split: str, index: int) -> int:
    """Seed of one scene. The splits' seeds are drawn from separate streams of 64 bits."""
    sequence = np.random.SeedSequence([seed, SPLITS.index(split), index])
    return int(sequence.generate_state(1, np.uint64)[0])


def write_demo_scenes(
    root: str | os.PathLike,
    *,
    num_train: int = 600,
    num_val: int = 80,
    height: int = 192,
    width: int = 256,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
    report: Callable[[str], None] = print,
) -> Written:
    """Write the demo scenes below ``root``, or complete or reuse those that are there.

    A scene that exists is kept, so an interrupted run is continued by the next. Scenes made with
    other parameters are replaced; files that this function did not write are never touched.

    Args:
        root: the folder of all datasets; made if missing.
        num_train, num_val: number of scenes of each split.
        height, width: size of the images in pixels.
        seed: the same seed gives the same scenes; no scene of one split is in the other.
        workers: number of processes; None takes all CPU cores.
        progress: show a progress bar.
        report: receives what a user should know, as lines of text.

    Raises:
        DemoScenesError: a parameter makes no sense, the folder holds other files, or it cannot
            be written.
    """
    parameters = _Parameters(num_train, num_val, height, width, seed)
    _check(parameters, workers)
    path = Path(root) / DIRECTORY
    try:
        _prepare(path, parameters, report)
        missing = [
            (split, index)
            for split in SPLITS
            for index in range(parameters.count(split))
            if not all(file.exists() for file in _files(path, split, index))
        ]
        total = num_train + num_val
        _render(path, parameters, missing, workers, progress)
        for split in SPLITS:
            _write_coco_files(path, parameters, split)
    except OSError as error:
        raise DemoScenesError(
            f"cannot write the demo scenes to {path}: {error.strerror or error}"
            f"{f' ({error.filename})' if error.filename else ''}; make room or give yourself the "
            "right to write there, or choose another folder with --root or DETECTRON2_DATASETS"
        ) from error
    return Written(path, rendered=len(missing), reused=total - len(missing))


def class_shares(path: str | os.PathLike) -> dict[str, float]:
    """Share of the pixels of all labels below ``path`` (a dataset's folder) in each class."""
    counts = np.zeros(256, np.int64)
    for file in sorted(Path(path).glob("annotations/*/*.png")):
        label = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_UNCHANGED)
        if label is None or label.ndim != 2:
            raise DemoScenesError(f"{file} is not a readable label; delete it and run again")
        counts += np.bincount(label.ravel(), minlength=256)
    if not counts.any():
        raise DemoScenesError(f"no labels below {path}")
    return {name: float(counts[i] / counts.sum()) for i, name in enumerate(CLASSES)}


def _check(parameters: _Parameters, workers: int | None) -> None:
    for name, low, high in (
        ("num_train", 1, _MAX_SCENES),
        ("num_val", 1, _MAX_SCENES),
        ("height", MIN_SIDE, _MAX_SIDE),
        ("width", MIN_SIDE, _MAX_SIDE),
        ("seed", 0, 2**32 - 1),
    ):
        value = getattr(parameters, name)
        if not low <= value <= high:
            raise DemoScenesError(f"{name} must be from {low} to {high}, not {value}")
    if workers is not None and workers < 1:
        raise DemoScenesError(f"workers must be 1 or more, not {workers}")


def _files(path: Path, split: str, index: int) -> tuple[Path, Path, Path]:
    """Image, label and panoptic map of a scene."""
    suffixes = (".jpg", ".png", ".png")
    return tuple(
        path / kind / split / f"demo_{index:06d}{suffix}"
        for kind, suffix in zip(_KINDS, suffixes, strict=True)
    )


def _coco_files(path: Path, split: str) -> tuple[Path, Path]:
    """COCO's annotations of a split: of objects, and of panoptic segments."""
    folder = path / "annotations"
    return folder / f"instances_{split}.json", folder / f"panoptic_{split}.json"


def _prepare(path: Path, parameters: _Parameters, report: Callable[[str], None]) -> None:
    """Make the folders; take away our own scenes of other parameters."""
    notes = path / PARAMETERS_FILE
    old = _read_parameters(notes)
    folders = [path / kind / split for kind in _KINDS for split in SPLITS]
    ours = set()
    if old is not None:
        ours = {f for s in SPLITS for i in range(old.count(s)) for f in _files(path, s, i)}
        ours.update(file for split in SPLITS for file in _coco_files(path, split))
    _refuse_foreign(path, folders, ours, old)
    if old is not None and old != parameters:
        changed = ", ".join(
            f"{key} {was} -> {asdict(parameters)[key]}"
            for key, was in asdict(old).items()
            if was != asdict(parameters)[key]
        )
        report(f"{path} was made with other parameters ({changed}): rendering it again")
        for file in sorted(ours):
            file.unlink(missing_ok=True)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    if old != parameters:
        _write(notes, json.dumps(asdict(parameters), indent=2).encode() + b"\n")


def _read_parameters(notes: Path) -> _Parameters | None:
    if not notes.exists():
        return None
    try:
        return _Parameters(**json.loads(notes.read_text()))
    except (ValueError, TypeError) as error:
        raise DemoScenesError(
            f"{notes} is not readable ({error}); move {notes.parent} away and run again"
        ) from error


def _refuse_foreign(
    path: Path, folders: list[Path], ours: set[Path], old: _Parameters | None
) -> None:
    """A loader takes all files of a folder, so ours must hold nothing else."""
    foreign = [
        file
        for folder in folders
        if folder.is_dir()
        for file in sorted(folder.iterdir())
        if file not in ours and not file.name.startswith(".")
    ]
    coco_files = [file for split in SPLITS for file in _coco_files(path, split)]
    foreign += [file for file in coco_files if file not in ours and file.exists()]
    if foreign:
        why = f"no {PARAMETERS_FILE} lies beside it" if old is None else "not one of its scenes"
        raise DemoScenesError(
            f"{foreign[0]} was not written by make_demo_scenes ({why}; {len(foreign)} such files); "
            f"move it out of {path}, or choose another --root"
        )


def _render(
    path: Path,
    parameters: _Parameters,
    scenes: list[tuple[str, int]],
    workers: int | None,
    progress: bool,
) -> None:
    if not scenes:
        return
    cores = len(os.sched_getaffinity(0)) if _LINUX else os.cpu_count() or 1
    workers = min(workers or cores, len(scenes))
    write = partial(_write_scene, path, parameters)
    with tqdm(
        total=len(scenes), desc="rendering demo scenes", unit="scene", disable=not progress
    ) as bar:
        if workers == 1:
            for scene in scenes:
                write(scene)
                bar.update()
            return
        try:
            with _pool(workers) as pool:
                for _ in pool.map(write, scenes, chunksize=4):
                    bar.update()
        except BrokenProcessPool as error:
            raise DemoScenesError(
                "a rendering process was killed, most likely for want of memory; run again with "
                "fewer --workers: the scenes that are written are kept"
            ) from error


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    # Forked workers need not import the package again, which takes seconds where it brings torch.
    # OpenCV's threads do not survive a fork, so there must be none.
    context = multiprocessing.get_context("fork" if _LINUX else "spawn")
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with ProcessPoolExecutor(
            workers, context, initializer=cv2.setNumThreads, initargs=(1,)
        ) as pool:
            yield pool
    finally:
        cv2.setNumThreads(threads)


def _write_scene(path: Path, parameters: _Parameters, scene: tuple[str, int]) -> None:
    split, index = scene
    image_file, label_file, panoptic_file = _files(path, split, index)
    seed = scene_seed(parameters.seed, split, index)
    rendered = render_scene(seed, parameters.height, parameters.width)
    _write(panoptic_file, _encode(".png", panoptic_image(rendered), []))
    _write(label_file, _encode(".png", rendered.semantic, []))
    _write(image_file, _encode(".jpg", rendered.image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]))


def _write_coco_files(path: Path, parameters: _Parameters, split: str) -> None:
    """Write the split's annotations, if they are missing, from its panoptic maps."""
    instances_file, panoptic_file = _coco_files(path, split)
    if instances_file.exists() and panoptic_file.exists():
        return
    files = CocoFiles()
    for index in range(parameters.count(split)):
        image_file, _, map_file = _files(path, split, index)
        panoptic = cv2.imdecode(np.fromfile(map_file, np.uint8), cv2.IMREAD_COLOR)
        if panoptic is None:
            raise DemoScenesError(f"{map_file} is not readable; delete it and run again")
        files.add(image_file.name, map_file.name, panoptic[..., ::-1])
    _write(instances_file, files.instances_json())
    _write(panoptic_file, files.panoptic_json())


def _encode(suffix: str, pixels: np.ndarray, options: list[int]) -> bytes:
    """Encode grey or RGB pixels."""
    if pixels.ndim == 3:
        pixels = np.ascontiguousarray(pixels[..., ::-1])  # OpenCV's order of channels
    done, data = cv2.imencode(suffix, pixels, options)
    if not done:
        raise DemoScenesError(
            f"OpenCV cannot encode {suffix} files; install opencv-python-headless"
        )
    return data.tobytes()


def _write(file: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)

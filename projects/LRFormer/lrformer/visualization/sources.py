"""Which files to predict, what the results are called, and their ground truth."""

import glob
import io
import itertools
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from lrformer.data import DatasetError, load_dataset
from lrformer.data.masks import number_segments, object_mask
from lrformer.data.reading import (
    IMAGE_SUFFIXES,
    check_label,
    check_map_size,
    check_size,
    read_image,
    read_label,
    read_panoptic,
)

from ..referring.datasets import read_target
from .segments import Prediction, Segment, phrase_segment

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
_SHARD_SUFFIX = ".tar"

# What a model predicts, and where detectron2's records have its ground truth.
_TRUTH_KEYS = {
    "sem_seg": "sem_seg_file_name",
    "instances": "annotations",
    "panoptic_seg": "pan_seg_file_name",
    "referring": "referring",
}


@dataclass(frozen=True)
class Source:
    """An image or a video to predict.

    Attributes:
        path: the image or video, or the shard that the image is in.
        name: path of its picture below the output folder, without a suffix.
        truth: record in detectron2's dataset format, if its ground truth is to be drawn.
        image_id: the dataset's number of the image, where it has one.
        part: of an image in a shard: its first byte, and how many it has.
        phrase: what to segment, for the task "referring".
    """

    path: Path
    name: Path
    truth: dict[str, Any] | None = None
    image_id: int | str | None = None
    part: tuple[int, int] | None = None
    phrase: str | None = None

    def open(self) -> str | BinaryIO:
        """What :mod:`lrformer.data.reading` reads."""
        if self.part is None:
            return str(self.path)
        first, count = self.part
        with self.path.open("rb") as shard:
            shard.seek(first)
            image = io.BytesIO(shard.read(count))
        image.name = f"{self.path}: {self.name.name}"
        return image

    def read(self) -> np.ndarray:
        """The image, H x W x 3 RGB uint8; DatasetError if it cannot be read."""
        return read_image(self.open())

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def inputs(self) -> list[Path]:
        """The files that are read for it."""
        truth = self.truth or {}
        files = [truth.get("sem_seg_file_name"), truth.get("pan_seg_file_name")]
        return [self.path, *map(Path, filter(None, files))]


def collect(inputs: Iterable[str], output: Path) -> tuple[list[Source], list[str]]:
    """The files that paths on a command line mean, each of them once.

    A folder stands for the images in it and in its sub-folders, whose arrangement the output
    keeps; a pattern with ``*``, ``?``, ``[]`` or ``**`` for the images and videos that match it; a
    shard (WebDataset's plain ``.tar``), also of a folder or pattern, for the images in it.
    Pictures of an earlier run, in an ``output`` inside, are left out.

    Returns:
        The sources, and a line for each input that stands for none.
    """
    sources: dict[tuple, Source] = {}
    problems = []
    for text in inputs:
        found, damaged = [], []
        for source in _expand(text, output.resolve()):
            try:
                shard = source.path.suffix.lower() == _SHARD_SUFFIX
                found += _images_in(source) if shard else [source]
            except (OSError, tarfile.TarError) as error:
                damaged.append(f"{source.path}: cannot read the shard: {error}")
        for source in found:
            sources.setdefault((source.path.resolve(), source.part), source)
        problems += damaged
        if not found and not damaged:
            missing = "no images in it" if Path(text).is_dir() else "no such file or folder"
            problems.append(f"{text}: {missing}")
    return _with_unique_names(sources.values()), problems


def _expand(text: str, output: Path) -> list[Source]:
    path = Path(text)
    if path.is_file():
        return [Source(path, Path(path.stem))]
    if path.is_dir():
        files, searched, suffixes = path.rglob("*"), path, (*IMAGE_SUFFIXES, _SHARD_SUFFIX)
    else:
        parts = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)
        files, searched = map(Path, glob.iglob(text, recursive=True)), Path(*parts)
        suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, _SHARD_SUFFIX)
    inside = searched.resolve() in output.parents
    return [
        Source(file, file.relative_to(path).with_suffix("") if path.is_dir() else Path(file.stem))
        for file in sorted(files)
        if file.suffix.lower() in suffixes
        and file.is_file()
        and not (inside and file.resolve().is_relative_to(output))
    ]


def _images_in(shard: Source) -> list[Source]:
    """What follows the first dot of a member's name is its kind: ``1.seg.png`` is no image."""
    sources = []
    with tarfile.open(shard.path, "r:") as members:
        for member in members:
            path = PurePosixPath(member.name)
            key, _, kind = path.name.partition(".")
            if member.isfile() and key and f".{kind.lower()}" in IMAGE_SUFFIXES:
                # No name leads out of the output.
                folders = [part for part in path.parent.parts if part not in ("/", "..")]
                name, part = Path(shard.name, *folders, key), (member.offset_data, member.size)
                sources.append(Source(shard.path, name, part=part))
    return sources


def from_dataset(name: str, task: str | None = None) -> list[Source]:
    """The images of a registered dataset, and their ground truth of a task if one is given.

    Raises:
        DatasetError: the dataset is unknown, its files are not where they should be, or an image
            has no such ground truth.
    """
    sources = []
    for record in load_dataset(name):
        path, truth = Path(record["file_name"]), record if task else None
        if truth and truth.get(_TRUTH_KEYS[task]) is None:
            raise DatasetError(
                f"{name} has no {_TRUTH_KEYS[task]} for {path}: choose another dataset or --task"
            )
        if any({"label_map", "answer"} & x.keys() for x in record.get("referring", ())):
            raise DatasetError(f"{name} has phrases for training only; choose another dataset")
        source = Source(path, Path(path.stem), truth, record.get("image_id"))
        sources += (
            with_phrases([source], record["referring"]) if "referring" in record else [source]
        )
    return _with_unique_names(sources)


def with_phrases(sources: Iterable[Source], phrases: Sequence[dict]) -> list[Source]:
    """Each source once for each phrase, given as in a dataset dict's "referring"."""
    return [
        replace(
            source,
            name=source.name.with_name(f"{source.name.name}_{number}"),
            truth=source.truth and {**source.truth, "referring": [phrase]},
            phrase=phrase["phrase"],
        )
        for source in sources
        for number, phrase in enumerate(phrases)
    ]


def with_labels_from(sources: Iterable[Source], folder: Path) -> list[Source]:
    """The sources with the label maps ``folder/<name>.png`` as ground truth; videos have none."""
    return [
        s if s.is_video else replace(s, truth={"sem_seg_file_name": str(folder / f"{s.name}.png")})
        for s in sources
    ]


def _with_unique_names(sources: Iterable[Source]) -> list[Source]:
    """Sources of the same name are told apart by their folder's name, or else by a number."""
    unique: dict[str, Source] = {}
    for source in sources:
        folder, stem = source.path.absolute().parent.name, source.name.name
        others = itertools.chain([f"{folder}_{stem}"], (f"{stem}_{i}" for i in itertools.count(2)))
        names = itertools.chain([source.name], map(source.name.with_name, others))
        # Lower case: some file systems do not tell the cases apart.
        name = next(name for name in names if str(name).lower() not in unique)
        unique[str(name).lower()] = replace(source, name=name)
    return list(unique.values())


def read_truth(
    record: dict[str, Any], task: str, size: tuple[int, int], metadata: Any
) -> Prediction:
    """The ground truth of one image, to be drawn as a prediction is.

    Args:
        record: in detectron2's dataset format.
        task: "sem_seg", "instances", "panoptic_seg" or "referring", of its first phrase.
        size: height and width of the image.
        metadata: for the number of classes and the ignore label.

    Raises:
        DatasetError: a file cannot be read, or does not fit the image.
    """
    if task == "instances":
        file_name = record["file_name"]
        check_size(file_name, size, record)
        return [
            Segment(
                object_mask(x, file_name, size).astype(bool),
                x["category_id"],
                crowd=bool(x.get("iscrowd", 0)),
            )
            for x in record["annotations"]
            if x.get("segmentation")  # not a box alone
        ]
    if task == "referring":
        return [phrase_segment(read_target(record["referring"][0], record["file_name"], size) == 1)]
    file_name = record[_TRUTH_KEYS[task]]
    if task == "sem_seg":
        label = read_label(file_name)
        num_classes = len(metadata.get("stuff_classes", ())) or 2**16
        check_label(label, file_name, num_classes, metadata.get("ignore_label", 255), size)
        return label
    if record.get("segments_info") is None:
        raise DatasetError(f"{file_name}: no segments_info in the dataset dict of its image.")
    ids = read_panoptic(file_name)
    check_map_size(ids, file_name, size)
    number_segments(ids, record["segments_info"], file_name)  # for its checks
    return ids, record["segments_info"]

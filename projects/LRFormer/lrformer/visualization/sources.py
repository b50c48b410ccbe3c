"""Which files to draw, and where their pictures go."""

import glob
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lrformer.data import load_dataset

from .truth import TRUTH_KEYS

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")


@dataclass(frozen=True)
class Source:
    """A file to draw.

    Attributes:
        path: the image or video.
        name: path of its picture below the output folder, without a suffix.
        truth: record in detectron2's dataset format, if its ground truth is to be drawn.
        image_id: the dataset's number of the image, where it has one.
    """

    path: Path
    name: Path
    truth: dict[str, Any] | None = None
    image_id: int | str | None = None

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def inputs(self) -> list[Path]:
        """The files that are read for it."""
        keys = ("sem_seg_file_name", "pan_seg_file_name")
        truth = [self.truth[key] for key in keys if self.truth and self.truth.get(key)]
        return [self.path, *map(Path, truth)]


def collect(inputs: Iterable[str], output: Path) -> tuple[list[Source], list[str]]:
    """The files that paths on a command line mean.

    A folder stands for the images in it and in its sub-folders, whose arrangement the output
    keeps; a pattern with ``*``, ``?``, ``[]`` or ``**`` for the images and videos that match it.
    Where ``output`` is a folder inside, its files are left out, so that a second run does not draw
    the first one's pictures. A file that is named twice is drawn once.

    Returns:
        The sources, and a line for each input that stands for none.
    """
    sources: dict[Path, Source] = {}
    problems = []
    for text in inputs:
        found, problem = _expand(text, output.resolve())
        for source in found:
            sources.setdefault(source.path.resolve(), source)
        if problem:
            problems.append(problem)
    return _with_unique_names(sources.values()), problems


def from_dataset(name: str, ground_truth: str | None = None) -> list[Source]:
    """The images of a registered dataset.

    Args:
        name: the dataset's.
        ground_truth: with what is to be drawn beside the prediction, "sem_seg", "instances" or
            "panoptic_seg"; None: nothing.

    Raises:
        DatasetError: the dataset is unknown, or its files are not where they should be.
        ValueError: an image has no such ground truth.
    """
    sources = []
    for record in load_dataset(name):
        path = Path(record["file_name"])
        if ground_truth and record.get(TRUTH_KEYS[ground_truth]) is None:
            raise ValueError(
                f"{name} has no {TRUTH_KEYS[ground_truth]} for {path}, so no ground truth of the "
                f"task {ground_truth!r} can be drawn; choose another dataset or --task"
            )
        truth = record if ground_truth else None
        sources.append(Source(path, Path(path.stem), truth, record.get("image_id")))
    return _with_unique_names(sources)


def with_labels_from(sources: Sequence[Source], folder: Path) -> list[Source]:
    """The sources with the label maps ``folder/<name>.png`` as ground truth.

    Raises:
        ValueError: a source is a video, which has no label map.
    """
    labelled = []
    for source in sources:
        if source.is_video:
            raise ValueError(f"{source.path} is a video; ground truth can be drawn for images only")
        label = str(folder / f"{source.name}.png")
        truth = {"file_name": str(source.path), "sem_seg_file_name": label}
        labelled.append(replace(source, truth=truth))
    return labelled


def _expand(text: str, output: Path) -> tuple[list[Source], str | None]:
    path = Path(text)
    if path.is_dir():
        files = _drawable(path.rglob("*"), IMAGE_SUFFIXES, path, output)
        found = [Source(file, file.relative_to(path).with_suffix("")) for file in files]
        return found, None if found else f"{text}: no images ({', '.join(IMAGE_SUFFIXES)}) in it"
    if path.exists():
        return [Source(path, Path(path.stem))], None
    if not glob.has_magic(text):
        return [], f"{text}: no such file or folder"
    matches = map(Path, glob.iglob(text, recursive=True))
    parts = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)
    files = _drawable(matches, IMAGE_SUFFIXES + VIDEO_SUFFIXES, Path(*parts), output)
    found = [Source(file, Path(file.stem)) for file in files]
    return found, None if found else f"{text}: matches no image or video"


def _drawable(
    files: Iterable[Path], suffixes: tuple[str, ...], searched: Path, output: Path
) -> list[Path]:
    own = output if searched.resolve() in output.parents else None
    return sorted(
        file
        for file in files
        if file.suffix.lower() in suffixes
        and file.is_file()
        and not (own and file.resolve().is_relative_to(own))
    )


def _with_unique_names(sources: Iterable[Source]) -> list[Source]:
    """Sources of the same name are told apart by their folder's name, or else by a number."""
    unique: dict[str, Source] = {}
    for source in sources:
        # Lower case: some file systems do not tell the cases apart.
        name = next(name for name in _names(source) if str(name).lower() not in unique)
        unique[str(name).lower()] = replace(source, name=name)
    return list(unique.values())


def _names(source: Source) -> Iterator[Path]:
    name = source.name
    yield name
    yield name.with_name(f"{source.path.absolute().parent.name}_{name.name}")
    for number in itertools.count(2):
        yield name.with_name(f"{name.name}_{number}")

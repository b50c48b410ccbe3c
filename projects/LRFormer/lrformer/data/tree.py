"""Folders of images and label maps on disk, and what to say when they are not as expected."""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)


class DatasetError(ValueError):
    """A dataset's files are missing, in the wrong place, unreadable or hold wrong values."""


def some(items: Iterable[object], limit: int = 3) -> str:
    """The first few of ``items`` as text, with the number of the others."""
    items = list(items)
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


def whereabouts(root: str, folder: str) -> str:
    """Say where ``folder`` is, if ``root`` is a level off or the dataset lies one deeper."""
    top_level = Path(root).absolute()
    if (top_level.parent / folder).exists():
        return (
            f" It is in {top_level.parent}, so the root is one level too deep: use "
            f"{top_level.parent} (DETECTRON2_DATASETS)."
        )
    children = sorted(p for p in top_level.iterdir() if p.is_dir()) if top_level.is_dir() else []
    for child in children:
        if (child / folder).exists():
            return (
                f" It is in {child}, so the root is one level too high: use {child} "
                "(DETECTRON2_DATASETS)."
            )
    top, *rest = Path(folder).parts
    inner = sorted(top_level.joinpath(top).iterdir()) if top_level.joinpath(top).is_dir() else []
    for child in inner:
        if child.is_dir() and child.joinpath(*rest).exists():
            return f" {child} holds it: move what is inside {child} up into {top_level / top}."
    return ""


def advice(root: str, prepare: str) -> str:
    """Say where datasets are looked for, and how this one is prepared."""
    variable = os.getenv("DETECTRON2_DATASETS")
    where = (
        f" Datasets are looked for in {Path(root).absolute()}; DETECTRON2_DATASETS is "
        f"{variable or 'not set'}."
    )
    how = f" To prepare it: {prepare}." if prepare else ""
    return f"{where}{how} datasets/README.md shows the expected tree."


@dataclass(frozen=True)
class SemSegTree:
    """A semantic segmentation dataset as folders of images beside folders of label maps.

    An image and its label map have the same path below their folders, suffixes apart.

    Args:
        name: the dataset's name in detectron2's catalogs, for messages.
        root: the folder that all others are relative to.
        folders: (images, labels) pairs, relative to ``root``; several are concatenated.
        prepare: the command that makes the tree, for messages; may be empty.
        image_suffixes: endings of image files, compared without regard to case.
        label_suffix: ending of label files.
        nested: whether the files lie in sub-folders, as Cityscapes' cities do.
    """

    name: str
    root: str
    folders: tuple[tuple[str, str], ...]
    prepare: str = ""
    image_suffixes: tuple[str, ...] = (".jpg", ".jpeg", ".png")
    label_suffix: str = ".png"
    nested: bool = False

    def load(self) -> list[dict]:
        """List the dataset, sorted by file name, without opening a file.

        Returns:
            detectron2 dataset dicts with ``file_name`` and ``sem_seg_file_name``.

        Raises:
            DatasetError: a folder is missing or empty, or an image has no label map. A label map
                without an image is only warned about.
        """
        records = []
        for images, labels in self.folders:
            records.extend(self._load_folder(images, labels))
        return records

    def _load_folder(self, images: str, labels: str) -> list[dict]:
        image_files = self._list(images, self.image_suffixes, "images")
        label_files = self._list(labels, (self.label_suffix,), "label maps")
        unlabelled = sorted(image_files.keys() - label_files.keys())
        if unlabelled:
            message = (
                f"{self.name}: {len(unlabelled)} of {len(image_files)} images have no label map: "
                f"{some(image_files[key] for key in unlabelled)}. Expected, for the first, "
                f"{Path(self.root, labels).absolute()}/{unlabelled[0]}{self.label_suffix}."
            )
            raise DatasetError(message + self._advice())
        stray = [label_files[key] for key in sorted(label_files.keys() - image_files.keys())]
        if stray:
            logger.warning(
                f"{self.name}: {len(stray)} label maps have no image in "
                f"{Path(self.root, images)} and are not used: {some(stray)}."
            )
        return [
            {"file_name": image_files[key], "sem_seg_file_name": label_files[key]}
            for key in sorted(image_files)
        ]

    def _list(self, folder: str, suffixes: tuple[str, ...], what: str) -> dict[str, str]:
        """Map each file's path below ``folder``, without its suffix, to its whole path."""
        path = Path(self.root, folder)
        expected = f"{what} ({', '.join('*' + suffix for suffix in suffixes)})"
        if not path.is_dir():
            raise DatasetError(
                f"{self.name}: there is no folder {path.absolute()}; expected {expected} there."
                + whereabouts(self.root, folder)
                + self._advice()
            )
        files: dict[str, str] = {}
        prefix = len(str(path)) + 1
        for file in map(str, path.rglob("*") if self.nested else path.iterdir()):
            for suffix in suffixes:
                if file.lower().endswith(suffix.lower()):
                    other = files.setdefault(file[prefix : -len(suffix)], file)
                    break
            else:
                continue
            if other != file:
                raise DatasetError(
                    f"{self.name}: {other} and {file} differ only in their suffix. Remove one."
                )
        if not files:
            found = some(sorted(os.listdir(path))) or "an empty folder"
            below = " in its sub-folders" if self.nested else ""
            raise DatasetError(
                f"{self.name}: no {expected}{below} in {path.absolute()}; found {found}."
                + self._advice()
            )
        return files

    def _advice(self) -> str:
        return advice(self.root, self.prepare)

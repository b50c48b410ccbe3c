"""Folders of images and label maps: registering them, and what to say where files are amiss."""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from .metadata import IGNORE_LABEL

logger = logging.getLogger(__name__)


class DatasetError(ValueError):
    """A dataset's files are missing, in the wrong place, unreadable or hold wrong values."""


def some(items: Iterable[object], limit: int = 3) -> str:
    """The first few of ``items`` as text, with the number of the others."""
    items = list(items)
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


def _whereabouts(root: Path, folder: Path) -> str:
    """Where ``folder`` is, if ``root`` is a level off or the dataset lies one deeper."""
    for place, fault in ((root.parent, "deep"), *((child, "high") for child in _folders(root))):
        if (place / folder).exists():
            return (
                f" It is in {place}, so the root is one level too {fault}: use {place} "
                "(DETECTRON2_DATASETS)."
            )
    top, *rest = folder.parts
    for child in _folders(root / top):
        if child.joinpath(*rest).exists():
            return f" {child} holds it: move what is inside {child} up into {root / top}."
    return ""


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []


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
        """Dataset dicts with "file_name" and "sem_seg_file_name", sorted; no file is opened.

        Raises:
            DatasetError: a folder is missing or empty, or an image has no label map. A label map
                without an image is only warned about.
        """
        return [record for pair in self.folders for record in self._load_folder(*pair)]

    def _load_folder(self, images: str, labels: str) -> list[dict]:
        image_files = self._list(images, self.image_suffixes, "images")
        label_files = self._list(labels, (self.label_suffix,), "label maps")
        unlabelled = sorted(image_files.keys() - label_files.keys())
        if unlabelled:
            raise self._error(
                f"{len(unlabelled)} of {len(image_files)} images have no label map: "
                f"{some(image_files[key] for key in unlabelled)}. Expected, for the first, "
                f"{Path(self.root, labels).absolute()}/{unlabelled[0]}{self.label_suffix}."
            )
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
        root, path = Path(self.root).absolute(), Path(self.root, folder)
        expected = f"{what} ({', '.join('*' + suffix for suffix in suffixes)})"
        if not path.is_dir():
            raise self._error(
                f"there is no folder {root / folder}; expected {expected} there."
                + _whereabouts(root, Path(folder))
            )
        files: dict[str, str] = {}
        prefix = len(str(path)) + 1
        for file in map(str, path.rglob("*") if self.nested else path.iterdir()):
            suffix = next((s for s in suffixes if file.lower().endswith(s.lower())), None)
            if suffix is None:
                continue
            other = files.setdefault(file[prefix : -len(suffix)], file)
            if other != file:
                raise self._error(f"{other} and {file} differ only in their suffix. Remove one.")
        if not files:
            below = " in its sub-folders" if self.nested else ""
            found = some(sorted(os.listdir(path))) or "an empty folder"
            raise self._error(f"no {expected}{below} in {root / folder}; found {found}.")
        return files

    def _error(self, fault: str) -> DatasetError:
        variable = os.getenv("DETECTRON2_DATASETS") or "not set"
        how = f" To prepare it: {self.prepare}." if self.prepare else ""
        return DatasetError(
            f"{self.name}: {fault} Datasets are looked for in {Path(self.root).absolute()}; "
            f"DETECTRON2_DATASETS is {variable}.{how} datasets/README.md shows the expected tree."
        )


def register_sem_seg(
    tree: SemSegTree,
    classes: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    ignore_label: int = IGNORE_LABEL,
) -> None:
    """Register a dataset of images and label maps under ``tree.name``; any of your own too.

    Nothing is read before the dataset is used. A name that is registered already is left as it is.

    Args:
        tree: where the files are.
        classes: the name of each label, from 0 on.
        colors: the RGB colour of each class, 0 to 255.
        ignore_label: the label of pixels that count neither in training nor in testing.
    """
    if tree.name in DatasetCatalog:
        return
    if len(classes) != len(colors):
        raise ValueError(f"{tree.name}: {len(classes)} classes but {len(colors)} colours.")
    DatasetCatalog.register(tree.name, tree.load)
    images, labels = (os.path.commonpath(folders) for folders in zip(*tree.folders, strict=True))
    MetadataCatalog.get(tree.name).set(
        stuff_classes=list(classes),
        stuff_colors=[list(color) for color in colors],
        image_root=os.path.join(tree.root, images),
        sem_seg_root=os.path.join(tree.root, labels),
        ignore_label=ignore_label,
        evaluator_type="sem_seg",
    )

"""Label files that are images: index maps, colour-coded maps, one file a class."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..metadata import IGNORE_LABEL
from ..prepare import save_label
from ..reading import IMAGE_SUFFIXES, open_image
from ..tree import DatasetError, some
from .classes import Classes, Value, Values

MAX_SEEN = 64  # distinct values of a label file, at most, by which it is told from an image
_SEEN_FILES = 40


def list_images(folder: Path, labels: bool = False) -> dict[str, Path]:
    """The images below a folder, sorted, by their path there without suffix.

    Of ``a.jpg`` and ``a.png`` the first is the image, the other one its label file.
    """
    files = [x for x in list_files(folder) if x.suffix.lower() in IMAGE_SUFFIXES]
    files.sort(key=lambda x: x.suffix.lower() in (".jpg", ".jpeg"), reverse=labels)
    found = {str(x.relative_to(folder).with_suffix("")): x for x in files}  # the last one stays
    return dict(sorted(found.items()))


def list_files(folder: Path) -> list[Path]:
    """The files below a folder, sorted, without hidden ones, as conversions are."""
    found = (x for x in sorted(folder.rglob("*")) if x.is_file())
    return [x for x in found if not any(p[0] == "." for p in x.relative_to(folder).parts)]


def pair(images: Mapping[str, Path], labels: Mapping[str, Path]) -> dict[str, Path]:
    """The label file of each image that has one.

    Names are equal, or all labels' have the same ending more: ``0001`` and ``0001_mask``.
    """
    own = set(images.values()) & set(labels.values())  # both lie in one folder
    endings = Counter()
    for name in labels:
        found = (name[:end] for end in range(len(name), 0, -1) if name[:end] in images)
        stem = next((x for x in found if images[x] != labels[name]), None)
        if stem is not None:
            endings[name[len(stem) :]] += 1
    if not endings:
        return {}
    ending = endings.most_common(1)[0][0]
    pairs = {key: labels[key + ending] for key in images if key + ending in labels}
    return {key: file for key, file in pairs.items() if images[key] != file} if own else pairs


def pair_by_class(
    images: Iterable[str], labels: Mapping[str, Path], names: Iterable[str]
) -> dict[str, dict[str, Path]]:
    """The files of each class, for the images that have one: one file a class.

    They are called ``CLASS/IMAGE.png``, ``IMAGE/CLASS.png`` or ``IMAGE_CLASS.png``.
    """
    names, pairs = list(names), {}
    for key in images:
        files = {}
        for name in names:
            choices = (f"{name}/{key}", f"{key}/{name}", f"{key}_{name}")
            for choice in filter(labels.__contains__, choices):
                files[name] = labels[choice]
        if files:
            pairs[key] = files
    return pairs


def stored_values(file: Path) -> np.ndarray:
    """The values of a label file, H×W int32: labels, or a colour as 2²⁴ + 2¹⁶ R + 2⁸ G + B.

    Raises:
        DatasetError: it cannot be read.
    """
    image = open_image(str(file), "label file")
    if image.mode == "LA":
        image = image.getchannel(0)
    if image.mode in ("1", "L", "P") or image.mode.startswith("I"):
        return np.asarray(image).astype(np.int32)
    rgb = np.asarray(image.convert("RGB"), dtype=np.int32)
    return 1 << 24 | rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]


def as_value(stored: int) -> Value:
    """A label or a colour, from what :func:`stored_values` gives."""
    return tuple((stored & 0xFFFFFF).to_bytes(3, "big")) if stored >> 24 else stored


@dataclass(frozen=True)
class Table:
    """Which label each stored value gets.

    Attributes:
        values: stored value -> label; a number stands for the grey (v, v, v) as well.
        source: what defines it, for messages.
    """

    values: Mapping[Value, int]
    source: Path

    def convert(self, source: Path, destination: Path) -> None:
        """Write the labels of a file; DatasetError for a value that is not in the table."""
        stored = stored_values(source)
        known, labels = self._arrays
        place = np.searchsorted(known, stored).clip(max=len(known) - 1)
        unknown = np.unique(stored[known[place] != stored])
        if len(unknown):
            raise DatasetError(
                f"{source}: found {some(map(as_value, unknown.tolist()), 5)}, which is no class "
                f"and not ignored in {self.source}. Name it under `classes` or `ignore_label`."
            )
        save_label(labels[place], destination)

    @property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        packed = {}
        for value, label in self.values.items():
            r, g, b = value if isinstance(value, tuple) else (value,) * 3
            if max(r, g, b) < 256:
                packed[1 << 24 | r << 16 | g << 8 | b] = label
            if not isinstance(value, tuple):
                packed[value] = label
        known = np.array(sorted(packed), np.int32)
        return known, np.array([packed[value] for value in known.tolist()], np.uint8)


def merge_classes(files: Mapping[int, Path], destination: Path, unlabelled: int) -> None:
    """Write one label map of a file a class, whose pixels are not 0 where the class is.

    Where several are, the last label counts.
    """
    merged, first = None, None
    for label, file in sorted(files.items()):
        stored = stored_values(file)
        mask = stored & 0xFFFFFF != 0
        if merged is None:
            merged, first = np.full(mask.shape, unlabelled, np.uint8), file
        if mask.shape != merged.shape:
            raise DatasetError(f"{file} is of another size than {first}; they have to agree.")
        merged[mask] = label
    save_label(merged, destination)


def seen_values(files: Iterable[Path]) -> list[Value]:
    """The values in some of the label files, spread evenly; numbers before colours."""
    files = list(files)
    chosen = [
        files[i] for i in np.linspace(0, len(files) - 1, min(len(files), _SEEN_FILES), dtype=int)
    ]
    found = {value for file in chosen for value in np.unique(stored_values(file)).tolist()}
    return [as_value(value) for value in sorted(found)]


def classes_of(seen: list[Value], source: Path) -> Classes:
    """Classes for values that nobody has named; DatasetError for colours."""
    if seen in ([0, 255], [(0, 0, 0), (255, 255, 255)]):
        return Classes(("background", "foreground"))
    colored = [value for value in seen if isinstance(value, tuple)]
    if colored:
        raise DatasetError(
            f"{source}: `classes` is missing, and the label files have the colours "
            f"{some(colored, 20)}. Name the class of each, as `tools/data.py init` does: "
            "{name: [red, green, blue]}."
        )
    highest = max((value for value in seen if value != IGNORE_LABEL), default=0)
    return Classes(tuple(f"class {label}" for label in range(highest + 1)))


def looks_like_labels(file: Path) -> bool:
    """Whether a file holds so few values that it is no photograph."""
    with Image.open(file) as image:
        if image.mode in ("1", "P"):
            return True
    return len(np.unique(stored_values(file))) <= MAX_SEEN


def table_for(classes: Classes, ignored: Values, seen: list[Value], source: Path) -> Table | None:
    """The table that index or colour maps are converted by; None where they are label maps.

    Args:
        classes, ignored: as the yaml says.
        seen: values that occur in some of the files.
        source: the yaml, for messages.

    Raises:
        DatasetError: the files are colour-coded, and the yaml does not say what colours mean.
    """
    colored = [value for value in seen if isinstance(value, tuple)]
    if classes.values:
        meanings = {v: label for label, values in enumerate(classes.values) for v in values}
    else:
        meanings = {label: label for label in range(len(classes.names))}
        if len(meanings) == 2 and seen in ([0, 255], [(0, 0, 0), (255, 255, 255)]):
            meanings = {0: 0, 255: 1}
        elif not colored and all(type(value) is int for value in ignored) and len(ignored) < 2:
            return None
        elif any(len(set(color)) > 1 for color in colored):
            raise DatasetError(
                f"{source}: the label files have the colours {some(colored, 20)}. Give each class "
                "its own under `classes`: {name: [red, green, blue]}, or the path of a class table."
            )
    for value in (*ignored, *classes.ignored):
        meanings[value] = IGNORE_LABEL
    meanings.setdefault(255, IGNORE_LABEL) if not colored else None
    return Table(meanings, source)

"""Label files that are images: index maps, colour-coded maps, one file a class."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ..metadata import IGNORE_LABEL
from ..prepare import save_label
from ..reading import IMAGE_SUFFIXES, open_image
from ..tree import DatasetError
from .classes import COLORED, Classes, as_text, is_color
from .spec import OwnData

_INDEX_MODES = ("1", "L", "P", "I")  # Pillow's, of files that the mappers read as they are
_SEEN_FILES = 40
_BINARY = {0, 255}


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

    Names are equal, or all labels' have the same ending more: ``0001`` and ``0001_mask``. Both may
    lie in one folder.
    """
    endings = Counter(
        name[end:]
        for name, file in labels.items()
        for end in range(1, len(name) + 1)
        if images.get(name[:end], file) != file
    )
    ending = max(endings, key=lambda x: (endings[x], -len(x)), default="")
    found = {key: labels.get(key + ending) for key in images}
    return {key: file for key, file in found.items() if file not in (None, images[key])}


def read_values(file: Path) -> tuple[np.ndarray, bool]:
    """The values of a label file, H×W int32, see :mod:`.classes`; and if it is an index map.

    Raises:
        DatasetError: it cannot be read.
    """
    image = open_image(str(file), "label file")
    if image.mode.split(";")[0] in _INDEX_MODES:
        return np.asarray(image).astype(np.int32), True
    rgb = np.asarray(image.convert("RGB"), dtype=np.int32)
    red, green, blue = np.moveaxis(rgb, 2, 0)
    colors = COLORED | red << 16 | green << 8 | blue
    return np.where((red == green) & (green == blue), red, colors), False


def seen_values(files: Iterable[Path]) -> tuple[list[int], bool]:
    """The values in some of the label files, spread evenly; and if all of these are index maps."""
    files = list(files)
    spread = np.linspace(0, len(files) - 1, min(len(files), _SEEN_FILES), dtype=int)
    values, are_maps = zip(*(read_values(files[i]) for i in spread), strict=True)
    return sorted({x for array in values for x in np.unique(array).tolist()}), all(are_maps)


def classes_of(seen: list[int], source: Path) -> Classes:
    """Classes for values that nobody has named; DatasetError for colours."""
    if set(seen) == _BINARY:
        return Classes(("background", "foreground"))
    if any(map(is_color, seen)):
        raise DatasetError(
            f"{source}: `classes` is missing, and the label files have the colours "
            f"{as_text(seen)}. Name the class of each, as `tools/data.py init` does: "
            "{name: [red, green, blue]}."
        )
    highest = max((value for value in seen if value != IGNORE_LABEL), default=0)
    return Classes(tuple(f"class {label}" for label in range(highest + 1)))


def table_for(
    spec: OwnData, classes: Classes, seen: list[int], are_maps: bool
) -> dict[int, int] | None:
    """The label of each value; None where the files are label maps already.

    Args:
        spec, classes: what the yaml says, and found classes.
        seen, are_maps: see :func:`seen_values`.

    Raises:
        DatasetError: the files are colour-coded, and the yaml does not say what colours mean.
    """
    if classes.values:
        table = {v: label for label, values in enumerate(classes.values) for v in values}
    elif len(classes.names) == 2 and set(seen) == _BINARY:
        table = {0: 0, 255: 1}
    elif any(map(is_color, seen)):
        raise DatasetError(
            f"{spec.file}: the label files have the colours {as_text(seen)}. Give each class "
            "its own under `classes`: {name: [red, green, blue]}, or the path of a class table."
        )
    elif are_maps and len(spec.ignored) < 2:
        return None
    else:
        table = {label: label for label in range(len(classes.names))}
    if not any(map(is_color, table)):
        table.setdefault(255, IGNORE_LABEL)
    return table | dict.fromkeys((*spec.ignored, *classes.ignored), IGNORE_LABEL)


def convert_values(
    item: tuple[Path, Path], destination: Path, table: Mapping[int, int], yaml_file: Path
) -> None:
    """Write the label map of (image, label file); DatasetError for values not in the table."""
    _, source = item
    stored, _ = read_values(source)
    values, places = np.unique(stored, return_inverse=True)
    unknown = [x for x in values.tolist() if x not in table]
    if unknown:
        raise DatasetError(
            f"{source}: found {as_text(unknown, 5)}, which is no class and not ignored in "
            f"{yaml_file}. Name it under `classes` or `ignore_label`."
        )
    labels = np.array([table[x] for x in values.tolist()])
    save_label(labels[places].reshape(stored.shape), destination)

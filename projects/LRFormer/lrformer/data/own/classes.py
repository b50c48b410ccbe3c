"""Classes as users write them: names, stored values or colours, and the files that tools write.

A value is what a pixel of a label file holds: a number, or a colour as 2²⁴ + 2¹⁶ R + 2⁸ G + B. A
grey is the number of its brightness, as index maps are also stored as grey RGB images.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.utils.colormap import colormap

from ..tree import DatasetError, some

COLORED = 1 << 24
# Classes of these names do not count.
_IGNORED = ("void", "ignore", "ignored", "unlabeled", "unlabelled")
_HEADERS = ("name", "label", "class", "id", "r", "class_name")  # first words of a class table


@dataclass(frozen=True)
class Classes:
    """Names in the order of their labels.

    Attributes:
        names: of the classes.
        values: those that stand for each class in the label files; empty where they are the labels.
        ignored: those of classes that do not count.
    """

    names: tuple[str, ...]
    values: tuple[tuple[int, ...], ...] = ()
    ignored: tuple[int, ...] = ()

    @property
    def colors(self) -> list[list[int]]:
        """An RGB colour for each class: its own where one of its values is colourful."""
        palette = colormap(rgb=True, maximum=255).astype(int).tolist()
        drawn = [palette[label % len(palette)] for label in range(len(self.names))]
        for label, values in enumerate(self.values):
            if any(map(is_color, sum(self.values, ()))):
                drawn[label] = to_color(values[0])
        return drawn


def to_value(color: Sequence[int]) -> int:
    red, green, blue = color
    return red if red == green == blue else COLORED | red << 16 | green << 8 | blue


def is_color(value: int) -> bool:
    return value >= COLORED


def to_color(value: int) -> list[int]:
    return list((value & 0xFFFFFF).to_bytes(3, "big")) if is_color(value) else [value] * 3


def as_text(values: Sequence[int], limit: int = 20) -> str:
    """Values for messages: as colours where one of them is."""
    colored = any(map(is_color, values))
    return some((tuple(to_color(x)) if colored else x for x in values), limit)


def parse_classes(entry: Any, root: Path) -> Classes:
    """A list of names, {name: value, colour, or a list of them}, or the path of a class table.

    Raises:
        DatasetError: it is none of them, or names or values occur twice.
    """
    if isinstance(entry, str):
        entry = read_table(Path(root, entry))
    if isinstance(entry, list) and entry and all(isinstance(x, (str, int)) for x in entry):
        classes = Classes(tuple(map(str, entry)))
    elif isinstance(entry, dict) and entry:
        values = {str(name): parse_values(x, f"classes.{name}") for name, x in entry.items()}
        ignored = sum((values.pop(x) for x in [*values] if x.lower() in _IGNORED), ())
        classes = Classes(tuple(values), tuple(values.values()), ignored)
    else:
        raise DatasetError(
            "classes: expected a list of names, names with their values or colours (crack: "
            f"[255, 0, 0]), or the path of a class table; found {entry!r}."
        )
    stored = sum(classes.values, classes.ignored)
    for what, items in (("name", classes.names), ("value or colour", stored)):
        twice = [x for x in dict.fromkeys(items) if items.count(x) > 1]
        if twice:
            text = some(twice) if what == "name" else as_text(twice)
            raise DatasetError(f"classes: the {what} {text} is given twice.")
    return classes


def parse_values(entry: Any, key: str) -> tuple[int, ...]:
    """A label, a colour ([255, 0, 0] or "#ff0000"), or a list of them."""
    if isinstance(entry, str) and re.fullmatch("#[0-9a-fA-F]{6}", entry):
        entry = list(bytes.fromhex(entry[1:]))
    if type(entry) is int and 0 <= entry < 2**16:
        return (entry,)
    if entry and isinstance(entry, list):
        if len(entry) == 3 and all(type(x) is int and 0 <= x < 256 for x in entry):
            return (to_value(entry),)
        return sum((parse_values(x, key) for x in entry), ())
    raise DatasetError(
        f"{key}: found {entry!r}, expected a label such as 1, or a colour such as [255, 0, 0] or "
        '"#ff0000".'
    )


def read_table(file: Path) -> list[str] | dict[str, Any]:
    """Read a class table: a line a class, of its name and, on either side, a colour or a label.

    So are CamVid's ``label_colors.txt``, the ``class_dict.csv`` of many downloads and CVAT's
    ``labelmap.txt``. Lines with a ``#`` in front, and a header, are left out.

    Raises:
        DatasetError: there is no such file, or it has no classes.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"classes: cannot read the class table {file}: {error}") from error
    table = {}
    for line in lines:
        # The name is what has a letter first; a number before or behind it may have three parts.
        found = re.search(r'(?<![^\s,;:"])[^\W\d][^,;:\t"]*?(?=["\s,;:]*(\s\d|[,;:\t]|"|$))', line)
        if line.startswith("#") or not found or not table and found[0].lower() in _HEADERS:
            continue
        rest = line[: found.start()] + " " + line[found.end() :]
        numbers = [int(x) for x in re.findall(r"\d+", rest)]
        table[found[0].strip()] = numbers[-3:] if len(numbers) >= 3 else numbers[:1]
    if not table:
        raise DatasetError(f"classes: {file} is no class table: a line a class, name and colour.")
    return (
        {x: y if len(y) == 3 else y[0] for x, y in table.items()}
        if all(table.values())
        else [*table]
    )

"""Classes as users write them: names, stored values or colours, and the files that tools write."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.utils.colormap import colormap

from ..tree import DatasetError, some

# Stored values: a number of an index map, or a colour (red, green, blue).
Value = int | tuple[int, int, int]
Values = tuple[Value, ...]

# Classes of these names do not count.
_IGNORED = ("void", "ignore", "ignored", "unlabeled", "unlabelled")
_HEADERS = ("name", "label", "class", "id", "r", "class_name")  # first words of a class table
MAX_CLASSES = 255  # 8-bit maps, and one value for what is ignored


@dataclass(frozen=True)
class Classes:
    """Names in the order of their labels.

    Attributes:
        names: of the classes.
        values: those that stand for each class in the label files; empty where they are the labels.
        ignored: those of classes that do not count.
    """

    names: tuple[str, ...]
    values: tuple[Values, ...] = ()
    ignored: Values = ()

    @property
    def colors(self) -> list[Value]:
        """An RGB colour for each class: its own where it has one."""
        palette = [tuple(map(int, color)) for color in colormap(rgb=True, maximum=255)]
        drawn = [palette[label % len(palette)] for label in range(len(self.names))]
        for label, values in enumerate(self.values):
            drawn[label] = next((v for v in values if isinstance(v, tuple)), drawn[label])
        return drawn


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
        counted = {name: x for name, x in values.items() if name.lower() not in _IGNORED}
        ignored = [v for name, x in values.items() if name not in counted for v in x]
        classes = Classes(tuple(counted), tuple(counted.values()), tuple(ignored))
    else:
        raise DatasetError(
            "classes: expected a list of names, names with their values or colours (crack: "
            f"[255, 0, 0]), or the path of a class table; found {entry!r}."
        )
    stored = [value for values in (*classes.values, classes.ignored) for value in values]
    for what, items in (("name", classes.names), ("value or colour", stored)):
        twice = sorted({str(item) for item in items if items.count(item) > 1})
        if twice:
            raise DatasetError(f"classes: the {what} {some(twice)} is given twice.")
    return classes


def parse_values(entry: Any, key: str) -> Values:
    """Stored values: a number, a colour ([255, 0, 0] or "#ff0000"), or a list of them."""
    if isinstance(entry, list) and not _is_color(entry):
        return tuple(value for one in entry for value in parse_values(one, key))
    if _is_color(entry):
        return (tuple(entry),)
    if isinstance(entry, str) and re.fullmatch("#[0-9a-fA-F]{6}", entry):
        return (tuple(bytes.fromhex(entry[1:])),)
    if type(entry) is int and 0 <= entry < 2**16:
        return (entry,)
    raise DatasetError(
        f"{key}: found {entry!r}, expected a label such as 1, or a colour such as [255, 0, 0] or "
        '"#ff0000".'
    )


def _is_color(entry: Any) -> bool:
    is_triple = isinstance(entry, Sequence) and not isinstance(entry, str) and len(entry) == 3
    return is_triple and all(type(x) is int and 0 <= x <= 255 for x in entry)


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
    names, table = [], {}
    for line in lines:
        fields = re.split("[,;:\t]", line.strip())
        if len(fields) == 1:  # 0 background, or a colour on either side
            fields = re.fullmatch(r"((?:\d+\s+)*)(.*?)((?:\s+\d+){3})?", fields[0]).groups("")
        numbers = [int(x) for text in fields for x in text.split() if _is_number(text)]
        words = [
            text.strip().strip('"') for text in fields if text.strip() and not _is_number(text)
        ]
        if not words or line.startswith("#") or not names and words[0].lower() in _HEADERS:
            continue
        names.append(words[0])
        if numbers:
            table[names[-1]] = numbers[-3:] if len(numbers) >= 3 else numbers[0]
    if not names or (table and len(table) < len(names)):
        raise DatasetError(f"classes: {file} is no class table: a line a class, name and colour.")
    return table or names


def _is_number(text: str) -> bool:
    return text.replace(" ", "").isdigit()

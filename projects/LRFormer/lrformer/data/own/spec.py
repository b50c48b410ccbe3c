"""What a dataset's yaml says: where images and labels are, and which classes there are."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ..tree import DatasetError, some
from .classes import Classes, Values, parse_classes, parse_values

SPLITS = ("train", "val", "test")
TASKS = ("semantic", "instance", "panoptic")
IGNORE = "ignore"

_KEYS = ("root", "splits", "split", "classes", "ignore_label", "unlabelled", "task")
_PLACE = ("images", "labels")


@dataclass(frozen=True)
class Part:
    """Images and labels of a split: all, those that a file lists, or a share drawn at random.

    Attributes:
        images: folder.
        labels: folder or file.
        names: a text file with a name a line.
        fraction: share of the images that is held out; 0: no split is drawn.
        seed: of the draw.
        held_out: whether the part is what is held out, or the rest.
    """

    images: Path
    labels: Path
    names: Path | None = None
    fraction: float = 0.0
    seed: int = 0
    held_out: bool = False

    def choose(self, keys: Sequence[str]) -> list[str]:
        """The images, by their paths below the folder without suffix, that belong to it."""
        if self.names is not None:
            listed = [Path(x.split()[0]) for x in self.names.read_text().splitlines() if x.strip()]
            listed = {str(x.with_suffix("")) for x in listed} | {str(x) for x in listed}
            chosen = [key for key in keys if key in listed]
            if not chosen:
                raise DatasetError(
                    f"{self.names}: none of the {len(listed)} names it lists is an image in "
                    f"{self.images} (found there: {some(keys)})."
                )
            return chosen
        if not self.fraction:
            return list(keys)
        drawn = sorted(keys)
        random.Random(self.seed).shuffle(drawn)
        held_out = set(drawn[: max(1, round(self.fraction * len(drawn)))])
        return [key for key in keys if (key in held_out) == self.held_out]


@dataclass(frozen=True)
class OwnData:
    """A dataset's yaml; see docs/own_data.md.

    Attributes:
        file: the yaml.
        root: the folder that its paths are relative to, and that conversions are kept in.
        parts: by the names of the splits.
        classes: None where the labels have to name them.
        ignored: stored values of pixels that do not count.
        unlabelled: the class of pixels in no object, or "ignore".
        task: what is learnt; None: the richest of what is annotated and the model can learn.
    """

    file: Path
    root: Path
    parts: Mapping[str, Part]
    classes: Classes | None = None
    ignored: Values = ()
    unlabelled: str = "background"
    task: str | None = None

    @property
    def name(self) -> str:
        """The first part of the names of its datasets in detectron2's catalogs."""
        return self.file.stem


def load_spec(file: str | Path) -> OwnData:
    """Read a yaml of a dataset.

    Raises:
        DatasetError: it cannot be understood, or names what does not exist.
    """
    file = Path(file)
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DatasetError(
            f"there is no file {file}; `tools/data.py init FOLDER` writes one for a folder."
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DatasetError(f"{file} is no readable yaml: {error}") from error
    try:
        return _spec(file, content)
    except DatasetError as error:
        raise DatasetError(f"{file}: {error}") from error


def _spec(file: Path, content: Any) -> OwnData:
    _check_keys(content, _KEYS, "a dataset's keys")
    root = Path(file.parent, Path(str(content.get("root", "."))).expanduser()).absolute()
    if not root.is_dir():
        raise DatasetError(f"root: there is no folder {root}.")
    if ("splits" in content) == ("split" in content):
        raise DatasetError(
            "give either `splits` (train: and val:, each with `images` and `labels`), or `split` "
            "(`images`, `labels` and the `fraction` to hold out)."
        )
    if "split" in content:
        parts = _draw(root, content["split"])
    else:
        splits = content["splits"]
        _check_keys(splits, SPLITS, "the names of splits")
        parts = {name: _part(root, f"splits.{name}", entry) for name, entry in splits.items()}
    unlabelled = content.get("unlabelled", "background")
    for key, value, kinds in (
        ("task", content.get("task", TASKS[0]), TASKS),
        ("unlabelled", type(unlabelled).__name__, ("str",)),
    ):
        if value not in kinds:
            raise DatasetError(f"{key}: found {value!r}, expected {' or '.join(kinds)}.")
    return OwnData(
        file=file,
        root=root,
        parts=parts,
        classes=None if content.get("classes") is None else parse_classes(content["classes"], root),
        ignored=parse_values(content.get("ignore_label", []), "ignore_label"),
        unlabelled=unlabelled,
        task=content.get("task"),
    )


def _draw(root: Path, entry: Any) -> dict[str, Part]:
    whole = _part(root, "split", entry, (*_PLACE, "fraction", "seed"))
    fraction, seed = entry.get("fraction", 0.2), entry.get("seed", 0)
    if not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
        raise DatasetError(f"split.fraction: found {fraction!r}, expected a share such as 0.2.")
    if not isinstance(seed, int):
        raise DatasetError(f"split.seed: found {seed!r}, expected a whole number.")
    train = replace(whole, fraction=fraction, seed=seed)
    return {"train": train, "val": replace(train, held_out=True)}


def _part(root: Path, key: str, entry: Any, keys: Sequence[str] = (*_PLACE, "names")) -> Part:
    _check_keys(entry, keys, f"the keys of {key}")
    paths = {}
    for name in (*_PLACE, "names"):
        if name not in entry:
            if name in _PLACE:
                raise DatasetError(f"{key}: there is no `{name}`, the path of its {name}.")
            continue
        paths[name] = Path(root, str(entry[name]))
        kind = "folder" if name == "images" else "folder or file"
        if not (paths[name].is_dir() if name == "images" else paths[name].exists()):
            raise DatasetError(f"{key}.{name}: there is no {kind} {paths[name]}.")
    return Part(**paths)


def _check_keys(entry: Any, known: Sequence[str], what: str) -> None:
    if not isinstance(entry, dict):
        raise DatasetError(f"{what} are {', '.join(known)}; found {entry!r}.")
    unknown = [key for key in entry if key not in known]
    if unknown:
        raise DatasetError(f"{what} are {', '.join(known)}; found {some(map(repr, unknown))}.")

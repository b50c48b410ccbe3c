"""What a dataset's yaml says: where images and labels are, and which classes there are."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ...config import PlainLoader
from ..tree import DatasetError, some
from .classes import Classes, parse_classes, parse_values

SPLITS = ("train", "val", "test")
TASKS = ("semantic", "instance")
IGNORE = "ignore"

_KEYS = ("root", "splits", "split", "classes", "ignore_label", "unlabelled", "task")


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
            lines = [x.split()[0] for x in self.names.read_text().splitlines() if x.strip()]
            listed = {*lines, *(str(Path(x).with_suffix("")) for x in lines)}
            chosen = [key for key in keys if key in listed]
            if not chosen:
                raise DatasetError(
                    f"{self.names}: none of the {len(lines)} names it lists is an image in "
                    f"{self.images} (found there: {some(keys)})."
                )
            return chosen
        drawn = sorted(keys)
        random.Random(self.seed).shuffle(drawn)
        held_out = {*drawn[: max(1, round(self.fraction * len(drawn)))]} if self.fraction else ()
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
    ignored: tuple[int, ...] = ()
    unlabelled: str = "background"
    task: str | None = None


def load_spec(file: str | Path) -> OwnData:
    """Read a yaml of a dataset.

    Raises:
        DatasetError: it cannot be understood, or names what does not exist.
    """
    file = Path(file)
    try:
        return _spec(file, yaml.load(file.read_text(encoding="utf-8"), PlainLoader))
    except FileNotFoundError as error:
        raise DatasetError(
            f"there is no file {file}; `tools/data.py init FOLDER` writes one for a folder."
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DatasetError(f"{file} is no readable yaml: {error}") from error
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
        whole = _part(root, "split", content["split"], ("fraction", "seed"))
        fraction, seed = (content["split"].get(*x) for x in (("fraction", 0.2), ("seed", 0)))
        if not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
            raise DatasetError(f"split.fraction: found {fraction!r}, expected a share such as 0.2.")
        if not isinstance(seed, int):
            raise DatasetError(f"split.seed: found {seed!r}, expected a whole number.")
        train = replace(whole, fraction=fraction, seed=seed)
        parts = {"train": train, "val": replace(train, held_out=True)}
    else:
        _check_keys(content["splits"], SPLITS, "the names of splits")
        parts = {x: _part(root, f"splits.{x}", y, ("names",)) for x, y in content["splits"].items()}
    task = content.get("task")
    if task not in (None, *TASKS):
        raise DatasetError(f"task: found {task!r}, expected {' or '.join(TASKS)}.")
    classes, ignored = content.get("classes"), content.get("ignore_label")
    return OwnData(
        file=file,
        root=root,
        parts=parts,
        classes=None if classes is None else parse_classes(classes, root),
        ignored=() if ignored is None else parse_values(ignored, "ignore_label"),
        unlabelled=str(content.get("unlabelled", "background")),
        task=task,
    )


def _part(root: Path, key: str, entry: Any, more: Sequence[str]) -> Part:
    _check_keys(entry, ("images", "labels", *more), f"the keys of {key}")
    paths = {x: Path(root, str(entry[x])) for x in ("images", "labels", "names") if x in entry}
    for name in ("images", "labels"):
        if name not in paths:
            raise DatasetError(f"{key}: there is no `{name}`, the path of its {name}.")
    for name, path in paths.items():
        if not (path.is_dir() if name == "images" else path.exists()):
            kind = "folder" if name == "images" else "folder or file"
            raise DatasetError(f"{key}.{name}: there is no {kind} {path}.")
    return Part(**paths)


def _check_keys(entry: Any, known: Sequence[str], what: str) -> None:
    unknown = [key for key in entry if key not in known] if isinstance(entry, dict) else [entry]
    if unknown:
        raise DatasetError(f"{what} are {', '.join(known)}; found {some(map(repr, unknown))}.")

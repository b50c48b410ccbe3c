"""What a dataset is like, and what is wrong with it: sizes, classes, duplicates, suspects."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import MetadataCatalog
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from ..catalog import load_dataset
from ..reading import read_image, read_label
from ..tree import DatasetError, some
from .dataset import Found

_HASH_SIDE = 16
_NEAR = 10  # of the 256 bits of two images' hashes that differ, at most, where they are much alike
_MANY_IGNORED = 0.9
_THREADS = 8


@dataclass
class Scan:
    """An image and its label map: the pixels of each label, and sentences of what is wrong."""

    file: Path
    size: tuple[int, int] | None = None
    hash: np.ndarray | None = None
    pixels: dict[int, int] = field(default_factory=dict)
    ignored: float = 0.0  # share of the pixels
    problems: list[str] = field(default_factory=list)


def difference_hash(image: np.ndarray) -> np.ndarray:
    """Whether each of 16×16 points of the small grey image is brighter than its left neighbour."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_HASH_SIDE + 1, _HASH_SIDE), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, 1:] > small[:, :-1])


def scan(name: str) -> list[Scan]:
    """Read every image and label map of a registered dataset, in threads."""
    metadata, records = MetadataCatalog.get(name), load_dataset(name)

    def one(record: dict) -> Scan:
        found = Scan(Path(record["file_name"]))
        try:
            image = read_image(record["file_name"])
            found.size, found.hash = image.shape[:2], difference_hash(image)
            label = read_label(record["sem_seg_file_name"])
            values, counts = np.unique(label, return_counts=True)
            found.pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
            found.ignored = found.pixels.pop(metadata.ignore_label, 0) / label.size
            if label.shape != found.size:
                sizes = label.shape[::-1], found.size[::-1]
                found.problems.append("the labels are {}, the image {}".format(*sizes))
            found.problems += _suspicions(found, len(metadata.stuff_classes))
        except DatasetError as error:
            found.problems.append(str(error))
        return found

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(tqdm(pool.map(one, records), name, len(records), unit="image"))


def _suspicions(found: Scan, num_classes: int) -> Iterator[str]:
    if wrong := [x for x in found.pixels if not 0 <= x < num_classes]:
        yield f"labels out of range: {some(wrong, 5)}; expected 0..{num_classes - 1}"
    if found.ignored > _MANY_IGNORED:
        yield f"{100 * found.ignored:.0f} % of the pixels are ignored"
    elif num_classes > 1 and len(found.pixels) == 1:
        yield f"all pixels have the label {next(iter(found.pixels))}"


def near_duplicates(scans: dict[str, list[Scan]]) -> Iterator[tuple[Path, Path]]:
    """Pairs of images of different splits that look almost the same."""
    readable = {split: [x for x in listed if x.size] for split, listed in scans.items()}
    for one, other in combinations(filter(None, readable.values()), 2):
        hashes = np.stack([x.hash for x in other])
        for x in one:
            distances = np.unpackbits(hashes ^ x.hash, axis=1).sum(axis=1)
            yield from ((x.file, other[i].file) for i in np.flatnonzero(distances <= _NEAR))


def describe(found: Found, scans: dict[str, list[Scan]]) -> str:
    """Tables of the splits and of the classes, as Markdown.

    The weights are for ``MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS``: inverse square roots of the classes'
    shares of the pixels, whose mean over the pixels is 1.
    """
    splits, pixels, images = [], Counter(), Counter()
    for split, listed in scans.items():
        for x in listed:
            pixels.update(x.pixels)
            images.update(x.pixels.keys())
        sizes = np.array([x.size for x in listed if x.size] or [(0, 0)])[:, ::-1]
        spread = (np.min(sizes, 0), np.median(sizes, 0), np.max(sizes, 0))
        spread = ["x".join(f"{side:.0f}" for side in size) for size in spread]
        ignored = f"{100 * np.mean([x.ignored for x in listed]):.2f}"
        splits.append((split, len(listed), *spread, ignored, len(found.unlabelled.get(split, ()))))
    headers = ("split", "images", "least", "median", "largest size", "% ignored", "unlabelled")
    names, total = found.classes.names, sum(map(len, scans.values()))
    counts = np.array([pixels[label] for label in range(len(names))], float).clip(min=1)
    weights = counts.sum() / np.sqrt(counts).sum() / np.sqrt(counts)
    rows = [
        (i, name, 100 * counts[i] / counts.sum(), 100 * images[i] / total, weights[i])
        for i, name in enumerate(names)
    ]
    tables = (
        tabulate(splits, headers, "pipe", disable_numparse=True),
        tabulate(rows, ("", "class", "% of pixels", "% of images", "weight"), "pipe", ".2f"),
    )
    return "\n\n".join(tables)


def problems(found: Found, scans: dict[str, list[Scan]]) -> list[str]:
    """A line for each thing that is wrong, or looks so."""
    every = [x for listed in scans.values() for x in listed]
    lines = [f"{x.file}: {text}" for x in every for text in x.problems]
    lines += [f"{one} and {other} look the same" for one, other in near_duplicates(scans)]
    for split, files in found.unlabelled.items():
        lines += [f"{file}: no labels ({split})" for file in files]
    present = {label for x in every for label in x.pixels}
    names = enumerate(found.classes.names)
    return lines + [f"the class {name} does not occur" for i, name in names if i not in present]


def draw_samples(names: Iterable[str], output: Path, limit: int, seed: int) -> list[Path]:
    """Draw random images of registered datasets beside their labels; the files."""
    # Not above: the package of pictures imports that of the data.
    from lrformer.visualization import Style, draw_picture, from_dataset
    from lrformer.visualization.sources import read_truth

    sources = [(name, x) for name in names for x in from_dataset(name, "sem_seg")]
    output.mkdir(parents=True, exist_ok=True)
    files = []
    for name, source in random.Random(seed).sample(sources, min(limit, len(sources))):
        metadata, image = MetadataCatalog.get(name), source.read()
        truth = {"labels": read_truth(source.truth, "sem_seg", image.shape[:2], metadata)}
        picture = draw_picture(image, truth, metadata, Style(side_by_side=True))
        files.append(output / f"{name}_{source.name}.png")
        Image.fromarray(picture).save(files[-1])
    return files

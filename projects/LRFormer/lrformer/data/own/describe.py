"""What a dataset is like, and what is wrong with it: sizes, classes, duplicates, suspects."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Scan:
    """What was found in an image and its label map.

    Attributes:
        image: the file.
        size: height and width of the image; None where it cannot be read.
        pixels: of each label but the ignored one, by the label.
        ignored: share of the pixels that are ignored.
        hash: 256 bits, packed; much the same for images that look alike.
        problems: sentences.
    """

    image: Path
    size: tuple[int, int] | None
    pixels: dict[int, int]
    ignored: float
    hash: np.ndarray | None
    problems: list[str]


def difference_hash(image: np.ndarray) -> np.ndarray:
    """Whether each of 16×16 points of the small grey image is brighter than its left neighbour."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_HASH_SIDE + 1, _HASH_SIDE), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, 1:] > small[:, :-1])


def scan(name: str) -> list[Scan]:
    """Read every image and label map of a registered dataset, in threads."""
    metadata = MetadataCatalog.get(name)
    num_classes, ignore_label = len(metadata.stuff_classes), metadata.ignore_label

    def one(record: dict) -> Scan:
        file, size, pixels, hashed, problems = Path(record["file_name"]), None, {}, None, []
        ignored = 0.0
        try:
            image = read_image(str(file))
            size, hashed = image.shape[:2], difference_hash(image)
            label = read_label(record["sem_seg_file_name"])
            values, counts = np.unique(label, return_counts=True)
            pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
            ignored = pixels.pop(ignore_label, 0) / label.size
            problems += _suspicions(pixels, num_classes, ignored)
            if label.shape != size:
                problems.insert(0, f"the labels are {label.shape[::-1]}, the image {size[::-1]}")
        except DatasetError as error:
            problems.append(str(error))
        return Scan(file, size, pixels, ignored, hashed, problems)

    records = load_dataset(name)
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(tqdm(pool.map(one, records), name, len(records), unit="image"))


def _suspicions(pixels: dict[int, int], num_classes: int, ignored: float) -> Iterator[str]:
    wrong = [x for x in pixels if not 0 <= x < num_classes]
    if wrong:
        yield f"labels out of range: {some(wrong, 5)}; expected 0..{num_classes - 1}"
    if ignored > _MANY_IGNORED:
        yield f"{100 * ignored:.0f} % of the pixels are ignored"
    elif num_classes > 1 and len(pixels) == 1:
        yield f"all pixels have the label {next(iter(pixels))}"


def near_duplicates(scans: dict[str, list[Scan]]) -> list[tuple[Path, Path]]:
    """Pairs of images of different splits that look almost the same."""
    pairs = []
    for one, other in combinations(scans, 2):
        theirs = [x for x in scans[other] if x.hash is not None]
        hashes = np.array([x.hash for x in theirs]).reshape(-1, _HASH_SIDE**2 // 8)
        for mine in (x for x in scans[one] if x.hash is not None):
            distances = np.unpackbits(hashes ^ mine.hash, axis=1).sum(axis=1)
            pairs += [(mine.image, theirs[i].image) for i in np.flatnonzero(distances <= _NEAR)]
    return pairs


def describe(found: Found, scans: dict[str, list[Scan]]) -> str:
    """Tables of the splits and of the classes, as Markdown.

    The weights are for ``MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS``.
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
        unlabelled = len(found.unlabelled.get(split, ()))
        splits.append((split, len(listed), *spread, ignored, unlabelled))
    headers = ("split", "images", "least", "median", "largest size", "% ignored", "unlabelled")
    names, weights = found.classes.names, class_weights(pixels, len(found.classes.names))
    total = max(1, sum(pixels[label] for label in range(len(names))))
    count = sum(map(len, scans.values()))
    rows = [
        (label, name, 100 * pixels[label] / total, 100 * images[label] / count, weights[label])
        for label, name in enumerate(names)
    ]
    tables = [
        tabulate(splits, headers, tablefmt="pipe", disable_numparse=True),
        tabulate(rows, ("", "class", "% of pixels", "% of images", "weight"), "pipe", ".2f"),
    ]
    return "\n\n".join(tables)


def class_weights(pixels: dict[int, int], num_classes: int) -> list[float]:
    """Inverse square roots of the classes' shares of the pixels, whose mean over pixels is 1."""
    counts = np.array([pixels.get(label, 0) for label in range(num_classes)], float)
    weights = 1 / np.sqrt(counts.clip(min=1))
    return (weights * counts.sum() / max((weights * counts).sum(), 1e-9)).round(3).tolist()


def problems(found: Found, scans: dict[str, list[Scan]]) -> list[str]:
    """A line for each thing that is wrong, or looks so."""
    lines = [
        f"{x.image}: {text}" for listed in scans.values() for x in listed for text in x.problems
    ]
    lines += [f"{one} and {other} look the same" for one, other in near_duplicates(scans)]
    for split, files in found.unlabelled.items():
        lines += [f"{file}: no labels ({split})" for file in files]
    present = {label for listed in scans.values() for x in listed for label in x.pixels}
    names = found.classes.names
    lines += [f"the class {x} does not occur" for i, x in enumerate(names) if i not in present]
    return lines


def draw_samples(names: Iterable[str], output: Path, limit: int, seed: int) -> list[Path]:
    """Draw random images of registered datasets beside their labels; the files."""
    # Not above: the package of pictures imports that of the data.
    from lrformer.visualization import Style, draw_picture, from_dataset
    from lrformer.visualization.sources import read_truth

    sources = [(name, x) for name in names for x in from_dataset(name, "sem_seg")]
    output.mkdir(parents=True, exist_ok=True)
    files = []
    for name, source in random.Random(seed).sample(sources, min(limit, len(sources))):
        metadata, image = MetadataCatalog.get(name), read_image(str(source.path))
        truth = {"labels": read_truth(source.truth, "sem_seg", image.shape[:2], metadata)}
        picture = draw_picture(image, truth, metadata, Style(side_by_side=True))
        files.append(output / f"{name}_{source.name}.png")
        Image.fromarray(picture).save(files[-1])
    return files

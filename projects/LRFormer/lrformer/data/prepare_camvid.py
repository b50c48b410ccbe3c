"""CamVid in the forms in which it circulates, made into one tree of 11 classes."""

import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from . import metadata
from .builtin import dataset_trees
from .prepare import (
    argument_parser,
    convert_label,
    make_files,
    run,
    save_label,
    verify_tree,
)
from .tree import DatasetError, SemSegTree

COUNTS = {"train": 367, "val": 101, "test": 233}
_IMAGES, _LABELS = "701_StillsRaw_full", "LabeledApproved_full"
_DOWNLOAD = "datasets/prepare_camvid.py says where to download it"
# A label map may hold a few stray colours at borders, not more than this share of its pixels.
_MAX_UNKNOWN = 0.05


def split_of(stem: str) -> str:
    """The split of a frame in the 367/101/233 division in common use, from the frame's name.

    Args:
        stem: such as "0016E5_07959" or "Seq05VD_f00000".

    Raises:
        DatasetError: it is no name of CamVid's 701 frames.
    """
    match = re.fullmatch(r"(0001TP|0006R0|0016E5|Seq05VD)_f?(\d+)", stem)
    if match is None:
        raise DatasetError(f"{stem} is not the name of a frame of CamVid, such as 0016E5_07959.")
    sequence, frame = match[1], int(match[2])
    if sequence == "Seq05VD" or (sequence == "0001TP" and frame >= 8550):
        return "test"
    # The part of 0016E5 that was labelled at 15 Hz.
    return "val" if sequence == "0016E5" and 7959 <= frame <= 8159 else "train"


def prepare_camvid(source: str, root: str, workers: int, height: int = 360) -> None:
    """Make and verify ``root/camvid`` from ``source``.

    Args:
        source: the release's folder. Recognised are the SegNet tutorial's (``train``,
            ``trainannot``, …; labels 0 to 10, and 11 for void), the original release
            (``701_StillsRaw_full``, ``LabeledApproved_full``; 960×720, colour-coded), and the tree
            that this function makes, which is copied, or only verified if it is in place.
        root: the folder that datasets lie in.
        workers: processes.
        height: the original release is reduced to this height; 720 keeps it.

    Raises:
        DatasetError: the source is not recognised, not complete, or holds wrong labels.
    """
    folder = Path(source)
    if (folder / "trainannot").is_dir():
        make_label = partial(convert_label, table=metadata.CAMVID_SEGNET_RAW_IDS)
        pairs = _segnet_pairs(folder)
        _make(pairs, root, workers, _copy, make_label)
    elif (folder / _LABELS).is_dir():
        size = (height * 960 // 720, height)
        pairs = _original_pairs(folder)
        _make(pairs, root, workers, partial(_resize, size=size), partial(_index_colors, size=size))
    elif (folder / "annotations" / "train").is_dir():
        if folder.resolve() != Path(root, "camvid").resolve():
            _make(_ready_pairs(folder), root, workers, _copy, _copy)
    else:
        raise DatasetError(
            f"{folder.absolute()} is no release of CamVid that is known: expected in it either "
            f"train/, trainannot/, … (SegNet tutorial), {_IMAGES}/ and {_LABELS}/ (original), or "
            f"images/ and annotations/ (prepared already); {_DOWNLOAD}."
        )
    trees = dataset_trees(root)
    for split, count in COUNTS.items():
        tree = trees[f"camvid_sem_seg_{split}"]
        verify_tree(tree, len(metadata.CAMVID_CLASSES), count, workers)


def _make(pairs, root, workers, make_image, make_label) -> None:
    """Make the images and label maps of (split, image, label map) below ``root``."""
    base = Path(root, "camvid")
    images, labels = [], []
    for split, image, label in pairs:
        suffix = image.suffix if make_image is _copy else ".png"
        images.append((image, base / "images" / split / (image.stem + suffix)))
        labels.append((label, base / "annotations" / split / (image.stem + ".png")))
    make_files(images, make_image, workers, "camvid images")
    make_files(labels, make_label, workers, "camvid labels")


def _load(folder: Path, images: str, labels: str, **options) -> list[tuple[Path, Path]]:
    tree = SemSegTree("CamVid", str(folder), ((images, labels),), prepare=_DOWNLOAD, **options)
    return [(Path(r["file_name"]), Path(r["sem_seg_file_name"])) for r in tree.load()]


def _segnet_pairs(folder: Path) -> list[tuple[str, Path, Path]]:
    return [(s, *pair) for s in COUNTS for pair in _load(folder, s, f"{s}annot")]


def _ready_pairs(folder: Path) -> list[tuple[str, Path, Path]]:
    return [(s, *pair) for s in COUNTS for pair in _load(folder, f"images/{s}", f"annotations/{s}")]


def _original_pairs(folder: Path) -> list[tuple[str, Path, Path]]:
    pairs = _load(folder, _IMAGES, _LABELS, label_suffix="_L.png")
    return [(split_of(image.stem), image, label) for image, label in pairs]


def _copy(source: Path, destination: Path) -> None:
    shutil.copyfile(source, destination)


def _resize(source: Path, destination: Path, size: tuple[int, int]) -> None:
    with Image.open(source) as image:
        resized = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    resized.save(destination, format="PNG")


def _index_colors(source: Path, destination: Path, size: tuple[int, int]) -> None:
    """Write the colour-coded label map ``source`` as class indices, reduced to (width, height)."""
    with Image.open(source) as image:
        colors = np.asarray(image.convert("RGB").resize(size, Image.Resampling.NEAREST))
    codes = colors.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.int32)
    label = np.full(codes.shape, metadata.IGNORE_LABEL, dtype=np.uint8)
    known = codes == 0
    for index, name in enumerate(metadata.CAMVID_CLASSES):
        for red, green, blue in metadata.CAMVID_ORIGINAL_COLORS[name]:
            found = codes == (red << 16 | green << 8 | blue)
            label[found] = index
            known |= found
    if known.mean() < 1 - _MAX_UNKNOWN:
        raise DatasetError(
            f"{source}: {1 - known.mean():.0%} of the pixels have a colour that is none of "
            "CamVid's 32. Is this a label map of the original release?"
        )
    save_label(label, destination)


def main(description: str, argv: list[str] | None = None) -> int:
    """The command line of ``datasets/prepare_camvid.py``."""
    parser = argument_parser(description)
    parser.add_argument("--source", required=True, help="folder of the release that you have")
    parser.add_argument(
        "--height",
        type=int,
        default=360,
        help="height that the original 960x720 release is reduced to; 720 keeps it (default: 360)",
    )
    args = parser.parse_args(argv)
    return run(lambda: prepare_camvid(args.source, args.root, args.workers, args.height))

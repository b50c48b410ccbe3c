"""CamVid in the forms in which it circulates, made into one tree of 11 classes."""

import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from .. import cli
from . import metadata
from .builtin import DATASETS
from .prepare import argument_parser, convert_label, make_files, save_label, verify_tree
from .tree import DatasetError, SemSegTree

_SPLITS = tuple(DATASETS["camvid_sem_seg"].counts)
_IMAGES, _LABELS = "701_StillsRaw_full", "LabeledApproved_full"
_DOWNLOAD = "datasets/prepare_camvid.py says where to download it"
# A label map may hold a few stray colours at borders, not more than this share of its pixels.
_MAX_UNKNOWN = 0.05


def split_of(stem: str) -> str:
    """The split of a frame, such as "0016E5_07959", in the 367/101/233 division in common use."""
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
        source: the folder of a release that ``datasets/prepare_camvid.py`` tells of, or of the
            tree that this function makes, which is copied, or only verified if it is in place.
        root: the folder that datasets lie in.
        workers: processes.
        height: the original release is reduced to this height; 720 keeps it.

    Raises:
        DatasetError: the source is not recognised, not complete, or holds wrong labels.
    """
    folder, made = Path(source), Path(root, "camvid")
    make_image = make_label = shutil.copyfile
    if (folder / "trainannot").is_dir():
        frames = [(s, *pair) for s in _SPLITS for pair in _pairs(folder, s, f"{s}annot")]
        make_label = partial(convert_label, table=metadata.CAMVID_SEGNET_RAW_IDS)
    elif (folder / _LABELS).is_dir():
        pairs = _pairs(folder, _IMAGES, _LABELS, image_suffixes=(".png",), label_suffix="_L.png")
        frames = [(split_of(image.stem), image, label) for image, label in pairs]
        size = (height * 960 // 720, height)
        make_image, make_label = partial(_resize, size=size), partial(_index_colors, size=size)
    elif (folder / "annotations" / "train").is_dir():
        splits = () if folder.resolve() == made.resolve() else _SPLITS
        folders = ((s, f"images/{s}", f"annotations/{s}") for s in splits)
        frames = [(s, *pair) for s, *names in folders for pair in _pairs(folder, *names)]
    else:
        raise DatasetError(
            f"{folder.absolute()} is no release of CamVid that is known: expected in it either "
            f"train/, trainannot/, … (SegNet tutorial), {_IMAGES}/ and {_LABELS}/ (original), or "
            f"images/ and annotations/ (prepared already); {_DOWNLOAD}."
        )
    images = [(image, made / "images" / split / image.name) for split, image, _ in frames]
    maps = made / "annotations"
    labels = [(label, maps / split / f"{image.stem}.png") for split, image, label in frames]
    make_files(images, make_image, workers, "camvid images")
    make_files(labels, make_label, workers, "camvid labels")
    for split in _SPLITS:
        verify_tree(root, "camvid_sem_seg", split, workers)


def _pairs(folder: Path, images: str, labels: str, **options) -> list[tuple[Path, Path]]:
    tree = SemSegTree("CamVid", str(folder), ((images, labels),), prepare=_DOWNLOAD, **options)
    return [(Path(r["file_name"]), Path(r["sem_seg_file_name"])) for r in tree.load()]


def _resize(source: Path, destination: Path, size: tuple[int, int]) -> None:
    with Image.open(source) as image:
        resized = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    resized.save(destination, format="PNG")


def _index_colors(source: Path, destination: Path, size: tuple[int, int]) -> None:
    """Write the colour-coded label map ``source`` as class indices, reduced to (width, height)."""
    with Image.open(source) as image:
        colors = np.asarray(image.convert("RGB").resize(size, Image.Resampling.NEAREST))
    label = np.full(colors.shape[:2], metadata.IGNORE_LABEL, dtype=np.uint8)
    known = (colors == 0).all(-1)
    for index, name in enumerate(metadata.CAMVID_CLASSES):
        for color in metadata.CAMVID_ORIGINAL_COLORS[name]:
            found = (colors == color).all(-1)
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
    reduced = "height that the original 960x720 release is reduced to; 720 keeps it (default: 360)"
    parser.add_argument("--height", type=int, default=360, help=reduced)
    args = parser.parse_args(argv)
    return cli.run(lambda: prepare_camvid(args.source, args.root, args.workers, args.height))

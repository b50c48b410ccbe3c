"""COCO-Stuff 10K: MATLAB files and lists of names, made into one tree of 171 classes."""

import shutil
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from .. import cli
from . import metadata
from .builtin import DATASETS
from .prepare import argument_parser, make_files, save_label, verify_tree
from .tree import DatasetError, some

_DATASET = "coco_stuff_10k_sem_seg"
_BASE = "coco/coco_stuff_10k"


def prepare_coco_stuff_10k(root: str, workers: int) -> None:
    """Make and verify the tree of ``coco_stuff_10k_sem_seg_*`` below ``root`` from the release.

    Raises:
        DatasetError: the release is not where it should be or not complete, or holds ids that it
            should not.
    """
    base, data = Path(root, _BASE), DATASETS[_DATASET]
    for split in data.counts:
        names = base / "imageLists" / f"{split}.txt"
        if not names.is_file():
            raise DatasetError(f"there is no {names}; {data.prepare} --help says what to download.")
        images, labels = (Path(root, f.format(split)) for f in (data.images, data.labels))
        stems = names.read_text().split()
        jobs = [(base / "images" / f"{stem}.jpg", images / f"{stem}.jpg") for stem in stems]
        maps = [(base / "annotations" / f"{stem}.mat", labels / f"{stem}.png") for stem in stems]
        missing = [str(source) for source, _ in jobs + maps if not source.is_file()]
        if missing:
            raise DatasetError(f"{names} lists files that are missing: {some(missing, 3)}.")
        make_files(jobs, shutil.copyfile, workers, f"{split} images")
        make_files(maps, _convert_label, workers, f"{split} labels")
        verify_tree(root, _DATASET, split, workers)


def _convert_label(source: Path, destination: Path) -> None:
    """Write the matrix S of a MATLAB file, 0 unlabelled and 1..182 COCO's ids, as labels."""
    try:
        raw = loadmat(source)["S"]
    except (OSError, ValueError, KeyError, MatReadError) as error:
        raise DatasetError(f"{source}: expected a MATLAB file with a matrix S ({error}).") from None
    if raw.max() > 182:
        raise DatasetError(f"{source}: found id {raw.max()}; the release has 0..182.")
    # The stuffthingmaps have 255 where this has 0, and ids less 1.
    save_label(metadata.COCO_STUFF_RAW_IDS[(raw.astype(np.int64) - 1) % 256], destination)


def main(description: str, argv: list[str] | None = None) -> int:
    """The command line of ``datasets/prepare_coco_stuff_10k.py``."""
    args = argument_parser(description).parse_args(argv)
    return cli.run(lambda: prepare_coco_stuff_10k(args.root, args.workers))

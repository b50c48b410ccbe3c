"""Turning the datasets' releases into the trees that :mod:`lrformer.data.builtin` registers.

Files are made in parallel, appear under their names only when they are complete, and are not made
again by a second run. The finished tree is verified: every image has its label map, the number of
images is the release's, and every label is in range.
"""

import argparse
import os
import signal
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from .. import cli
from . import metadata
from .builtin import DATASETS, dataset_tree, default_root
from .reading import image_size, read_checked_label, read_label
from .tree import DatasetError, some


def prepare_labels(dataset: str, root: str, workers: int) -> None:
    """Convert the label maps of one of ``DATASETS`` below ``root`` and verify the result.

    Raises:
        DatasetError: the release is not where it should be or not complete, or holds ids that it
            should not.
    """
    data = DATASETS[dataset]
    download = f"{data.prepare} --help says what to download"
    for split in data.counts:
        tree = dataset_tree(root, dataset, split)
        ((images, labels),) = tree.folders
        folder = data.raw.folder.format(*data.splits[split])
        release = replace(
            tree, folders=((images, folder),), label_suffix=data.raw.suffix, prepare=download
        )
        jobs = []
        for record in release.load():
            source = Path(record["sem_seg_file_name"])
            name = str(source.relative_to(Path(root, folder))).removesuffix(data.raw.suffix)
            jobs.append((source, Path(root, labels, name + tree.label_suffix)))
        make = partial(convert_label, table=data.raw.table)
        make_files(jobs, make, workers, f"{tree.name} labels")
        verify_tree(root, dataset, split, workers)


def convert_label(source: Path, destination: Path, table: np.ndarray) -> None:
    """Write the label map ``source`` with its raw ids, all in ``table``, as labels."""
    raw = read_label(str(source))
    if raw.dtype != np.uint8:
        raise DatasetError(f"{source}: expected an 8-bit label map, found 16 bits.")
    label = table[raw]
    unknown = np.unique(raw[label == metadata.INVALID_ID])
    if len(unknown):
        known = np.flatnonzero(table != metadata.INVALID_ID)
        raise DatasetError(
            f"{source}: found raw id {some(unknown, 5)}, which the release does not define (it has "
            f"{len(known)} ids in {known[0]}..{known[-1]}). Is this another release, or converted "
            "already?"
        )
    save_label(label, destination)


def save_label(label: np.ndarray, destination: Path) -> None:
    """Write an H×W array of labels as an 8-bit PNG, whatever the file's suffix."""
    Image.fromarray(label.astype(np.uint8)).save(destination, format="PNG")


def make_files(
    jobs: Iterable[tuple[Path, Path]],
    make: Callable[[Path, Path], None],
    workers: int,
    description: str,
) -> None:
    """Call ``make`` for every (source, destination) whose destination does not exist yet.

    ``make`` has to be picklable. It writes to a name beside the destination, which is renamed when
    it is complete: whatever interrupts this, a second call goes on where the first stopped.
    """
    pending = [job for job in jobs if not job[1].exists()]
    for folder in {destination.parent for _, destination in pending}:
        folder.mkdir(parents=True, exist_ok=True)
    _for_each(partial(_make_file, make), pending, workers, description)


def _make_file(make: Callable[[Path, Path], None], job: tuple[Path, Path]) -> None:
    source, destination = job
    part = destination.with_name(destination.name + ".part")
    make(source, part)
    os.replace(part, destination)


def _for_each(work: Callable, items: list, workers: int, description: str) -> None:
    """Call ``work`` with each of ``items`` in ``workers`` processes, with a progress bar."""
    # The parent alone answers Ctrl-C; the workers finish the files that they are at.
    ignore_interrupt = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(max(workers, 1), initializer=ignore_interrupt) as pool:
        # The pool starts its processes when it is first used.
        done = pool.map(work, items, chunksize=16) if workers > 1 else map(work, items)
        for _ in tqdm(done, description, len(items), unit="file"):
            pass


def verify_tree(root: str, dataset: str, split: str, workers: int) -> None:
    """Check the pairs, their number, and every label map of a prepared split; or DatasetError."""
    tree, count = dataset_tree(root, dataset, split), DATASETS[dataset].counts[split]
    num_classes, records = len(DATASETS[dataset].colors), tree.load()
    _for_each(partial(_check_record, num_classes), records, workers, f"{tree.name} check")
    if len(records) != count:
        raise DatasetError(
            f"{tree.name}: {len(records)} images with label maps, but the release has {count}. "
            "The files that are there are converted; complete the release and run this again."
        )
    print(f"{tree.name}: {count} images, labels in 0..{num_classes - 1} and ignore. Ready.")


def _check_record(num_classes: int, record: dict) -> None:
    size = image_size(record["file_name"])
    read_checked_label(record, size, num_classes, metadata.IGNORE_LABEL)


def argument_parser(description: str) -> argparse.ArgumentParser:
    """The options that all ``datasets/prepare_*.py`` share."""
    parser = cli.parser(description, "datasets/README.md shows the folders.")
    root = "folder that datasets lie in (default: DETECTRON2_DATASETS, or ./datasets)"
    parser.add_argument("--root", default=default_root(), help=root)
    cores, workers = os.cpu_count() or 1, "processes (default: all cores)"
    parser.add_argument("--workers", type=int, default=cores, help=workers)
    return parser


def main(dataset: str, description: str, argv: list[str] | None = None) -> int:
    """The command line of the datasets whose label maps only change their ids."""
    args = argument_parser(description).parse_args(argv)
    return cli.run(lambda: prepare_labels(dataset, args.root, args.workers))

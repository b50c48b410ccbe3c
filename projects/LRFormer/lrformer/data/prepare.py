"""Turning the datasets' releases into the trees that :mod:`lrformer.data.builtin` registers.

Files are made in parallel, appear under their names only when they are complete, and are not made
again by a second run. The finished tree is verified: every image has its label map, the number of
images is the release's, and every label is in range.
"""

import argparse
import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from . import metadata
from .builtin import dataset_trees, default_root
from .reading import check_label, image_size, read_label
from .tree import DatasetError, SemSegTree, some

# (source, destination); it writes the destination, whose name may have any suffix.
MakeFile = Callable[[Path, Path], None]


@dataclasses.dataclass(frozen=True)
class RawLabels:
    """The label maps of one split as they are released, beside the tree that they become.

    Args:
        name: the registered dataset.
        folder: the raw label maps, relative to the root.
        suffix: their ending.
        table: from raw id to label (:mod:`lrformer.data.metadata`).
        count: images of the split.
        origin: where the release is from, for messages.
    """

    name: str
    folder: str
    suffix: str
    table: np.ndarray
    count: int
    origin: str


_ADE20K = "download ADEChallengeData2016.zip (datasets/prepare_ade20k.py says where)"
_COCO = "download COCO 2017 and stuffthingmaps_trainval2017.zip (datasets/prepare_coco_stuff.py)"
_CITYSCAPES = "download leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from Cityscapes"
RAW_LABELS = {
    "ade20k": (
        RawLabels(
            "ade20k_sem_seg_train",
            "ADEChallengeData2016/annotations/training",
            ".png",
            metadata.ADE20K_RAW_IDS,
            20210,
            _ADE20K,
        ),
        RawLabels(
            "ade20k_sem_seg_val",
            "ADEChallengeData2016/annotations/validation",
            ".png",
            metadata.ADE20K_RAW_IDS,
            2000,
            _ADE20K,
        ),
    ),
    "coco_stuff": (
        RawLabels(
            "coco_stuff_sem_seg_train",
            "coco/stuffthingmaps/train2017",
            ".png",
            metadata.COCO_STUFF_RAW_IDS,
            118287,
            _COCO,
        ),
        RawLabels(
            "coco_stuff_sem_seg_val",
            "coco/stuffthingmaps/val2017",
            ".png",
            metadata.COCO_STUFF_RAW_IDS,
            5000,
            _COCO,
        ),
    ),
    "cityscapes": (
        RawLabels(
            "cityscapes_fine_sem_seg_train",
            "cityscapes/gtFine/train",
            "_gtFine_labelIds.png",
            metadata.CITYSCAPES_RAW_IDS,
            2975,
            _CITYSCAPES,
        ),
        RawLabels(
            "cityscapes_fine_sem_seg_val",
            "cityscapes/gtFine/val",
            "_gtFine_labelIds.png",
            metadata.CITYSCAPES_RAW_IDS,
            500,
            _CITYSCAPES,
        ),
    ),
}


def prepare_labels(dataset: str, root: str, workers: int) -> None:
    """Convert the label maps of a dataset below ``root`` and verify the result.

    Args:
        dataset: "ade20k", "coco_stuff" or "cityscapes".
        root: the folder that datasets lie in.
        workers: processes.

    Raises:
        DatasetError: the release is not where it should be or not complete, or holds ids that it
            should not.
    """
    for raw in RAW_LABELS[dataset]:
        tree = dataset_trees(root)[raw.name]
        ((images, labels),) = tree.folders
        release = dataclasses.replace(
            tree, folders=((images, raw.folder),), label_suffix=raw.suffix, prepare=raw.origin
        )
        jobs = []
        for record in release.load():
            source = Path(record["sem_seg_file_name"])
            name = str(source.relative_to(Path(root, raw.folder)))[: -len(raw.suffix)]
            jobs.append((source, Path(root, labels, name + tree.label_suffix)))
        make_files(jobs, partial(convert_label, table=raw.table), workers, f"{raw.name} labels")
        verify_tree(tree, num_labels(raw.table), raw.count, workers)


def num_labels(table: np.ndarray) -> int:
    """How many classes a raw-id table maps to."""
    return int(table[table != metadata.IGNORE_LABEL].max()) + 1


def convert_label(source: Path, destination: Path, table: np.ndarray) -> None:
    """Write the label map ``source`` with its raw ids replaced by ``table``.

    Raises:
        DatasetError: the file holds an id that the table does not have.
    """
    raw = read_label(str(source))
    if raw.dtype != np.uint8:
        raise DatasetError(f"{source}: expected an 8-bit label map, found 16 bits.")
    label = table[raw]
    if (label == metadata.INVALID_ID).any():
        ids = np.unique(raw[label == metadata.INVALID_ID])
        known = np.flatnonzero(table != metadata.INVALID_ID)
        raise DatasetError(
            f"{source}: found raw id {some(ids, 5)}, which the release does not define (it has "
            f"{len(known)} ids in {known[0]}..{known[-1]}). Is this another release, or converted "
            "already?"
        )
    save_label(label, destination)


def save_label(label: np.ndarray, destination: Path) -> None:
    """Write an H×W array of labels as an 8-bit PNG."""
    Image.fromarray(label.astype(np.uint8)).save(destination, format="PNG")


def make_files(
    jobs: Iterable[tuple[Path, Path]], make: MakeFile, workers: int, description: str
) -> None:
    """Call ``make`` for every (source, destination) whose destination does not exist yet.

    ``make`` has to be picklable. It writes to a name beside the destination, which is renamed when
    it is complete: whatever interrupts this, a second call goes on where the first stopped.
    """
    jobs = list(jobs)
    pending = [job for job in jobs if not job[1].exists()]
    for folder in {destination.parent for _, destination in pending}:
        folder.mkdir(parents=True, exist_ok=True)
    done = len(jobs) - len(pending)
    with (
        _parallel(workers) as pool_map,
        tqdm(total=len(jobs), initial=done, desc=description, unit="file") as bar,
    ):
        for _ in pool_map(partial(_make_file, make), pending):
            bar.update()


def _make_file(make: MakeFile, job: tuple[Path, Path]) -> None:
    source, destination = job
    partial_file = destination.with_name(destination.name + ".part")
    make(source, partial_file)
    os.replace(partial_file, destination)


@contextmanager
def _parallel(workers: int) -> Iterator[Callable]:
    """A ``map`` over ``workers`` processes, or the built-in one."""
    if workers <= 1:
        yield map
        return
    # The parent alone answers Ctrl-C; the workers finish the file that they are at.
    ignore_interrupt = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(workers, initializer=signal.signal, initargs=ignore_interrupt) as pool:
        try:
            yield partial(pool.map, chunksize=16)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def verify_tree(tree: SemSegTree, num_classes: int, count: int, workers: int) -> None:
    """Check the pairs, their number, and every label map of a prepared tree.

    Raises:
        DatasetError: naming what is wrong.
    """
    records = tree.load()
    with (
        _parallel(workers) as pool_map,
        tqdm(total=len(records), desc=f"{tree.name} check", unit="file") as bar,
    ):
        for _ in pool_map(partial(_check_record, num_classes), records):
            bar.update()
    if len(records) != count:
        raise DatasetError(
            f"{tree.name}: {len(records)} images with label maps, but the release has {count}. "
            "The files that are there are converted; complete the release and run this again."
        )
    print(f"{tree.name}: {count} images, labels in 0..{num_classes - 1} and ignore. Ready.")


def _check_record(num_classes: int, record: dict) -> None:
    label_file = record["sem_seg_file_name"]
    size = image_size(record["file_name"])
    check_label(read_label(label_file), label_file, num_classes, metadata.IGNORE_LABEL, size)


def argument_parser(description: str) -> argparse.ArgumentParser:
    """The arguments that all ``datasets/prepare_*.py`` share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root",
        default=default_root(),
        help="folder that datasets lie in (default: DETECTRON2_DATASETS, or ./datasets)",
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    return parser


def run(prepare: Callable[[], None]) -> int:
    """Run ``prepare``; report an error or an interruption in one line. Returns the exit code."""
    try:
        prepare()
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error}. Run the same command again to go on.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on.", file=sys.stderr)
        return 130
    return 0


def main(dataset: str, description: str, argv: list[str] | None = None) -> int:
    """The command line of the datasets whose label maps only change their ids."""
    args = argument_parser(description).parse_args(argv)
    return run(lambda: prepare_labels(dataset, args.root, args.workers))

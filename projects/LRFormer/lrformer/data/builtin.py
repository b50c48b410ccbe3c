"""Registrations in detectron2's catalogs, and loading by name with errors that say what to do.

Importing this module registers COCO-Stuff, CamVid and the demo scenes (with label maps, objects and
panoptic segments) under the root that detectron2 uses (``DETECTRON2_DATASETS``, by default
``datasets``), and gives detectron2's own
ADE20K and Cityscapes the colours that their metadata lacks.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path, PurePath

from detectron2.data import DatasetCatalog, MetadataCatalog

from . import demo_scenes, metadata
from .coco import check_coco_files, register_demo_scenes
from .tree import DatasetError, SemSegTree

_CAMVID_SPLITS = {
    "train": ("train",),
    "val": ("val",),
    "test": ("test",),
    "trainval": ("train", "val"),
}
_WITH_OBJECTS = ("demo_scenes_instance", "demo_scenes_panoptic", "coco_2017")


def default_root() -> str:
    """The folder that datasets lie in: ``DETECTRON2_DATASETS``, or ``datasets``."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def register_sem_seg(
    tree: SemSegTree,
    classes: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    ignore_label: int = metadata.IGNORE_LABEL,
) -> None:
    """Register a dataset of images and label maps under ``tree.name``; any of your own too.

    Nothing is read before the dataset is used. A name that is registered already is left as it is.

    Args:
        tree: where the files are.
        classes: the name of each label, from 0 on.
        colors: the RGB colour of each class, 0 to 255.
        ignore_label: the label of pixels that count neither in training nor in testing.
    """
    if tree.name in DatasetCatalog:
        return
    if len(classes) != len(colors):
        raise ValueError(f"{tree.name}: {len(classes)} classes but {len(colors)} colours.")
    DatasetCatalog.register(tree.name, tree.load)
    images, labels = (os.path.commonpath(folders) for folders in zip(*tree.folders, strict=True))
    MetadataCatalog.get(tree.name).set(
        stuff_classes=list(classes),
        stuff_colors=[list(color) for color in colors],
        image_root=os.path.join(tree.root, images),
        sem_seg_root=os.path.join(tree.root, labels),
        ignore_label=ignore_label,
        evaluator_type="sem_seg",
    )


def dataset_trees(root: str) -> dict[str, SemSegTree]:
    """The trees of all datasets below ``root``, detectron2's ADE20K and Cityscapes among them."""
    trees = []
    for split, part in (("train", "training"), ("val", "validation")):
        base = "ADEChallengeData2016"
        trees.append(
            SemSegTree(
                f"ade20k_sem_seg_{split}",
                root,
                ((f"{base}/images/{part}", f"{base}/annotations_detectron2/{part}"),),
                prepare="python datasets/prepare_ade20k.py",
                image_suffixes=(".jpg",),
            )
        )
    for split in ("train", "val"):
        trees.append(
            SemSegTree(
                f"cityscapes_fine_sem_seg_{split}",
                root,
                ((f"cityscapes/leftImg8bit/{split}", f"cityscapes/gtFine/{split}"),),
                prepare="python datasets/prepare_cityscapes.py",
                image_suffixes=("_leftImg8bit.png",),
                label_suffix="_gtFine_labelTrainIds.png",
                nested=True,
            )
        )
        trees.append(
            SemSegTree(
                f"coco_stuff_sem_seg_{split}",
                root,
                ((f"coco/{split}2017", f"coco/stuffthingmaps_detectron2/{split}2017"),),
                prepare="python datasets/prepare_coco_stuff.py",
                image_suffixes=(".jpg",),
            )
        )
        trees.append(
            SemSegTree(
                f"demo_scenes_sem_seg_{split}",
                root,
                ((f"demo_scenes/images/{split}", f"demo_scenes/annotations/{split}"),),
                prepare="python datasets/make_demo_scenes.py",
            )
        )
    for split, parts in _CAMVID_SPLITS.items():
        trees.append(
            SemSegTree(
                f"camvid_sem_seg_{split}",
                root,
                tuple((f"camvid/images/{part}", f"camvid/annotations/{part}") for part in parts),
                prepare="python datasets/prepare_camvid.py --source <the release that you have>",
            )
        )
    return {tree.name: tree for tree in trees}


def register_all(root: str) -> None:
    """Register every dataset of this project below ``root``."""
    palettes = {
        "coco_stuff_sem_seg": (metadata.COCO_STUFF_CLASSES, metadata.COCO_STUFF_COLORS),
        "camvid_sem_seg": (metadata.CAMVID_CLASSES, metadata.CAMVID_COLORS),
        "demo_scenes_sem_seg": (demo_scenes.CLASSES, demo_scenes.COLORS),
    }
    for name, tree in dataset_trees(root).items():
        palette = palettes.get(name.rpartition("_")[0])
        if palette is not None:
            register_sem_seg(tree, *palette)
    register_demo_scenes(root)


def complete_builtin_metadata() -> None:
    """Give detectron2's ADE20K and Cityscapes their colours, where it has none."""
    palettes = {
        "ade20k_sem_seg": metadata.ADE20K_COLORS,
        "cityscapes_fine_sem_seg": metadata.CITYSCAPES_COLORS,
    }
    for prefix, palette in palettes.items():
        for name in (f"{prefix}_train", f"{prefix}_val", f"{prefix}_test"):
            if name in DatasetCatalog and not MetadataCatalog.get(name).get("stuff_colors"):
                MetadataCatalog.get(name).stuff_colors = [list(color) for color in palette]


def _detectron2_tree(name: str) -> SemSegTree | None:
    """The tree of one of detectron2's own datasets, where detectron2 looks for it; else None."""
    if not name.startswith(("ade20k_sem_seg_", "cityscapes_fine_sem_seg_")):
        return None
    meta = MetadataCatalog.get(name)
    images = Path(meta.get("image_root") or meta.image_dir).absolute()
    tree = dataset_trees("").get(name)
    if tree is None:
        return None
    # detectron2 read the root when it was imported; what it holds counts, not the variable now.
    depth = len(PurePath(tree.folders[0][0]).parts)
    return dataclasses.replace(tree, root=str(images.parents[depth - 1]))


def load_dataset(name: str) -> list[dict]:
    """Load a registered dataset as detectron2 dataset dicts.

    Raises:
        DatasetError: the name is unknown, or the files are not where they should be.
    """
    if name not in DatasetCatalog:
        known = sorted(n for n in DatasetCatalog.list() if "sem_seg" in n)
        masks = sorted(n for n in DatasetCatalog.list() if n.startswith(_WITH_OBJECTS))
        raise DatasetError(
            f"DATASETS.TRAIN / DATASETS.TEST: there is no dataset named {name!r}. "
            f"Semantic segmentation datasets are: {', '.join(known)}. "
            f"Instance and panoptic segmentation datasets are: {', '.join(masks)}."
        )
    tree = _detectron2_tree(name)
    if tree is not None:
        tree.load()  # for its errors: detectron2's own say little
    check_coco_files(name)
    try:
        records = DatasetCatalog.get(name)
    except DatasetError:
        raise
    except (AssertionError, OSError, KeyError, TypeError, ValueError) as error:
        meta = MetadataCatalog.get(name)
        source = meta.get("panoptic_json") or meta.get("json_file")
        where = f" from {source}" if source else ""
        raise DatasetError(f"{name}: the dataset could not be loaded{where}: {error!r}.") from error
    if not records:
        raise DatasetError(f"{name}: the dataset is empty.")
    return records


register_all(default_root())
complete_builtin_metadata()

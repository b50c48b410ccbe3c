"""A folder of images for each class: found, checked, loaded."""

from collections.abc import Sequence
from pathlib import Path

import torch
from timm.data import ImageDataset, Mixup, create_loader
from torch import Tensor

from .recipe import Recipe


def open_split(root: str | Path, split: str) -> ImageDataset:
    """The images under ``root/split/<class>/``.

    Args:
        root: the dataset's folder.
        split: "train" or "val".

    Raises:
        ValueError: no such folder, a class without images, images outside a class's folder.
    """
    folder = Path(root) / split
    if not folder.is_dir():
        raise ValueError(
            f"{folder} does not exist; --data names a folder with train/ and val/, each with a "
            "folder of images for every class"
        )
    try:
        dataset = ImageDataset(str(folder))
    except RuntimeError as error:
        raise ValueError(f"{folder} holds no images: {error}") from error
    found = set(dataset.reader.class_to_idx)
    folders = {p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")}
    if misplaced := found - folders:
        where = " and ".join(sorted(name or "the folder itself" for name in misplaced)[:5])
        raise ValueError(
            f"{folder} has images in {where}; expected all images in {folder}/<class>/"
        )
    if empty := folders - found:
        raise ValueError(
            f"{folder}: {_some(empty)} hold{'s' if len(empty) == 1 else ''} no images; "
            "remove such a folder from train/ and val/ or fill it"
        )
    return dataset


def open_folders(root: str | Path) -> tuple[ImageDataset, ImageDataset, list[str]]:
    """Both splits and the names of their classes, in the order of the labels.

    Raises:
        ValueError: see :func:`open_split`; the classes differ, or there is only one.
    """
    train, val = open_split(root, "train"), open_split(root, "val")
    classes = class_names(train)
    here, there = set(classes), set(class_names(val))
    if here != there:
        parts = [
            f"only in {split}/: {_some(names)}"
            for split, names in (("train", here - there), ("val", there - here))
            if names
        ]
        raise ValueError(f"the classes of {root}/train and {root}/val differ; {'; '.join(parts)}")
    if len(classes) < 2:
        raise ValueError(f"{root}/train has only the class {classes[0]}; expected at least two")
    return train, val, classes


def class_names(dataset: ImageDataset) -> list[str]:
    """In the order of the labels."""
    labels = dataset.reader.class_to_idx
    return sorted(labels, key=labels.get)


def check_batch(recipe: Recipe, images: int, processes: int) -> None:
    """Check the batch against the number of training images and processes.

    Raises:
        ValueError: there are fewer images, or the batch cannot be split.
    """
    batch = recipe.batch_size
    if batch % processes:
        raise ValueError(f"--batch-size {batch} cannot be split over {processes} processes")
    if recipe.mixes and batch // processes % 2:
        raise ValueError(
            f"--batch-size {batch} gives each of {processes} process(es) {batch // processes} "
            "images; mixup and CutMix pair them and need an even number"
        )
    if batch > images:
        raise ValueError(
            f"--batch-size {batch} is larger than the training set of {images} images; "
            "give a smaller one"
        )


def build_loader(
    dataset: ImageDataset,
    img_size: int,
    batch_size: int,
    *,
    recipe: Recipe | None,
    data_cfg: dict,
    device: torch.device,
    distributed: bool,
    workers: int,
):
    """timm's loader of float32 Nx3xHxW images and labels.

    Args:
        dataset: images and labels.
        img_size: height and width, pixels.
        batch_size: of this process.
        recipe: augmentation for training; None gives the centre crop of evaluation.
        data_cfg: the model's ``pretrained_cfg``: mean, std, interpolation, crop_pct.
        device: where the model is; a GPU also normalises there.
        distributed: whether the images are divided over processes.
        workers: processes that load, for each process that trains.
    """
    if recipe is not None:
        augmentation = {
            "is_training": True,
            "auto_augment": recipe.auto_augment or None,
            "re_prob": recipe.random_erasing,
            "re_mode": "pixel",
        }
    else:
        augmentation = {"crop_pct": data_cfg["crop_pct"]}
    return create_loader(
        dataset,
        (3, img_size, img_size),
        batch_size,
        interpolation=data_cfg["interpolation"],
        mean=data_cfg["mean"],
        std=data_cfg["std"],
        num_workers=workers,
        distributed=distributed,
        device=device,
        use_prefetcher=device.type == "cuda",
        pin_memory=device.type == "cuda",
        # Workers that live on would carry their random state into the next epoch, and a resumed
        # training could not repeat it.
        persistent_workers=False,
        **augmentation,
    )


def build_mixup(recipe: Recipe, num_classes: int) -> Mixup | None:
    """Mixup and CutMix of a batch, each half of the time; None if the recipe has neither."""
    if not recipe.mixes:
        return None
    return Mixup(
        recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=num_classes
    )


def to_device(batch: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    images, labels = batch
    return images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def _some(names: set[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(sorted(names)[:5]) + more

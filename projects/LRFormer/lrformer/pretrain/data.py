"""A folder of images for each class: found, checked, loaded."""

from pathlib import Path

from timm.data import ImageDataset, create_loader

from .machine import Machine
from .recipe import Recipe


def open_split(root: str | Path, split: str) -> ImageDataset:
    """The images under ``root/split/<class>/``; the split is "train" or "val".

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
        where = _some({name or "the folder itself" for name in misplaced})
        raise ValueError(f"{folder} has images in {where}; expected all in {folder}/<class>/")
    if empty := folders - found:
        raise ValueError(
            f"{folder}: no images in {_some(empty)}; remove such a folder from train/ and val/ or "
            "fill it"
        )
    return dataset


def open_folders(root: str | Path) -> tuple[ImageDataset, ImageDataset]:
    """The images for training and for validation.

    Raises:
        ValueError: see :func:`open_split`; the classes differ.
    """
    train, val = open_split(root, "train"), open_split(root, "val")
    classes, others = set(class_names(train)), set(class_names(val))
    if classes != others:
        raise ValueError(
            f"the classes of {root}/train and {root}/val differ; only in train/: "
            f"{_some(classes - others)}; only in val/: {_some(others - classes)}"
        )
    return train, val


def class_names(dataset: ImageDataset) -> list[str]:
    """In the order of the labels."""
    labels = dataset.reader.class_to_idx
    return sorted(labels, key=labels.get)


def check_batch(recipe: Recipe, images: int, processes: int) -> None:
    """Raise ValueError where there are fewer images than a batch, or it cannot be split."""
    batch = recipe.batch_size
    # mixup and CutMix pair a process's images.
    multiple = processes * (2 if recipe.mixes else 1)
    if batch % multiple:
        raise ValueError(
            f"--batch-size {batch} must be a multiple of {multiple}: it is split over {processes} "
            f"process(es){', and mixup and CutMix pair images' if recipe.mixes else ''}"
        )
    if batch > images:
        raise ValueError(f"--batch-size {batch} is larger than the training set of {images} images")


def build_loader(
    dataset: ImageDataset,
    img_size: int,
    recipe: Recipe,
    data_cfg: dict,
    machine: Machine,
    is_training: bool,
):
    """timm's loader of a process's share of the images, float32 Nx3xHxW, and labels.

    Args:
        dataset: images and labels.
        img_size: height and width, pixels.
        recipe: its batch, which is that of all processes, and its augmentation for training.
        data_cfg: the model's ``pretrained_cfg``: mean, std, interpolation, crop_pct.
        machine: a GPU also normalises.
        is_training: rather than the centre crop of evaluation.
    """
    on_gpu = machine.device.type == "cuda"
    return create_loader(
        dataset,
        (3, img_size, img_size),
        max(1, recipe.batch_size // machine.world_size),
        is_training=is_training,
        auto_augment=recipe.auto_augment or None,
        re_prob=recipe.random_erasing,
        re_mode="pixel",
        **{name: data_cfg[name] for name in ("interpolation", "mean", "std", "crop_pct")},
        num_workers=machine.workers,
        distributed=machine.world_size > 1,
        device=machine.device,
        use_prefetcher=on_gpu,
        pin_memory=on_gpu,
        # Workers that live on would carry their random state into the next epoch, and a resumed
        # training could not repeat it.
        persistent_workers=False,
    )


def _some(names: set[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(sorted(names)[:5]) or "none") + more

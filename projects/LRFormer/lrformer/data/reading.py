"""Reading images, label maps and panoptic maps, with errors that name the file."""

import contextlib
import struct
from typing import BinaryIO

import numpy as np
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageOps

from .tree import DatasetError, some

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

_EXIF_ORIENTATION = 274
# What Pillow raises for a file that is missing, no image, cut short or broken inside.
_READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)

Size = tuple[int, int]


def read_image(file: str | BinaryIO, format: str = "RGB") -> np.ndarray:
    """Read an image, upright as its EXIF orientation says: H×W×3 uint8 for "RGB" and "BGR".

    ``file`` is a path, or an open file whose ``name`` errors are to say.

    Grey, palette, RGBA and CMYK images are converted; 16-bit grey is scaled to 8 bits. Other
    formats are those of detectron2's ``read_image``.

    Raises:
        DatasetError: the file is missing or cannot be decoded.
    """
    return pixels_of(open_upright(file), format)


def open_upright(file: str | BinaryIO) -> Image.Image:
    """An image of any mode, decoded and upright; its pixels: :func:`pixels_of`. Raises: as above"""
    image = open_image(file, "image")
    # The pixels of an image with malformed EXIF data are fine.
    with contextlib.suppress(*_READ_ERRORS, struct.error, KeyError, TypeError):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def pixels_of(image: Image.Image, format: str = "RGB") -> np.ndarray:
    """The pixels that :func:`read_image` gives, of an image or a part that was cropped from it."""
    if image.mode.startswith("I"):
        # Pillow clips 16-bit values at 255 instead of scaling them.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return convert_PIL_to_numpy(image, format)


def read_label(file_name: str) -> np.ndarray:
    """Read a label map as it is stored, H×W: palette indices stay indices.

    It is uint8, or int32 for a 16-bit file.

    Raises:
        DatasetError: the file is missing, cannot be decoded, or has several channels.
    """
    image = open_image(file_name, "label map")
    if image.mode in ("1", "L", "P"):
        return np.asarray(image).astype(np.uint8, copy=False)
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.int32)
    raise DatasetError(
        f"{file_name}: a label map has one channel of 8 or 16 bits; this file's mode is "
        f"{image.mode} ({', '.join(image.getbands())}). Colour-coded labels have to be converted "
        "to class indices first (datasets/README.md)."
    )


def read_checked_label(record: dict, size: Size, num_classes: int, ignore_label: int) -> np.ndarray:
    """:func:`read_label` of a dataset dict, checked against its image's size and the classes."""
    label = read_label(record["sem_seg_file_name"])
    check_label(label, record["sem_seg_file_name"], num_classes, ignore_label, size)
    return label


def read_panoptic(file_name: str) -> np.ndarray:
    """Read COCO's panoptic PNG: H×W int32 segment ids, R + 256 G + 256² B of each pixel.

    Raises:
        DatasetError: the file is missing, cannot be decoded, or is no RGB image.
    """
    image = open_image(file_name, "panoptic map")
    if image.mode not in ("RGB", "RGBA"):
        raise DatasetError(
            f"{file_name}: a panoptic map is an RGB image (id = R + 256 G + 256² B); this file's "
            f"mode is {image.mode}."
        )
    red, green, blue = (np.asarray(image.getchannel(i), dtype=np.int32) for i in range(3))
    return red | green << 8 | blue << 16


def image_size(file_name: str) -> Size:
    """Height and width of the upright image, from the file's header alone.

    Raises:
        DatasetError: the file is missing or is no image.
    """
    image = open_image(file_name, "image", header=True)
    transposed = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    return image.size if transposed else image.size[::-1]


def check_image(file_name: str) -> None:
    """Raise DatasetError where a file, of an image or a map, is missing or cannot be decoded."""
    open_image(file_name, "image")


def check_label(
    label: np.ndarray, file_name: str, num_classes: int, ignore_label: int, size: Size
) -> None:
    """Raise DatasetError for another size, or a label not in 0..num_classes-1 and not ignored."""
    check_map_size(label, file_name, size, "label map")
    valid = (label >= 0) & (label < num_classes) | (label == ignore_label)
    if not valid.all():
        raise DatasetError(
            f"{file_name}: found label {some(np.unique(label[~valid]), 5)}; expected "
            f"0..{num_classes - 1} (MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}) or the "
            f"ignore label {ignore_label}. Raw releases have other ids: the datasets/prepare_*.py "
            "scripts convert them."
        )


def check_map_size(
    array: np.ndarray, file_name: str, size: Size, what: str = "panoptic map"
) -> None:
    """Raise DatasetError for a map whose size is not the ``size`` of its image."""
    compare_sizes(f"{file_name}: the {what}", array.shape, "its image is", size)


def check_size(file_name: str, size: Size, record: dict) -> None:
    """Raise DatasetError if an image's ``size`` is not that in its dataset dict, if any."""
    declared = record.get("height", size[0]), record.get("width", size[1])
    compare_sizes(f"{file_name}: the image", size, "its annotations are for", declared)


def compare_sizes(one: str, size: Size, other: str, expected: Size) -> None:
    """Raise DatasetError that ``one`` is of ``size`` but ``other`` another, if it is."""
    if tuple(size) != tuple(expected):
        raise DatasetError(
            f"{one} is {size[1]}x{size[0]} but {other} {expected[1]}x{expected[0]} "
            "(width x height); they have to agree."
        )


def open_image(file: str | BinaryIO, what: str, header: bool = False) -> Image.Image:
    """Open an image and decode it, or read only its ``header``; or DatasetError."""
    try:
        with PathManager.open(file, "rb") if isinstance(file, str) else file as opened:
            image = Image.open(opened)
            image.getexif() if header else image.load()
    except _READ_ERRORS as error:
        name = getattr(file, "name", file)
        raise DatasetError(
            f"cannot read the {what} {name}: {type(error).__name__}: {error}. "
            "Check the path and that the file is whole; in a dataset, restore it, or remove it "
            "together with its partner (image or annotation)."
        ) from error
    return image

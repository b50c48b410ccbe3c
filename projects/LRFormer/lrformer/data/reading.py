"""Reading images, label maps and panoptic maps, with errors that name the file."""

import contextlib
import struct

import numpy as np
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageOps

from .tree import DatasetError, some

_EXIF_ORIENTATION = 274
# What Pillow raises for a file that is missing, no image, cut short or broken inside.
_READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def read_image(file_name: str, format: str = "RGB") -> np.ndarray:
    """Read an image, upright as its EXIF orientation says.

    Grey, palette, RGBA and CMYK images are converted; 16-bit grey is scaled to 8 bits.

    Args:
        file_name: path of the image.
        format: "RGB", "BGR" or another format of detectron2's ``read_image``.

    Returns:
        H×W×3 uint8 array (for "RGB" and "BGR").

    Raises:
        DatasetError: the file is missing or cannot be decoded.
    """
    image = _open(file_name, "image")
    # The pixels of an image with malformed EXIF data are fine.
    with contextlib.suppress(*_READ_ERRORS, struct.error, KeyError, TypeError):
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        # Pillow clips 16-bit values at 255 instead of scaling them.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return convert_PIL_to_numpy(image, format)


def read_label(file_name: str) -> np.ndarray:
    """Read a label map as it is stored: palette indices stay indices.

    Returns:
        H×W array, uint8, or int32 for a 16-bit file.

    Raises:
        DatasetError: the file is missing, cannot be decoded, or has several channels.
    """
    image = _open(file_name, "label map")
    if image.mode in ("L", "P"):
        return np.asarray(image)
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.int32)
    raise DatasetError(
        f"{file_name}: a label map has one channel of 8 or 16 bits; this file's mode is "
        f"{image.mode} ({', '.join(image.getbands())}). Colour-coded labels have to be converted "
        "to class indices first (datasets/README.md)."
    )


def read_panoptic(file_name: str) -> np.ndarray:
    """Read COCO's panoptic PNG.

    Returns:
        H×W int32 array of segment ids, R + 256 G + 256² B of each pixel.

    Raises:
        DatasetError: the file is missing, cannot be decoded, or is no RGB image.
    """
    image = _open(file_name, "panoptic map")
    if image.mode not in ("RGB", "RGBA"):
        raise DatasetError(
            f"{file_name}: a panoptic map is an RGB image (id = R + 256 G + 256² B); this file's "
            f"mode is {image.mode}."
        )
    red, green, blue = (np.asarray(image.getchannel(i), dtype=np.int32) for i in range(3))
    return red | green << 8 | blue << 16


def image_size(file_name: str) -> tuple[int, int]:
    """Height and width of the upright image, from the file's header alone.

    Raises:
        DatasetError: the file is missing or is no image.
    """
    try:
        with PathManager.open(file_name, "rb") as file:
            image = Image.open(file)
            width, height = image.size
            transposed = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    except _READ_ERRORS as error:
        raise _unreadable("image", file_name, error) from error
    return (width, height) if transposed else (height, width)


def check_label(
    label: np.ndarray,
    file_name: str,
    num_classes: int,
    ignore_label: int,
    size: tuple[int, int] | None = None,
) -> None:
    """Check a label map's values and, if ``size`` is given, its height and width.

    Raises:
        DatasetError: a label is neither in 0..num_classes-1 nor ``ignore_label``, or the label map
            and its image differ in size.
    """
    if size is not None:
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
    array: np.ndarray, file_name: str, size: tuple[int, int], what: str = "panoptic map"
) -> None:
    """Compare the size of a map with the height and width of its image.

    Raises:
        DatasetError: they differ.
    """
    if array.shape != tuple(size):
        raise DatasetError(
            f"{file_name}: the {what} is {array.shape[1]}x{array.shape[0]} but its image is "
            f"{size[1]}x{size[0]} (width x height); they have to agree."
        )


def check_size(file_name: str, size: tuple[int, int], record: dict) -> None:
    """Compare an image's height and width with "height" and "width" of its dataset dict, if any.

    Raises:
        DatasetError: they differ.
    """
    height, width = record.get("height", size[0]), record.get("width", size[1])
    if (height, width) != tuple(size):
        raise DatasetError(
            f"{file_name}: the image is {size[1]}x{size[0]} but its annotations are for "
            f"{width}x{height} (width x height); they have to agree."
        )


def _open(file_name: str, what: str) -> Image.Image:
    try:
        with PathManager.open(file_name, "rb") as file:
            image = Image.open(file)
            image.load()
    except _READ_ERRORS as error:
        raise _unreadable(what, file_name, error) from error
    return image


def _unreadable(what: str, file_name: str, error: Exception) -> DatasetError:
    return DatasetError(
        f"cannot read the {what} {file_name}: {type(error).__name__}: {error}. "
        "Check the path and that the file is whole; in a dataset, restore it, or remove it "
        "together with its partner (image or annotation)."
    )

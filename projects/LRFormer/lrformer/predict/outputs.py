"""Class maps and probabilities as files; each has its name only when it is whole."""

import importlib.util
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from lrformer.visualization.classes import class_name, known_classes

# Each in a folder of its name, with this suffix.
FORMATS = {
    "labels": ".png",
    "probabilities": ".npz",
    "zarr": ".zarr.zip",
    "coco": ".json",
    "geojson": ".geojson",
}
_PACKAGES = {"geojson": "rasterio", "zarr": "zarr"}


def check_format(name: str) -> None:
    """Raise ValueError if what writes this format is not installed."""
    package = _PACKAGES.get(name)
    if package and importlib.util.find_spec(package) is None:
        raise ValueError(f"{name} needs {package}, which is not installed: pip install {package}")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, beside ``path``, which gets the file if nothing is raised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_labels(path: Path, classes: np.ndarray) -> None:
    """Class indices as a PNG file of 8 bits, or 16 for more than 256 classes."""
    with whole_file(path) as partial:
        Image.fromarray(classes).save(partial)


def write_probabilities(path: Path, probabilities: np.ndarray) -> None:
    """NumPy's compressed file of ``probabilities``, K x H x W float16."""
    with whole_file(path) as partial:
        np.savez_compressed(partial, probabilities=probabilities.astype(np.float16))


def write_zarr(path: Path, probabilities: np.ndarray) -> None:
    """The same as a zarr array in one zip file, whose chunks are a class each."""
    import zarr

    with whole_file(path) as partial, zarr.storage.ZipStore(partial, mode="w") as store:
        array = probabilities.astype(np.float16)
        zarr.create_array(store, data=array, chunks=(1, *array.shape[1:]))


def write_coco(path: Path, classes: np.ndarray, name: str) -> None:
    """One image's part of :func:`merge_coco`: a run-length encoded mask of each class in it."""
    annotations = []
    for label in np.unique(classes).tolist():
        mask = np.asfortranarray(classes == label).view(np.uint8)
        code = coco_mask.encode(mask)
        annotations.append(
            {
                "category_id": label,
                "segmentation": {"size": code["size"], "counts": code["counts"].decode("ascii")},
                "area": int(coco_mask.area(code)),
                "bbox": coco_mask.toBbox(code).tolist(),
                "iscrowd": 0,
            }
        )
    height, width = classes.shape
    image = {"file_name": name, "height": height, "width": width}
    with whole_file(path) as partial:
        partial.write_text(json.dumps({"image": image, "annotations": annotations}))


def merge_coco(path: Path, parts: Iterable[Path], metadata: Any) -> None:
    """COCO's json of many images, whose ids count; ids of categories are class indices."""
    images, annotations = [], []
    for part in parts:
        content = json.loads(part.read_text())
        images.append({"id": len(images) + 1, **content["image"]})
        for annotation in content["annotations"]:
            ids = {"id": len(annotations) + 1, "image_id": len(images)}
            annotations.append(ids | annotation)
    labels = {label for label, _ in known_classes(metadata, things=False, stuff=True)}
    labels |= {annotation["category_id"] for annotation in annotations}
    categories = [{"id": label, "name": class_name(metadata, label)} for label in sorted(labels)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content))


def write_geojson(path: Path, classes: np.ndarray, image_file: str, metadata: Any) -> None:
    """A polygon of each connected region, in longitude and latitude as RFC 7946 has it.

    Raises:
        ValueError: the image is not georeferenced.
    """
    import rasterio
    from rasterio.features import shapes
    from rasterio.warp import transform_geom

    with rasterio.open(image_file) as image:
        crs, transform = image.crs, image.transform
    if crs is None:
        raise ValueError("GeoJSON needs an image with coordinates, such as a GeoTIFF")
    features = [
        {
            "type": "Feature",
            "properties": {"class": int(label), "name": class_name(metadata, int(label))},
            "geometry": transform_geom(crs, "EPSG:4326", polygon),
        }
        for polygon, label in shapes(classes, transform=transform)
    ]
    with whole_file(path) as partial:
        partial.write_text(json.dumps({"type": "FeatureCollection", "features": features}))

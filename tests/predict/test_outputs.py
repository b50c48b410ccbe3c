"""Predictions as files, read back with the tools of their format."""

import json

import numpy as np
import pytest
from detectron2.data import Metadata
from PIL import Image
from pycocotools.coco import COCO

from lrformer.predict import outputs

METADATA = Metadata(stuff_classes=["road", "car", "tree"])


def test_label_maps_have_as_many_bits_as_they_need(tmp_path):
    for classes in (np.array([[0, 255]], np.uint8), np.array([[0, 256]], np.uint16)):
        outputs.write_labels(tmp_path / "sub" / "a.png", classes)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "sub" / "a.png")), classes)
    assert [file.name for file in (tmp_path / "sub").iterdir()] == ["a.png"]


def test_a_file_that_cannot_be_finished_is_not_there(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(TypeError):
        outputs.write_labels(path, np.zeros((3, 3), np.complex64))
    path.write_text("before")
    with pytest.raises(KeyError), outputs.whole_file(path) as partial:
        partial.write_text("half")
        raise KeyError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_zarr_gives_the_probabilities_back(tmp_path):
    zarr = pytest.importorskip("zarr")
    probabilities = np.random.default_rng(0).random((3, 40, 50), np.float32)
    outputs.write_zarr(tmp_path / "a.zarr.zip", probabilities)
    assert [file.name for file in tmp_path.iterdir()] == ["a.zarr.zip"]
    store = zarr.storage.ZipStore(tmp_path / "a.zarr.zip", mode="r")
    found = zarr.open_array(store, mode="r")
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found[:], probabilities.astype(np.float16))


def test_coco_gives_every_image_back(tmp_path):
    maps = np.random.default_rng(0).integers(0, 2, (2, 7, 9)).astype(np.uint8)
    maps[1, 2:4] = 3  # a class without a name
    for number, classes in enumerate(maps):
        outputs.write_coco(tmp_path / f"{number}.json", classes, f"day/{number}")
    outputs.merge_coco(tmp_path / "all.json", sorted(tmp_path.glob("?.json")), METADATA)

    coco = COCO(tmp_path / "all.json")
    names = [category["name"] for category in coco.loadCats(coco.getCatIds())]
    assert names == ["road", "car", "tree", "class 3"]
    assert len(coco.anns) == 2 + 3
    for image_id, classes in zip(coco.getImgIds(), maps, strict=True):
        assert coco.imgs[image_id]["file_name"] == f"day/{image_id - 1}"
        found = np.full(classes.shape, -1)
        for annotation in coco.imgToAnns[image_id]:
            mask = coco.annToMask(annotation).astype(bool)
            assert (found[mask] == -1).all() and annotation["area"] == mask.sum()
            rows, columns = np.nonzero(mask)
            assert annotation["bbox"][:2] == [columns.min(), rows.min()]
            found[mask] = annotation["category_id"]
        assert np.array_equal(found, classes)


def test_geojson_lies_where_the_image_lies(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    # One degree a pixel, from 10 degrees east and 50 north.
    transform = rasterio.transform.from_origin(10, 50, 1, 1)
    options = {"driver": "GTiff", "count": 3, "dtype": "uint8", "height": 4, "width": 5}
    with rasterio.open(
        tmp_path / "a.tif", "w", crs="EPSG:4326", transform=transform, **options
    ) as image:
        image.write(np.zeros((3, 4, 5), np.uint8))
    classes = np.zeros((4, 5), np.uint8)
    classes[1:3, 2:4] = 1
    outputs.write_geojson(tmp_path / "a.json", classes, str(tmp_path / "a.tif"), METADATA)
    features = json.loads((tmp_path / "a.json").read_text())["features"]
    rings = {x["properties"]["name"]: x["geometry"]["coordinates"] for x in features}
    corners = {(12, 49), (14, 49), (14, 47), (12, 47)}
    assert set(map(tuple, rings["car"][0])) == corners
    assert set(map(tuple, rings["road"][1])) == corners  # its hole

    Image.new("RGB", (5, 4)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="coordinates"):
        outputs.write_geojson(tmp_path / "b.json", classes, str(tmp_path / "b.png"), METADATA)

"""Each format, as its tool writes it, becomes the label map that was worked out by hand."""

import base64
import io
import os
from itertools import groupby

import numpy as np
import pytest
from PIL import Image

from lrformer.data import DatasetError, load_dataset, verify_dataset
from lrformer.data.reading import read_label

# A hole (2) lies on a roof (1).
LABEL = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 0, 0, 0],
        [0, 1, 2, 2, 1, 0, 0, 0],
        [0, 1, 2, 2, 1, 0, 0, 0],
        [0, 1, 1, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ],
    np.uint8,
)
ROOF, HOLE = [[1, 1], [5, 1], [5, 5], [1, 5]], [[2, 2], [4, 2], [4, 4], [2, 4]]
NAMES = ["background", "roof", "hole"]
COLORS = np.array([[0, 0, 0], [200, 10, 10], [10, 10, 200]], np.uint8)


def flat(points):
    return [x for point in points for x in point]


def expect(maps, meta, classes=NAMES, label=LABEL, names="ab"):
    assert list(maps) == list(names)
    for found in maps.values():
        np.testing.assert_array_equal(found, label)
    assert meta.stuff_classes == classes
    assert len(meta.stuff_colors) == len(classes)
    verify_dataset(meta.name, len(classes), "sem_seg")


def test_index_maps_are_used_as_they_are(folder):
    folder.image("labels/a.png", LABEL)
    folder.image("labels/b.png", LABEL.astype(np.uint16))
    maps, meta = folder.maps(classes=NAMES)
    expect(maps, meta)
    assert meta.ignore_label == 255
    assert not (folder.root / ".lrformer").exists()


@pytest.mark.parametrize("ending", ["", "_mask"])
def test_label_maps_beside_their_images(folder, ending):
    for name in "ab":
        folder.image(f"images/{name}{ending}.png", LABEL)
    expect(*folder.maps(labels="images", classes=NAMES))


def test_palette_and_one_bit_maps(folder):
    for name in "ab":
        picture = Image.fromarray(LABEL).convert("P")
        picture.putdata(LABEL.reshape(-1).tolist())
        picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
        (folder.root / "labels").mkdir(exist_ok=True)
        picture.save(folder.root / f"labels/{name}_seg.png")
    expect(*folder.maps(classes=NAMES))
    for name in "ab":
        (folder.root / f"labels/{name}_seg.png").unlink()
        Image.fromarray(LABEL > 0).save(folder.root / f"labels/{name}_seg.png")
    maps, meta = folder.maps(classes=["no", "yes"])
    records = load_dataset(meta.name)
    np.testing.assert_array_equal(read_label(records[0]["sem_seg_file_name"]), LABEL > 0)


def test_other_numbers_stand_for_classes(folder):
    numbers = np.array([7, 1000, 3], np.uint16)
    for name in "ab":
        stored = numbers[LABEL]
        stored[5] = 9
        folder.image(f"labels/{name}.png", stored)
    label = LABEL.copy()
    label[5] = 255
    classes = dict(zip(NAMES, (7, [1000, 1001], 3), strict=True))
    expect(*folder.maps(classes=classes, ignore_label=9), label=label)
    with pytest.raises(DatasetError, match=r"a\.png: found 9, which is no class"):
        folder.maps(classes=classes)


@pytest.mark.parametrize("classes", [["sound", "crack"], None])
def test_masks_of_0_and_255(folder, classes):
    for name in "ab":
        folder.image(f"labels/{name}.png", (LABEL > 0).astype(np.uint8) * 255)
    maps, meta = folder.maps(classes=classes)
    expect(maps, meta, classes or ["background", "foreground"], (LABEL > 0).astype(np.uint8))


@pytest.mark.parametrize(
    "table",
    [
        "0 0 0\t\tbackground\n200 10 10\troof\n10 10 200\thole\n5 5 5\tVoid\n",  # CamVid's
        "name,r,g,b\nbackground,0,0,0\nroof,200,10,10\nhole,10,10,200\nvoid,5,5,5\n",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroof:200,10,10::\n"
        "hole:10,10,200::\nvoid:5,5,5::\n",  # CVAT's
        {
            "background": "#000000",
            "roof": [200, 10, 10],
            "hole": [[10, 10, 200]],
            "void": [5, 5, 5],
        },
    ],
)
def test_colours_by_a_class_table(folder, table):
    classes = table
    if isinstance(table, str):
        classes = folder.text("classes.txt", table).name
    colored, label = COLORS[LABEL], LABEL.copy()
    colored[0, 0], label[0, 0] = 5, 255
    for name in "ab":
        folder.image(f"labels/{name}_L.png", colored)
    maps, meta = folder.maps(classes=classes)
    expect(maps, meta, label=label)
    assert meta.stuff_colors == COLORS.tolist()


def test_colours_that_are_not_named(folder):
    for name in "ab":
        folder.image(f"labels/{name}.png", COLORS[LABEL])
    for classes in (None, NAMES):
        with pytest.raises(DatasetError, match=r"colours \(0, 0, 0\), \(10, 10, 200\), \(200"):
            folder.maps(classes=classes)
    with pytest.raises(DatasetError, match=r"found \(200, 10, 10\), which is no class"):
        folder.maps(classes={"background": [0, 0, 0], "hole": [10, 10, 200]})


@pytest.mark.parametrize("pattern", ["{c}/{i}.png", "{i}/{c}.png", "{i}_{c}.png"])
def test_one_file_a_class(folder, pattern):
    for name in "ab":
        for label, class_name in ((1, "roof"), (2, "hole")):
            mask = (LABEL >= 1) if label == 1 else (LABEL == 2)
            file = "labels/" + pattern.format(c=class_name, i=name)
            folder.image(file, mask.astype(np.uint8) * 255)
    expect(*folder.maps(classes=["roof", "hole"]))
    ignored = np.where(LABEL, LABEL - 1, 255).astype(np.uint8)
    expect(*folder.maps(classes=["roof", "hole"], unlabelled="ignore"), ["roof", "hole"], ignored)


def coco(**more):
    """Two objects of an image: the smaller comes first, and is drawn last."""
    images = [
        {"id": 30 + i, "file_name": f"{name}.jpg", "height": 6, "width": 8}
        for i, name in enumerate("ab")
    ]
    hole = {"size": [6, 8], "counts": [14, 2, 4, 2, 26]}  # column by column
    shapes = [(9, hole, 4), (4, [flat(ROOF)], 16)]
    annotations = [
        {
            "id": 10 * image["id"] + category,
            "image_id": image["id"],
            "category_id": category,
            "segmentation": segmentation,
            "area": area,
            "bbox": [1, 1, 4, 4],
            "iscrowd": 0,
        }
        for image in images
        for category, segmentation, area in shapes
    ]
    categories = [{"id": 4, "name": "roof"}, {"id": 9, "name": "hole"}]
    return {"images": images, "annotations": annotations, "categories": categories, **more}


def test_coco_polygons_and_run_lengths(folder):
    folder.json("annotations/train.json", coco())
    expect(*folder.maps(labels="annotations/train.json"))


def test_coco_instances(folder):
    folder.json("train.json", coco())
    names, found = folder.register("instance", labels="train.json")
    (name,) = names.values()
    assert found.things == ("roof", "hole")
    verify_dataset(name, 2, "mask_former_instance")
    for record in load_dataset(name):
        assert [x["category_id"] for x in record["annotations"]] == [0, 1]
        assert [x["bbox"] for x in record["annotations"]] == [[1, 1, 4, 4], [2, 2, 2, 2]]


def test_coco_panoptic(folder):
    ids = np.array([0, 500, 70000])[LABEL]  # R + 256 G + 256² B
    stored = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=2).astype(np.uint8)
    annotations = [
        {
            "image_id": i,
            "file_name": f"{name}.png",
            "segments_info": [
                {"id": 500, "category_id": 4, "iscrowd": 0, "area": 12, "bbox": [1, 1, 4, 4]},
                {"id": 70000, "category_id": 9, "iscrowd": 0, "area": 4, "bbox": [2, 2, 2, 2]},
            ],
        }
        for i, name in enumerate("ab")
    ]
    categories = [{"id": 4, "name": "roof", "isthing": 0}, {"id": 9, "name": "hole", "isthing": 1}]
    folder.json("panoptic.json", coco(annotations=annotations, categories=categories))
    for name in "ab":
        folder.image(f"panoptic/{name}.png", stored)
    label = np.where(LABEL, LABEL - 1, 255).astype(np.uint8)
    expect(*folder.maps(labels="panoptic.json"), ["roof", "hole"], label)


def labelme(shapes, image="a.jpg"):
    return {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": image} | {
        "imageData": None,
        "imageHeight": 6,
        "imageWidth": 8,
    }


def test_labelme_beside_its_images(folder):
    roof = {"label": "roof", "points": ROOF, "shape_type": "polygon", "flags": {}}
    box = {"label": "hole", "points": [HOLE[0], HOLE[2]], "shape_type": "rectangle"}
    picture = io.BytesIO()
    Image.fromarray(np.ones((2, 2), bool)).save(picture, "PNG")
    mask = {"label": "hole", "points": [[2, 2], [3, 3]], "shape_type": "mask"}
    mask["mask"] = base64.b64encode(picture.getvalue()).decode()
    point = {"label": "roof", "points": [[0, 0]], "shape_type": "point"}
    folder.json("images/a.json", labelme([roof, box]))
    folder.json("images/b.json", labelme([roof, mask, point], "b.jpg"))
    expect(*folder.maps(labels="images"))


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><job><labels>
  <label><name>roof</name><color>#ff0000</color></label>
  <label><name>hole</name><color>#0000ff</color></label></labels></job></meta>
  <image id="0" name="a.jpg" width="8" height="6">
    <mask label="hole" rle="0, 4" left="2" top="2" width="2" height="2" z_order="1"></mask>
    <polygon label="roof" points="1.00,1.00;5.00,1.00;5.00,5.00;1.00,5.00" z_order="0"></polygon>
  </image>
  <image id="1" name="b.jpg" width="8" height="6">
    <box label="roof" xtl="1.0" ytl="1.0" xbr="5.0" ybr="5.0" z_order="0"></box>
    <polygon label="hole" points="2.00,2.00;4.00,2.00;4.00,4.00;2.00,4.00" z_order="0"></polygon>
    <polyline label="hole" points="0.00,0.00;7.00,5.00" z_order="1"></polyline>
  </image>
</annotations>"""


def test_cvat_for_images(folder):
    folder.text("annotations.xml", CVAT)
    expect(*folder.maps(labels="annotations.xml"))


def studio(kind, name, **value):
    """A result of Label Studio for an image of 8x6 pixels."""
    size = {"original_width": 8, "original_height": 6}
    return {"type": f"{kind}labels", "value": {f"{kind}labels": [name], **value}} | size


def write_studio(folder, results):
    """An export with the results of an image each, by the images' paths."""
    tasks = [
        {"data": {"image": x}, "annotations": [{"was_cancelled": True}, {"result": result}]}
        for x, result in results.items()
    ]
    folder.json("export.json", tasks)


def packed_rle(picture):
    """thi.ng/rle-pack of bytes: runs where two or more are equal, with lengths of 16 bits."""
    bits = f"{len(picture):032b}{7:05b}" + f"{15:04b}" * 4
    for byte, equal in groupby(picture):
        count = len(list(equal))
        bits += f"{int(count > 1)}00{count - 1:016b}{byte:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def test_label_studio(folder):
    points = [[100 * x / 8, 100 * y / 6] for x, y in ROOF]
    roof = studio("polygon", "roof", points=points)
    # Turned about its upper left corner, from (4, 2) to the left and down.
    box = {"x": 50, "y": 100 / 3, "width": 25, "height": 100 / 3, "rotation": 90}
    alpha = np.zeros((6, 8, 4), np.uint8)
    alpha[2:4, 2:4] = (1, 2, 3, 255)
    rle = packed_rle(alpha.reshape(-1).tolist())
    results = {
        "/data/upload/1/0123abcd-a.jpg": [roof, studio("rectangle", "hole", **box)],
        "/data/local-files/?d=images/b.jpg": [roof, studio("brush", "hole", rle=rle)],
    }
    write_studio(folder, results)
    expect(*folder.maps(labels="export.json"))


@pytest.mark.parametrize("tool", ["labelme", "cvat", "cvat turned", "labelstudio"])
def test_circles_and_ellipses(folder, tool):
    cx, cy, rx, ry = (4, 3, 2.5, 2.5) if tool == "labelme" else (4, 3, 3, 2)
    labels = "labels"
    if tool == "labelme":
        points = [[cx, cy], [cx, cy + ry]]
        circle = {"label": "cell", "points": points, "shape_type": "circle"}
        folder.json("labels/a.json", labelme([circle]))
    elif tool == "labelstudio":
        value = {"x": 50, "y": 50, "radiusX": 100 * rx / 8, "radiusY": 100 * ry / 6}
        write_studio(folder, {"a.jpg": [studio("ellipse", "cell", **value)]})
        labels = "export.json"
    else:  # lying, or standing and turned
        given = (rx, ry, 0) if tool == "cvat" else (ry, rx, 90)
        ellipse = '<ellipse label="cell" cx="4" cy="3" rx="{}" ry="{}" rotation="{}"></ellipse>'
        image = f'<image name="a.jpg" width="8" height="6">{ellipse.format(*given)}</image>'
        folder.text("cells.xml", f"<annotations>{image}</annotations>")
        labels = "cells.xml"
    maps, _ = folder.maps(labels=labels)
    assert list(maps) == ["a"]  # the other image has no labels and is left out
    y, x = np.mgrid[:6, :8] + 0.5
    distance = np.hypot((x - cx) / rx, (y - cy) / ry)
    assert maps["a"][distance < 0.75].all()
    assert not maps["a"][distance > 1.3].any()


def test_pascal_voc(folder):
    label = LABEL.copy()
    label[0] = 255  # the border
    for name in "abc":
        folder.image(f"JPEGImages/{name}.jpg", np.zeros((6, 8, 3), np.uint8))
        folder.image(f"SegmentationClass/{name}.png", label)
    for split, names in (("train", "a\nc\n"), ("val", "b\n")):
        folder.text(f"ImageSets/Segmentation/{split}.txt", names)
    place = {"images": "JPEGImages", "labels": "SegmentationClass"}
    splits = {s: place | {"names": f"ImageSets/Segmentation/{s}.txt"} for s in ("train", "val")}
    maps, meta = folder.maps(splits=splits, classes=NAMES)
    expect(maps, meta, label=label, names="ac")
    assert len(load_dataset("mine_sem_seg_val")) == 1


def test_a_split_by_fraction_and_seed(folder):
    for i in range(10):
        folder.image(f"all/{i}.png", np.zeros((6, 8, 3), np.uint8))
        folder.image(f"masks/{i}.png", LABEL)

    def held_out(seed):
        split = {"images": "all", "labels": "masks", "fraction": 0.3, "seed": seed}
        names, found = folder.register(split=split, classes=NAMES)
        train, val = (set(found.images[split]) for split in ("train", "val"))
        assert len(val) == 3
        assert train | val == set(map(str, range(10)))
        assert not train & val
        return val

    assert held_out(0) == held_out(0)
    assert len({frozenset(held_out(seed)) for seed in range(5)}) > 1


def test_conversion_goes_on_where_it_stopped_and_follows_changes(folder):
    masks = [folder.image(f"labels/{name}.png", COLORS[LABEL]) for name in "ab"]
    classes = dict(zip(NAMES, COLORS.tolist(), strict=True))
    maps, meta = folder.maps(classes=classes)
    files = [r["sem_seg_file_name"] for r in load_dataset(meta.name)]
    os.utime(files[0], (2e9, 2e9))
    os.unlink(files[1])
    folder.image("labels/a.png", COLORS[LABEL * 0])  # older than what was made of it
    expect(*folder.maps(classes=classes))
    os.utime(files[0], (1e9, 1e9))
    maps, _ = folder.maps(classes=classes)
    assert not maps["a"].any()
    np.testing.assert_array_equal(maps["b"], LABEL)
    assert not list(folder.root.rglob("*.part"))
    assert masks

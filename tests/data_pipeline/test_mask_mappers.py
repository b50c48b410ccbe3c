"""What the mappers of masks hand to LRFormer+."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, BoxMode
from detectron2.structures.masks import polygons_to_bitmask
from detectron2.utils.env import seed_all_rng

from lrformer.data import DatasetError, build_mapper, load_dataset
from lrformer.data.augmentation import ResizeInRatioRange

LSJ = {"coco_instance_lsj", "coco_panoptic_lsj"}


@pytest.fixture
def plain(cfg):
    """No resize, no crop, no flip, no padding; 4 classes."""
    cfg.INPUT.RESIZE_RATIO_RANGE = []
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
    cfg.INPUT.CROP.ENABLED = False
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.SIZE_DIVISIBILITY = -1
    return cfg


def mapper(cfg, name, is_train=True):
    cfg.INPUT.DATASET_MAPPER_NAME = name
    return build_mapper(cfg, is_train=is_train)


def rgb(ids) -> np.ndarray:
    ids = np.asarray(ids)
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def run_lengths(mask, compressed=True) -> dict:
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    if compressed:
        return {"size": rle["size"], "counts": rle["counts"].decode()}
    flat = np.asarray(mask).ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(np.shape(mask)), "counts": [0, *lengths] if flat[0] else lengths}


def thing(category, segmentation, **more) -> dict:
    box = {"bbox": [0, 0, 1, 1], "bbox_mode": BoxMode.XYWH_ABS}
    return {"category_id": category, "segmentation": segmentation, "iscrowd": 0} | box | more


def check(sample, size) -> None:
    """The contract of modeling/mask2former/meta_arch.py."""
    instances = sample["instances"]
    assert instances.image_size == size == tuple(sample["image"].shape[1:])
    assert sample["image"].dtype == torch.uint8
    assert instances.gt_classes.dtype == torch.int64
    assert isinstance(instances.gt_masks, BitMasks)
    assert instances.gt_masks.tensor.dtype == torch.bool
    assert instances.gt_masks.tensor.shape == (len(instances.gt_classes), *size)
    taken = {"annotations", "sem_seg", "sem_seg_file_name", "pan_seg_file_name", "segments_info"}
    assert not sample.keys() & taken


@pytest.fixture
def image(tmp_path, save):
    def write(height, width, pixels=None):
        if pixels is None:
            pixels = np.zeros((height, width, 3), np.uint8)
        return save(tmp_path / "image.png", pixels)

    return write


# --- label maps


def test_a_label_map_becomes_a_mask_for_each_class(tmp_path, save, image, plain):
    label = np.array([[0, 0, 3, 3], [0, 255, 3, 3], [2, 2, 255, 3], [2, 2, 2, 255]], np.uint8)
    record = {
        "file_name": image(4, 4),
        "sem_seg_file_name": save(tmp_path / "label.png", label),
    }
    sample = mapper(plain, "mask_former_semantic")(record)
    check(sample, (4, 4))
    assert sample["instances"].gt_classes.tolist() == [0, 2, 3]
    masks = sample["instances"].gt_masks.tensor.numpy()
    np.testing.assert_array_equal(masks[0], [[1, 1, 0, 0], [1, 0, 0, 0], [0] * 4, [0] * 4])
    np.testing.assert_array_equal(masks[1], [[0] * 4, [0] * 4, [1, 1, 0, 0], [1, 1, 1, 0]])
    np.testing.assert_array_equal(masks[2], label == 3)


def test_an_ignored_image_has_no_mask(tmp_path, save, image, plain):
    label = np.full((4, 6), 255, np.uint8)
    record = {"file_name": image(4, 6), "sem_seg_file_name": save(tmp_path / "l.png", label)}
    sample = mapper(plain, "mask_former_semantic")(record)
    check(sample, (4, 6))
    assert len(sample["instances"]) == 0


def test_semantic_masks_are_the_plain_models_labels(scenes, cfg):
    # The two models are compared on the same crops, so they must see the same ones.
    records = load_dataset("scenes")
    runs = []
    for name in ("sem_seg", "mask_former_semantic"):
        seed_all_rng(3)
        runs.append([mapper(cfg, name)(record) for record in records])
    for plain_sample, sample in zip(*runs, strict=True):
        assert torch.equal(plain_sample["image"], sample["image"])
        label = torch.full(tuple(sample["image"].shape[1:]), 255)
        for mask, category in zip(
            sample["instances"].gt_masks.tensor, sample["instances"].gt_classes, strict=True
        ):
            label[mask] = category
        assert torch.equal(label, plain_sample["sem_seg"])


# --- objects


def test_polygons_and_run_lengths_are_decoded(image, plain):
    square = np.zeros((4, 4), bool)
    square[1:3, 1:4] = True
    record = {
        "file_name": image(4, 4),
        "annotations": [
            thing(0, [[1, 1, 4, 1, 4, 3, 1, 3]]),
            thing(1, run_lengths(square)),
            thing(2, run_lengths(square, compressed=False)),
            thing(3, [[0, 0, 1, 0, 1, 1, 0, 1], [3, 3, 4, 3, 4, 4, 3, 4]]),
            thing(1, run_lengths(np.ones((4, 4))), iscrowd=1),
        ],
    }
    sample = mapper(plain, "mask_former_instance")(record)
    check(sample, (4, 4))
    assert sample["instances"].gt_classes.tolist() == [0, 1, 2, 3]
    masks = sample["instances"].gt_masks.tensor.numpy()
    for mask in masks[:3]:
        np.testing.assert_array_equal(mask, square)
    np.testing.assert_array_equal(masks[3], np.diag([1, 0, 0, 1]))


def test_an_image_without_objects_is_trained_on(image, plain):
    sample = mapper(plain, "mask_former_instance")({"file_name": image(5, 4), "annotations": []})
    check(sample, (5, 4))
    assert len(sample["instances"]) == 0


def test_two_hundred_objects(image, plain):
    rng = np.random.default_rng(0)
    truth = rng.random((200, 40, 50)) < 0.1
    record = {
        "file_name": image(40, 50),
        "annotations": [thing(i % 4, run_lengths(mask)) for i, mask in enumerate(truth)],
    }
    sample = mapper(plain, "mask_former_instance")(record)
    check(sample, (40, 50))
    np.testing.assert_array_equal(sample["instances"].gt_masks.tensor.numpy(), truth)


@pytest.mark.parametrize("name", ["mask_former_instance", "coco_instance_lsj"])
def test_objects_stay_on_what_the_image_shows(image, cfg, name):
    # The object is bright, once as a polygon, once as run lengths.
    pixels = np.zeros((90, 120, 3), np.uint8)
    pixels[20:60, 30:50] = 200
    shape = pixels[..., 0] > 0
    record = {
        "file_name": image(90, 120, pixels),
        "annotations": [
            thing(0, [[30, 20, 50, 20, 50, 60, 30, 60]]),
            thing(1, run_lengths(shape)),
        ],
    }
    cfg.INPUT.IMAGE_SIZE, cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE = 64, 0.3, 3.0
    seed_all_rng(0)
    make = mapper(cfg, name)
    found = empty = 0
    for _ in range(60):
        sample = make(record)
        check(sample, (64, 64))
        bright = (sample["image"][0] > 150).numpy()
        found += len(sample["instances"])
        empty += len(sample["instances"]) == 0
        for mask in sample["instances"].gt_masks.tensor.numpy():
            assert mask.any()
            # A pixel of interpolation around the outline is open.
            perimeter = 2 * (mask.any(0).sum() + mask.any(1).sum())
            assert (mask != bright & (sample["image"][0] < 250).numpy()).sum() <= perimeter + 2
        if len(sample["instances"]) == 0:
            assert bright.sum() < 12 or (sample["image"][0] == 124).any()
    assert found > 60
    assert empty > 0  # a crop without any object


def test_polygons_are_exact_where_the_image_is_enlarged(image, plain):
    triangle = [[2, 1, 9, 3, 4, 8]]
    plain.INPUT.MIN_SIZE_TRAIN = (100,)
    plain.INPUT.MAX_SIZE_TRAIN = 1000
    record = {"file_name": image(10, 10), "annotations": [thing(0, triangle)]}
    sample = mapper(plain, "mask_former_instance")(record)
    check(sample, (100, 100))
    # The shoelace formula: 22.5 square pixels, a hundred times as many at ten times the scale.
    area = sample["instances"].gt_masks.tensor.sum().item()
    assert area == pytest.approx(2250, rel=0.02)


@pytest.mark.parametrize("name", ["mask_former_instance", "coco_instance_lsj"])
def test_objects_are_those_of_detectron2s_own_transforms(image, cfg, name):
    # Objects inside, across and outside of crops, of one part or two, some of them slivers.
    rng = np.random.default_rng(0)
    objects = []
    for _ in range(40):
        parts = [
            (rng.uniform(0, (110, 75)) + rng.normal(0, rng.uniform(0.2, 15), (7, 2))).ravel()
            for _ in range(rng.integers(1, 3))
        ]
        objects.append(thing(int(rng.integers(4)), [part.tolist() for part in parts]))
    pixels = rng.integers(0, 256, (75, 110, 3), dtype=np.uint8)
    record = {"file_name": image(75, 110, pixels), "annotations": objects}
    cfg.INPUT.IMAGE_SIZE, cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE = 64, 0.5, 3.0
    scales = (64, 64, (0.5, 3.0)) if name in LSJ else (64, 256, (0.5, 2.0))
    plain = T.AugmentationList(
        [ResizeInRatioRange(*scales), T.RandomCrop("absolute", (64, 64)), T.RandomFlip()]
    )
    make = mapper(cfg, name)
    for seed in range(25):
        seed_all_rng(seed)
        sample = make(record)
        seed_all_rng(seed)
        inputs = T.AugInput(pixels)
        transforms = plain(inputs)
        height, width = inputs.image.shape[:2]
        masks = np.zeros((len(objects), 64, 64), bool)
        for mask, annotation in zip(masks, objects, strict=True):
            polygons = [np.reshape(p, (-1, 2)) for p in annotation["segmentation"]]
            polygons = [transforms.apply_coords(polygon).ravel() for polygon in polygons]
            mask[:height, :width] = polygons_to_bitmask(polygons, height, width)
        seen = masks.any((1, 2))
        assert 0 < seen.sum() < len(objects)
        np.testing.assert_array_equal(sample["instances"].gt_masks.tensor, masks[seen])
        classes = [annotation["category_id"] for annotation in objects]
        assert sample["instances"].gt_classes.tolist() == np.array(classes)[seen].tolist()
        shown = sample["image"].permute(1, 2, 0)[:height, :width]
        np.testing.assert_array_equal(shown, inputs.image)


# --- panoptic maps


IDS = [[0, 0, 5, 5], [300, 300, 5, 70000], [300, 300, 5, 70000], [9, 9, 9, 9]]
SEGMENTS = [
    {"id": 70000, "category_id": 3, "iscrowd": 0},
    {"id": 5, "category_id": 0, "iscrowd": 0},
    {"id": 300, "category_id": 3, "iscrowd": 0},
    {"id": 9, "category_id": 1, "iscrowd": 1},
]


@pytest.fixture
def panoptic(tmp_path, save, image):
    return {
        "file_name": image(4, 4),
        "pan_seg_file_name": save(tmp_path / "map.png", rgb(IDS)),
        "segments_info": SEGMENTS,
    }


def test_a_panoptic_map_becomes_a_mask_for_each_segment(panoptic, plain):
    sample = mapper(plain, "mask_former_panoptic")(panoptic)
    check(sample, (4, 4))
    # In the order of segments_info; the crowd and the pixels of no segment are in none.
    assert sample["instances"].gt_classes.tolist() == [3, 0, 3]
    masks = sample["instances"].gt_masks.tensor.numpy()
    for mask, segment in zip(masks, (70000, 5, 300), strict=True):
        np.testing.assert_array_equal(mask, np.array(IDS) == segment)


def test_more_than_255_segments_take_the_pixels_of_their_image(tmp_path, save, image, cfg):
    # Each segment of 3x3 pixels has its own colour, so any pixel can be told from the image.
    ids = np.arange(1, 401).reshape(20, 20).repeat(3, 0).repeat(3, 1)
    record = {
        "file_name": image(
            60, 60, np.stack([ids % 20 * 12, ids // 20 * 12, ids * 0], -1).astype("u1")
        ),
        "pan_seg_file_name": save(tmp_path / "map.png", rgb(ids * 7)),
        "segments_info": [{"id": i * 7, "category_id": i % 4} for i in range(1, 401)],
    }
    cfg.INPUT.RESIZE_RATIO_RANGE = [3.0, 3.0]  # 60 to 192: one segment is 9 or 10 pixels wide
    cfg.INPUT.MAX_SIZE_TRAIN = 1000
    seed_all_rng(0)
    sample = mapper(cfg, "mask_former_panoptic")(record)
    check(sample, (64, 64))
    masks = sample["instances"].gt_masks.tensor
    assert torch.equal(masks.sum(0), torch.ones(64, 64, dtype=torch.int64))
    colours = sample["image"][:2].float() / 12
    whole = [mask for mask in masks if mask.sum() > 80]
    assert len(whole) >= 25
    for mask in whole:
        inside = colours[:, mask]
        nearest = inside.median(1).values.round()
        assert ((inside - nearest[:, None]).abs() < 0.5).all(0).float().mean() > 0.7


@pytest.mark.parametrize("name", ["mask_former_panoptic", "coco_panoptic_lsj"])
def test_segments_stay_on_what_the_image_shows(tmp_path, save, image, cfg, name):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 4, (6, 8)).repeat(20, 0).repeat(20, 1)
    ids = np.array([0, 4, 4000, 90000])[coarse]
    record = {
        "file_name": image(120, 160, np.stack([coarse * 60] * 3, -1).astype(np.uint8)),
        "pan_seg_file_name": save(tmp_path / "map.png", rgb(ids)),
        "segments_info": [{"id": i, "category_id": c} for c, i in ((1, 4), (2, 4000), (3, 90000))],
    }
    cfg.INPUT.IMAGE_SIZE, cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE = 64, 0.8, 3.0
    seed_all_rng(0)
    make = mapper(cfg, name)
    padded = 0
    for _ in range(20):
        sample = make(record)
        check(sample, (64, 64))
        masks, classes = sample["instances"].gt_masks.tensor, sample["instances"].gt_classes
        assert (masks.sum(0) <= 1).all()
        shown = (sample["image"][0].float() / 60).round()
        for mask, category in zip(masks, classes, strict=True):
            assert (shown[mask] == category).float().mean() > 0.8
        padding = (sample["image"] == torch.tensor([124, 116, 104])[:, None, None]).all(0)
        assert not masks[:, padding].any()
        padded += bool(padding.any())
    assert 0 < padded < 20


def test_crops_look_at_the_classes_of_the_segments(tmp_path, save, image, cfg):
    # One class, in many segments, covers all but a corner: a crop must have some of the corner.
    ids = np.arange(1, 65 * 65 + 1).reshape(65, 65)
    ids = np.minimum(ids // 100, 40) + 1
    ids[:8, :8] = 100
    record = {
        "file_name": image(65, 65),
        "pan_seg_file_name": save(tmp_path / "map.png", rgb(ids)),
        "segments_info": [
            {"id": int(i), "category_id": 1 if i == 100 else 0} for i in np.unique(ids)
        ],
    }
    cfg.INPUT.RESIZE_RATIO_RANGE = [1.0, 1.0]
    cfg.INPUT.MIN_SIZE_TRAIN = (65,)
    cfg.INPUT.CROP.SIZE = [16, 16]
    cfg.INPUT.SIZE_DIVISIBILITY = -1
    seed_all_rng(0)

    def share_with_corner(limit):
        cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = limit
        make = mapper(cfg, "mask_former_panoptic")
        return np.mean([1 in make(record)["instances"].gt_classes for _ in range(100)])

    assert share_with_corner(1.0) < 0.1
    assert share_with_corner(0.999) > 0.15  # ten draws


# --- all of them


@pytest.mark.parametrize(
    "name",
    [
        "mask_former_semantic",
        "mask_former_instance",
        "mask_former_panoptic",
        "coco_instance_lsj",
        "coco_panoptic_lsj",
    ],
)
def test_test_images_are_those_of_the_plain_model(panoptic, cfg, name):
    record = panoptic | {"image_id": 7, "annotations": [], "height": 4, "width": 4}
    sample = mapper(cfg, name, is_train=False)(record)
    assert sample.keys() == {"file_name", "image_id", "height", "width", "image"}
    assert (sample["image_id"], sample["height"], sample["width"]) == (7, 4, 4)
    assert torch.equal(sample["image"], mapper(cfg, "sem_seg", is_train=False)(record)["image"])
    assert "annotations" in record


def test_jitter_is_in_the_given_range(image, cfg):
    cfg.INPUT.IMAGE_SIZE, cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE = 100, 0.5, 0.8
    pixels = np.full((40, 80, 3), 255, np.uint8)
    record = {"file_name": image(40, 80, pixels), "annotations": []}
    seed_all_rng(0)
    make = mapper(cfg, "coco_instance_lsj")
    widths = []
    for _ in range(200):
        sample = make(record)
        assert sample["image"].shape == (3, 100, 100)
        white = (sample["image"] == 255).all(0)
        height, width = white.any(1).sum().item(), white.any(0).sum().item()
        assert white.sum() == height * width and abs(width - 2 * height) <= 1
        widths.append(width)
    assert min(widths) in (50, 51) and max(widths) in (79, 80)
    assert np.mean(widths) == pytest.approx(65, abs=2)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mask_former_instance", {}, r"image\.png: no annotations in its dataset dict"),
        (
            "mask_former_instance",
            {"annotations": [thing(4, [[0, 0, 1, 0, 1, 1]])]},
            r"image\.png: found category_id 4; expected 0\.\.3 \(MODEL\.SEM_SEG_HEAD\.NUM_CLASSES",
        ),
        (
            "mask_former_instance",
            {"annotations": [thing(0, run_lengths(np.ones((4, 5))))]},
            r"image\.png: the image is 4x4 but an object's run lengths are for 5x4",
        ),
        (
            "mask_former_instance",
            {"annotations": [], "height": 3, "width": 4},
            r"image\.png: the image is 4x4 but its annotations are for 4x3",
        ),
        (
            "mask_former_instance",
            {"annotations": [{"category_id": 1, "bbox": [0, 0, 1, 1]}]},
            r"image\.png: the segmentation of an object \(category_id 1\) is None; expected polyg",
        ),
        (
            "mask_former_instance",
            {"annotations": [thing(1, [[0, 0, 1, 1]])]},
            r"cannot be decoded: ValueError\('a polygon needs three points",
        ),
        (
            "mask_former_instance",
            {"annotations": [thing(1, {"size": [4, 4], "counts": [3, 9]})]},
            r"cannot be decoded: ValueError\('its counts sum up to 12, not 16'\)",
        ),
        (
            "mask_former_instance",
            {"annotations": [thing(1, {"size": [4, 4]})]},
            r"cannot be decoded: KeyError\('counts'\)",
        ),
        (
            "mask_former_panoptic",
            {"pan_seg_file_name": None},
            r"image\.png: no pan_seg_file_name in its dataset dict; this mapper \(MaskFormerPan",
        ),
        (
            "mask_former_panoptic",
            {"segments_info": None},
            r"map\.png: no segments_info in the dataset dict",
        ),
        (
            "mask_former_panoptic",
            {"segments_info": SEGMENTS[:3]},
            r"map\.png: found segment 9, which segments_info .* does not list",
        ),
        (
            "coco_panoptic_lsj",
            {"segments_info": [*SEGMENTS, {"id": 77, "category_id": 0}]},
            r"map\.png: segments_info .* lists segment 77, of which the map has no pixel",
        ),
        (
            "mask_former_panoptic",
            {"segments_info": [*SEGMENTS, SEGMENTS[0]]},
            r"map\.png: segments_info lists segment 70000 twice",
        ),
        (
            "mask_former_panoptic",
            {"segments_info": [SEGMENTS[0] | {"category_id": 4}, *SEGMENTS[1:]]},
            r"map\.png: found category_id 4; expected 0\.\.3",
        ),
    ],
)
def test_what_is_wrong_is_named(panoptic, plain, name, change, message):
    with pytest.raises(DatasetError, match=message):
        mapper(plain, name)(panoptic | change)


def test_a_panoptic_map_of_another_kind_or_size_is_named(tmp_path, save, panoptic, plain):
    make = mapper(plain, "mask_former_panoptic")
    save(tmp_path / "map.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DatasetError, match=r"map\.png: a panoptic map is an RGB image.* mode is L"):
        make(panoptic)
    save(tmp_path / "map.png", rgb(np.array(IDS)[:3]))
    with pytest.raises(DatasetError, match=r"map\.png: the panoptic map is 4x3 .* image is 4x4"):
        make(panoptic)


@pytest.mark.parametrize(
    ("key", "value"), [("IMAGE_SIZE", 0), ("MIN_SCALE", 3.0), ("MIN_SCALE", 0.0)]
)
def test_contradicting_keys_of_the_jitter_are_named(cfg, key, value):
    cfg.INPUT[key] = value
    with pytest.raises(ValueError, match=rf"INPUT\.{key}"):
        mapper(cfg, "coco_panoptic_lsj")

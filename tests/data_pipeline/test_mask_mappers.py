"""What the mappers of masks hand to LRFormer+."""

from itertools import groupby

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks
from detectron2.structures.masks import polygons_to_bitmask
from detectron2.utils.env import seed_all_rng

from lrformer.data import MAPPERS, DatasetError, build_mapper
from lrformer.data.augmentation import ResizeInRatioRange


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
    flat = np.ravel(mask, order="F").tolist()
    lengths = [len(list(run)) for _, run in groupby(flat)]
    return {"size": list(np.shape(mask)), "counts": [0, *lengths] if flat[0] else lengths}


def thing(category, segmentation, crowd=0) -> dict:
    return {"category_id": category, "segmentation": segmentation, "iscrowd": crowd}


def target(sample, size) -> tuple[list[int], np.ndarray]:
    """Classes and masks, by the contract of modeling/mask2former/meta_arch.py."""
    instances = sample["instances"]
    assert instances.image_size == size == tuple(sample["image"].shape[1:])
    assert sample["image"].dtype == torch.uint8
    assert instances.gt_classes.dtype == torch.int64
    assert isinstance(instances.gt_masks, BitMasks)
    assert instances.gt_masks.tensor.dtype == torch.bool
    assert instances.gt_masks.tensor.shape == (len(instances.gt_classes), *size)
    assert sample.keys() == {"file_name", "height", "width", "image", "instances"}
    return instances.gt_classes.tolist(), instances.gt_masks.tensor.numpy()


@pytest.fixture
def image(tmp_path, save):
    def write(*size):
        pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
        return save(tmp_path / "image.png", pixels), pixels

    return write


@pytest.mark.parametrize("name", ["mask_former_semantic", "mask_former_instance"])
def test_an_image_of_nothing_has_no_mask(tmp_path, save, image, plain, name):
    label = save(tmp_path / "label.png", np.full((4, 6), 255, np.uint8))
    record = {"file_name": image(4, 6)[0], "sem_seg_file_name": label, "annotations": []}
    assert target(mapper(plain, name)(record), (4, 6))[0] == []


def test_polygons_and_run_lengths_are_decoded(image, plain):
    square = np.zeros((4, 4), bool)
    square[1:3, 1:4] = True
    objects = [
        thing(0, [[1, 1, 4, 1, 4, 3, 1, 3]]),
        thing(1, run_lengths(square)),
        thing(2, run_lengths(square, compressed=False)),
        thing(3, [[0, 0, 1, 0, 1, 1, 0, 1], [3, 3, 4, 3, 4, 4, 3, 4]]),
        thing(1, run_lengths(np.ones((4, 4))), crowd=1),
    ]
    record = {"file_name": image(4, 4)[0], "annotations": objects}
    classes, masks = target(mapper(plain, "mask_former_instance")(record), (4, 4))
    assert classes == [0, 1, 2, 3]
    for mask in masks[:3]:
        np.testing.assert_array_equal(mask, square)
    np.testing.assert_array_equal(masks[3], np.diag([1, 0, 0, 1]))


def mixed_objects(rng, height, width) -> tuple[dict, list]:
    """Objects inside, across and outside of crops, of one part or two, some of them slivers.

    Every fourth has run lengths. Returns what a dataset dict says, and their polygons or masks.
    """
    objects, shapes = [], []
    for number in range(40):
        shape = [
            (rng.uniform(0, (width, height)) + rng.normal(0, rng.uniform(0.2, 15), (7, 2))).ravel()
            for _ in range(rng.integers(1, 3))
        ]
        segmentation = shape
        if number % 4 == 0:
            shape = polygons_to_bitmask(shape, height, width)
            segmentation = run_lengths(shape, compressed=number % 8 == 0)
        shapes.append(shape)
        objects.append(thing(int(rng.integers(4)), segmentation))
    return {"annotations": objects}, shapes


def drawn(shape, transforms, size) -> np.ndarray:
    if isinstance(shape, np.ndarray):
        return transforms.apply_segmentation(shape.astype(np.uint8)) > 0
    parts = [transforms.apply_coords(np.reshape(part, (-1, 2))).ravel() for part in shape]
    return polygons_to_bitmask(parts, *size)


@pytest.mark.parametrize(
    ("name", "segments"),
    [
        ("mask_former_semantic", 4),
        ("mask_former_instance", 0),
        ("coco_instance_lsj", 0),
        ("mask_former_panoptic", 12),
        ("coco_panoptic_lsj", 300),  # numbers of more than 8 bits
    ],
)
def test_masks_are_those_of_detectron2s_own_transforms(tmp_path, save, image, cfg, name, segments):
    rng, label = np.random.default_rng(0), None
    file, pixels = image(75, 108)
    if segments:
        # Segment n of ``numbers`` has the id 7 n; number 0 is nowhere.
        numbers = rng.permutation(np.arange(25 * 36) % (segments + 1)).reshape(25, 36)
        numbers = numbers.repeat(3, 0).repeat(3, 1)
        shapes = [numbers == n for n in range(1, segments + 1)]
        classes = [n if segments == 4 else n % 3 // 2 for n in range(segments)]
        label = np.uint8([255, *classes])[numbers]
        truth = {
            "sem_seg_file_name": save(tmp_path / "label.png", label),
            "pan_seg_file_name": save(tmp_path / "map.png", rgb(numbers * 7)),
            "segments_info": [{"id": 7 * n, "category_id": c} for n, c in enumerate(classes, 1)],
        }
    else:
        truth, shapes = mixed_objects(rng, 75, 108)
        classes = [annotation["category_id"] for annotation in truth["annotations"]]

    cfg.INPUT.IMAGE_SIZE, cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE = 64, 0.5, 3.0
    cfg.INPUT.RESIZE_RATIO_RANGE, cfg.INPUT.MIN_SIZE_TRAIN = [], (32, 64, 128)
    # Two of three segments are of class 0: about half of the crops are drawn again.
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 0.66
    resize = T.ResizeShortestEdge((32, 64, 128), 256, "choice")
    crop = T.RandomCrop("absolute", (64, 64))
    if name.endswith("lsj"):
        resize = ResizeInRatioRange(64, 64, (0.5, 3.0))
    elif segments:
        crop = T.RandomCrop_CategoryAreaConstraint("absolute", (64, 64), 0.66, 255)
    augment, make = T.AugmentationList([resize, crop, T.RandomFlip()]), mapper(cfg, name)
    for seed in range(20):
        seed_all_rng(seed)
        sample = make({"file_name": file, **truth})
        found, masks = target(sample, (64, 64))
        seed_all_rng(seed)
        inputs = T.AugInput(pixels, sem_seg=label)
        transforms = augment(inputs)
        height, width = size = inputs.image.shape[:2]
        shown = sample["image"].permute(1, 2, 0)[:height, :width]
        np.testing.assert_array_equal(shown, inputs.image)
        expected = np.stack([drawn(shape, transforms, size) for shape in shapes])
        seen = expected.any((1, 2))
        np.testing.assert_array_equal(masks[:, :height, :width], expected[seen])
        assert not masks[:, height:].any() and not masks[..., width:].any()
        assert found == np.array(classes)[seen].tolist()


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
        "file_name": image(4, 4)[0],
        "pan_seg_file_name": save(tmp_path / "map.png", rgb(IDS)),
        "segments_info": SEGMENTS,
    }


def test_a_panoptic_map_becomes_a_mask_for_each_segment(panoptic, plain):
    classes, masks = target(mapper(plain, "mask_former_panoptic")(panoptic), (4, 4))
    # In the order of segments_info; the crowd and the pixels of no segment are in none.
    assert classes == [3, 0, 3]
    for mask, segment in zip(masks, (70000, 5, 300), strict=True):
        np.testing.assert_array_equal(mask, np.array(IDS) == segment)


@pytest.mark.parametrize("name", [name for name in MAPPERS if name != "sem_seg"])
def test_test_images_are_those_of_the_plain_model(panoptic, cfg, name):
    record = panoptic | {"image_id": 7, "annotations": [], "height": 4, "width": 4}
    sample = mapper(cfg, name, is_train=False)(record)
    assert sample.keys() == {"file_name", "image_id", "height", "width", "image"}
    assert (sample["image_id"], sample["height"], sample["width"]) == (7, 4, 4)
    assert torch.equal(sample["image"], mapper(cfg, "sem_seg", is_train=False)(record)["image"])
    assert "annotations" in record


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("semantic", {}, r"image\.png: no sem_seg_file_name in its dataset dict"),
        ("instance", {}, r"image\.png: no annotations in its dataset dict"),
        ("panoptic", {"segments_info": None}, r"map\.png: no segments_info"),
        ("panoptic", {"segments_info": SEGMENTS[:3]}, r"map\.png: found segment 9,"),
        (
            "panoptic",
            {"segments_info": [SEGMENTS[0] | {"category_id": 4}, *SEGMENTS[1:]]},
            r"map\.png: found category_id 4; expected 0\.\.3 \(MODEL\.SEM_SEG_HEAD\.NUM_CLASSES",
        ),
        (
            "instance",
            {"annotations": [thing(4, [[0, 0, 1, 0, 1, 1]])]},
            r"image\.png: found category_id 4; expected 0\.\.3",
        ),
        (
            "instance",
            {"annotations": [thing(0, run_lengths(np.ones((4, 5))))]},
            r"image\.png: the image is 4x4 but an object's run lengths are for 5x4",
        ),
    ],
)
def test_what_is_wrong_is_named(panoptic, plain, kind, change, message):
    with pytest.raises(DatasetError, match=message):
        mapper(plain, f"mask_former_{kind}")(panoptic | change)

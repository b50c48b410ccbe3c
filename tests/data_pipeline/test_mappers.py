"""What the mapper hands to the model."""

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from detectron2.utils.env import seed_all_rng
from PIL import Image

from lrformer.data import DatasetError, SemSegMapper, build_mapper, load_dataset
from lrformer.data.augmentation import ResizeInRatioRange
from lrformer.data.reading import image_size, read_image, read_label


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize(
    ("flip", "crop", "limit"),
    [
        ("horizontal", ("absolute", [64, 64]), 0.4),
        ("vertical", ("absolute", [64, 48]), 0.4),
        ("none", ("relative_range", [0.3, 0.5]), 1.0),
    ],
)
def test_samples_are_those_of_detectron2s_own_transforms(
    tmp_path, save, cfg, order, flip, crop, limit
):
    # Published results are compared with: no pixel and no draw may differ from the plain recipe.
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (75, 110, 3), dtype=np.uint8)
    label = rng.choice(np.uint8([0, 1, 2, 3, 255]), (5, 10), p=[0.5, 0.2, 0.1, 0.1, 0.1])
    label = label.repeat(15, 0).repeat(11, 1)
    record = {
        "file_name": save(tmp_path / "image.png", pixels),
        "sem_seg_file_name": save(tmp_path / "label.png", label),
    }
    cfg.INPUT.FORMAT, cfg.INPUT.RANDOM_FLIP, cfg.INPUT.COLOR_AUG_SSD = order, flip, True
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = crop
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = limit
    plain = [
        ResizeInRatioRange(64, 256, (0.5, 2.0)),
        T.RandomCrop_CategoryAreaConstraint(*crop, limit, 255),
    ]
    if flip != "none":
        plain.append(T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical"))
    augment = T.AugmentationList([*plain, ColorAugSSDTransform(img_format=order)])
    make = SemSegMapper(cfg, is_train=True)
    seed_all_rng(0)
    samples = [make(dict(record)) for _ in range(60)]
    assert samples[0].keys() == {"file_name", "height", "width", "image", "sem_seg"}
    assert (samples[0]["height"], samples[0]["width"]) == (75, 110)
    assert (samples[0]["image"].dtype, samples[0]["sem_seg"].dtype) == (torch.uint8, torch.int64)
    # One draw more or fewer and all that follow would differ.
    seed_all_rng(0)
    for sample in samples:
        inputs = T.AugInput(pixels if order == "RGB" else pixels[..., ::-1], sem_seg=label)
        augment(inputs)
        padding = [(0, max(0, 64 - side)) for side in inputs.sem_seg.shape]
        expected = np.pad(inputs.sem_seg, padding, constant_values=255)
        np.testing.assert_array_equal(sample["sem_seg"], expected)
        for c, mean in enumerate((124, 116, 104)):
            expected = np.pad(inputs.image[..., c], padding, constant_values=mean)
            np.testing.assert_array_equal(sample["image"][c], expected)


@pytest.mark.parametrize(
    ("align", "tta", "expected"),
    [(32, False, (96, 128)), (0, False, (90, 120)), (32, True, (120, 160))],
)
def test_test_images_are_resized_as_configured(scenes, cfg, align, tta, expected):
    cfg.INPUT.ALIGN_TEST = align
    cfg.TEST.AUG.ENABLED = tta
    sample = build_mapper(cfg, is_train=False)(load_dataset("scenes")[0])
    assert sample["image"].shape == (3, *expected)
    assert (sample["height"], sample["width"]) == (120, 160)
    assert "sem_seg" not in sample


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_photograph_is_turned_upright(tmp_path, save, suffix):
    top_white = np.zeros((20, 40, 3), dtype=np.uint8)
    top_white[:10] = 255
    exif = Image.Exif()
    exif[274] = 6  # the top of the scene is at the right of the stored image
    file = save(tmp_path / f"a.{suffix}", np.rot90(top_white).copy(), exif=exif)
    np.testing.assert_allclose(read_image(file), top_white, atol=80)  # JPEG blurs the edge
    assert image_size(file) == (20, 40)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((4, 5), 100, dtype=np.uint8), (100, 100, 100)),  # grey
        (np.full((4, 5, 4), (10, 20, 30, 0), dtype=np.uint8), (10, 20, 30)),  # RGBA
        (np.full((4, 5), 100 * 257, dtype=np.uint16), (100, 100, 100)),  # 16-bit grey
    ],
)
def test_other_image_modes_become_rgb(tmp_path, save, array, expected):
    image = read_image(save(tmp_path / "a.png", array))
    assert image.shape == (4, 5, 3)
    assert tuple(image[0, 0]) == expected


def test_palette_labels_keep_their_indices(tmp_path):
    label = Image.fromarray(np.array([[0, 3], [255, 1]], dtype=np.uint8), mode="P")
    label.putpalette([value for index in range(256) for value in (255 - index, 9, index)])
    label.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(str(tmp_path / "a.png")), [[0, 3], [255, 1]])
    label.convert("RGB").save(tmp_path / "a.png")
    with pytest.raises(DatasetError, match=r"a\.png: a label map has one channel.*RGB"):
        read_label(str(tmp_path / "a.png"))


def test_more_than_255_classes(tmp_path, save, record, cfg):
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 1000
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 65535
    cfg.INPUT.RESIZE_RATIO_RANGE = [1.0, 1.0]
    save(tmp_path / "label.png", np.resize(np.uint16([300, 999, 65535]), (64, 64)))
    sample = SemSegMapper(cfg, is_train=True)(record)
    assert set(sample["sem_seg"].unique().tolist()) == {300, 999, 65535}


@pytest.fixture
def record(tmp_path, save):
    return {
        "file_name": save(tmp_path / "image.png", np.zeros((64, 64, 3), dtype=np.uint8)),
        "sem_seg_file_name": save(tmp_path / "label.png", np.zeros((64, 64), dtype=np.uint8)),
    }


def test_what_was_not_among_the_verified_labels_is_named(tmp_path, save, record, cfg):
    save(tmp_path / "label.png", np.diag(np.full(64, 4, np.uint8)))
    expected = r"0\.\.3 \(MODEL\.SEM_SEG_HEAD\.NUM_CLASSES is 4\).* label 255"
    with pytest.raises(DatasetError, match=rf"label\.png: found label 4; expected {expected}"):
        SemSegMapper(cfg, is_train=True)(record)


@pytest.mark.parametrize("whole", [b"<html>404</html>".ljust(999), None])
def test_an_image_that_cannot_be_read_is_named(tmp_path, save, record, cfg, whole):
    file = tmp_path / "image.png"
    save(file, np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    file.write_bytes((whole or file.read_bytes())[:999])
    with pytest.raises(DatasetError, match=r"cannot read the image .*image\.png: "):
        SemSegMapper(cfg, is_train=True)(record)


@pytest.mark.parametrize(
    ("mapper", "key", "value", "message"),
    [
        ("sem_seg", "RESIZE_RATIO_RANGE", [2.0, 0.5], "INPUT.RESIZE_RATIO_RANGE must be"),
        ("sem_seg", "MIN_SIZE_TRAIN", (64, 96), "one INPUT.MIN_SIZE_TRAIN"),
        ("sem_seg", "RANDOM_FLIP", "diagonal", "INPUT.RANDOM_FLIP must be"),
        ("sem_seg", "FORMAT", "L", "INPUT.COLOR_AUG_SSD needs INPUT.FORMAT"),
        ("coco_panoptic_lsj", "IMAGE_SIZE", 0, "INPUT.IMAGE_SIZE must be"),
        ("coco_panoptic_lsj", "MIN_SCALE", 3.0, "INPUT.MIN_SCALE and INPUT.MAX_SCALE must be"),
        ("sem_seg", "DATASET_MAPPER_NAME", "mask", "INPUT.DATASET_MAPPER_NAME.*there are: sem_seg"),
    ],
)
def test_contradicting_keys_are_named(cfg, mapper, key, value, message):
    cfg.INPUT.COLOR_AUG_SSD = True
    cfg.INPUT.DATASET_MAPPER_NAME = mapper
    cfg.INPUT[key] = value
    with pytest.raises(ValueError, match=message):
        build_mapper(cfg, is_train=True)

"""What the mapper hands to the model."""

import logging

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from detectron2.utils.env import seed_all_rng
from PIL import Image

from lrformer.data import DatasetError, SemSegMapper, build_mapper, load_dataset
from lrformer.data.augmentation import ResizeInRatioRange
from lrformer.data.reading import read_image, read_label


def test_training_sample_has_the_crop_size_and_the_file_size(scenes, cfg):
    record = load_dataset("scenes")[0]
    before = dict(record)
    sample = SemSegMapper(cfg, is_train=True)(record)
    assert record == before
    assert sample["image"].shape == (3, 64, 64)
    assert sample["image"].dtype == torch.uint8
    assert sample["sem_seg"].shape == (64, 64)
    assert sample["sem_seg"].dtype == torch.int64
    assert (sample["height"], sample["width"]) == (120, 160)
    assert sample["file_name"] == record["file_name"]


def test_image_and_label_stay_together(scenes, cfg):
    seed_all_rng(0)
    mapper = SemSegMapper(cfg, is_train=True)
    for record in load_dataset("scenes") * 3:
        sample = mapper(record)
        labelled = sample["sem_seg"] != 255
        # The fixture's grey value is 60 times the label; only borders are blended.
        same = (sample["image"][0].float() / 60).round() == sample["sem_seg"]
        assert same[labelled].float().mean() > 0.9


def test_flip_happens_to_half_of_the_samples(tmp_path, save, cfg):
    ramp = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    record = {
        "file_name": save(tmp_path / "ramp.png", ramp),
        "sem_seg_file_name": save(tmp_path / "label.png", ramp // 16),
    }
    cfg.INPUT.RESIZE_RATIO_RANGE = [1.0, 1.0]
    seed_all_rng(0)
    mapper = SemSegMapper(cfg, is_train=True)
    samples = [mapper(record) for _ in range(100)]
    flipped = [bool(s["image"][0, 0, 0] > s["image"][0, 0, -1]) for s in samples]
    assert 35 <= sum(flipped) <= 65
    assert flipped == [bool(s["sem_seg"][0, 0] > s["sem_seg"][0, -1]) for s in samples]


def test_small_images_are_padded_with_nothing(scenes, cfg):
    cfg.INPUT.RESIZE_RATIO_RANGE = [0.5, 0.5]  # 120x160 becomes 32x43
    cfg.INPUT.RANDOM_FLIP = "none"
    sample = SemSegMapper(cfg, is_train=True)(load_dataset("scenes")[0])
    assert (sample["sem_seg"][32:] == 255).all()
    assert (sample["sem_seg"][:32, 43:] == 255).all()
    assert (sample["sem_seg"][:32, :43] != 255).all()
    mean, std = (torch.tensor(v)[:, None] for v in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    normalised = (sample["image"][:, 32:].flatten(1) - mean) / std
    assert normalised.abs().max() < 0.01  # rounding to 8 bits; a grey level is 0.017


def test_photometric_distortion_leaves_the_labels(scenes, cfg):
    cfg.INPUT.RESIZE_RATIO_RANGE = [1.0, 1.0]
    cfg.INPUT.CROP.ENABLED = False
    cfg.INPUT.RANDOM_FLIP = "none"
    record = load_dataset("scenes")[0]
    plain = SemSegMapper(cfg, is_train=True)(record)
    cfg.INPUT.COLOR_AUG_SSD = True
    seed_all_rng(1)
    mapper = SemSegMapper(cfg, is_train=True)
    distorted = [mapper(record) for _ in range(8)]
    assert all(torch.equal(plain["sem_seg"], d["sem_seg"]) for d in distorted)
    assert any(not torch.equal(plain["image"], d["image"]) for d in distorted)


def test_the_same_seed_gives_the_same_samples(scenes, cfg):
    cfg.INPUT.COLOR_AUG_SSD = True
    records = load_dataset("scenes")
    runs = []
    for _ in range(2):
        seed_all_rng(7)
        mapper = build_mapper(cfg, is_train=True)
        runs.append([mapper(record) for record in records])
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first["image"], second["image"])
        assert torch.equal(first["sem_seg"], second["sem_seg"])


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
    label = rng.choice([0, 1, 2, 3, 255], (5, 10), p=[0.5, 0.2, 0.1, 0.1, 0.1])
    label = label.astype(np.uint8).repeat(15, 0).repeat(11, 1)
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
    samples = [make(record) for _ in range(60)]
    # One draw more or fewer and all that follow would differ.
    seed_all_rng(0)
    for sample in samples:
        inputs = T.AugInput(pixels if order == "RGB" else pixels[..., ::-1], sem_seg=label)
        augment(inputs)
        padding = [(0, max(0, 64 - side)) for side in inputs.sem_seg.shape]
        expected = np.pad(inputs.sem_seg, padding, constant_values=255)
        np.testing.assert_array_equal(sample["sem_seg"], expected)
        for found, channel, mean in zip(
            sample["image"], np.moveaxis(inputs.image, -1, 0), (124, 116, 104), strict=True
        ):
            np.testing.assert_array_equal(found, np.pad(channel, padding, constant_values=mean))


def test_resize_shortest_edge_is_used_without_a_ratio_range(scenes, cfg):
    cfg.INPUT.RESIZE_RATIO_RANGE = []
    cfg.INPUT.MIN_SIZE_TRAIN = (30, 60)
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
    cfg.INPUT.CROP.ENABLED = False
    cfg.INPUT.SIZE_DIVISIBILITY = -1
    seed_all_rng(0)
    mapper = SemSegMapper(cfg, is_train=True)
    sizes = {tuple(mapper(r)["image"].shape[1:]) for r in load_dataset("scenes") * 3}
    assert sizes == {(30, 40), (60, 80)}


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


def test_channel_order_follows_the_config(tmp_path, save, cfg):
    red = np.zeros((90, 90, 3), dtype=np.uint8)
    red[..., 0] = 200
    record = {"file_name": save(tmp_path / "red.png", red)}
    assert build_mapper(cfg, is_train=False)(record)["image"].amax((1, 2)).tolist() == [200, 0, 0]
    cfg.INPUT.FORMAT = "BGR"
    assert build_mapper(cfg, is_train=False)(record)["image"].amax((1, 2)).tolist() == [0, 0, 200]


def test_a_photograph_is_turned_upright(tmp_path, save):
    top_white = np.zeros((20, 40, 3), dtype=np.uint8)
    top_white[:10] = 255
    exif = Image.Exif()
    exif[274] = 6  # the top of the scene is at the right of the stored image
    file = save(tmp_path / "a.png", np.rot90(top_white).copy(), exif=exif)
    np.testing.assert_array_equal(read_image(file), top_white)


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


def test_more_than_255_classes(tmp_path, save, cfg):
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 1000
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 65535
    cfg.INPUT.RESIZE_RATIO_RANGE = [1.0, 1.0]
    label = np.full((64, 64), 300, dtype=np.uint16)
    label[:32] = 999
    label[:, 48:] = 65535
    record = {
        "file_name": save(tmp_path / "image.png", np.zeros((64, 64, 3), dtype=np.uint8)),
        "sem_seg_file_name": save(tmp_path / "label.png", label),
    }
    sample = SemSegMapper(cfg, is_train=True)(record)
    assert set(sample["sem_seg"].unique().tolist()) == {300, 999, 65535}


@pytest.fixture
def record(tmp_path, save):
    return {
        "file_name": save(tmp_path / "image.png", np.zeros((64, 64, 3), dtype=np.uint8)),
        "sem_seg_file_name": save(tmp_path / "label.png", np.zeros((64, 64), dtype=np.uint8)),
    }


def test_a_label_out_of_range_is_named(tmp_path, save, record, cfg):
    label = np.zeros((64, 64), dtype=np.uint8)
    label[3, 3] = 4
    save(tmp_path / "label.png", label)
    with pytest.raises(DatasetError, match=r"label\.png: found label 4; expected 0\.\.3") as error:
        SemSegMapper(cfg, is_train=True)(record)
    assert "MODEL.SEM_SEG_HEAD.NUM_CLASSES is 4" in str(error.value)
    assert "ignore label 255" in str(error.value)


def test_a_label_map_of_another_size_is_named(tmp_path, save, record, cfg):
    save(tmp_path / "label.png", np.zeros((64, 63), dtype=np.uint8))
    with pytest.raises(DatasetError, match=r"label\.png: the label map is 63x64 .* 64x64"):
        SemSegMapper(cfg, is_train=True)(record)


def test_a_colour_coded_label_map_is_refused(tmp_path, save, record, cfg):
    save(tmp_path / "label.png", np.zeros((64, 64, 3), dtype=np.uint8))
    with pytest.raises(DatasetError, match=r"label\.png: a label map has one channel.*RGB"):
        SemSegMapper(cfg, is_train=True)(record)


def test_a_truncated_image_is_named(tmp_path, save, record, cfg):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    file = save(tmp_path / "image.jpg", noise)
    data = (tmp_path / "image.jpg").read_bytes()
    (tmp_path / "image.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(DatasetError, match=r"cannot read the image .*image\.jpg: OSError"):
        SemSegMapper(cfg, is_train=True)(record | {"file_name": file})


def test_a_file_that_is_no_image_is_named(tmp_path, record, cfg):
    (tmp_path / "image.png").write_text("<html>404</html>")
    with pytest.raises(DatasetError, match=r"cannot read the image .*image\.png: Unidentified"):
        SemSegMapper(cfg, is_train=True)(record)


def test_training_without_label_maps_is_refused(record, cfg):
    del record["sem_seg_file_name"]
    with pytest.raises(DatasetError, match="no sem_seg_file_name"):
        SemSegMapper(cfg, is_train=True)(record)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("RESIZE_RATIO_RANGE", [2.0, 0.5], "INPUT.RESIZE_RATIO_RANGE must be"),
        ("MIN_SIZE_TRAIN", (64, 96), "one INPUT.MIN_SIZE_TRAIN"),
        ("RANDOM_FLIP", "diagonal", "INPUT.RANDOM_FLIP must be"),
        ("FORMAT", "L", "INPUT.COLOR_AUG_SSD needs INPUT.FORMAT"),
    ],
)
def test_contradicting_keys_are_named(cfg, key, value, message):
    cfg.INPUT.COLOR_AUG_SSD = True
    cfg.INPUT[key] = value
    with pytest.raises(ValueError, match=message):
        build_mapper(cfg, is_train=True)


def test_an_unknown_mapper_lists_the_known(cfg):
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_video"
    with pytest.raises(ValueError, match=r"INPUT\.DATASET_MAPPER_NAME.*there are: sem_seg"):
        build_mapper(cfg, is_train=True)


def test_the_augmentations_are_logged(cfg, caplog):
    with caplog.at_level(logging.INFO, logger="lrformer.data.mappers"):
        build_mapper(cfg, is_train=False)
    assert "ResizeAligned(short_edge=90" in caplog.text

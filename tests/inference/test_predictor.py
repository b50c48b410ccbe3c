"""The predictor: what the model sees, what comes out, and what is refused."""

import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from PIL import Image
from torch import nn

from lrformer import Predictor, add_lrformer_config
from lrformer.data import DatasetError, SemSegMapper
from lrformer.inference import SemanticTTA, SlidingWindow
from lrformer.inference.ahead import map_ahead


class Brightest(nn.Module):
    """Scores are the colours: the class of a pixel is its strongest channel."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, batched_inputs):
        self.batches.append([x["image"] for x in batched_inputs])
        return [
            {"sem_seg": F.interpolate(x["image"][None].float(), (x["height"], x["width"]))[0]}
            for x in batched_inputs
        ]


@pytest.fixture
def cfg():
    cfg = add_lrformer_config(get_cfg())
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TEST = 48
    cfg.INPUT.MAX_SIZE_TEST = 90
    cfg.INPUT.ALIGN_TEST = 32
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    cfg.DATASETS.TEST = ()
    cfg.DATASETS.TRAIN = ()
    return cfg


def make_image(height=37, width=53, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize("align", [0, 32])
def test_the_model_sees_exactly_what_the_test_mapper_would_give_it(
    cfg, tmp_path, image_format, align
):
    cfg.INPUT.FORMAT = image_format
    cfg.INPUT.ALIGN_TEST = align
    image, file = make_image(), tmp_path / "image.png"
    Image.fromarray(image).save(file)
    mapped = SemSegMapper(cfg, is_train=False)({"file_name": str(file)})

    model = Brightest()
    predictor = Predictor(cfg, model)
    for source in (image, str(file), Path(file)):
        predictor(source)
        assert model.batches[-1][0].dtype == mapped["image"].dtype
        assert torch.equal(model.batches[-1][0], mapped["image"])


def test_the_class_map_has_the_images_own_size(cfg):
    image = np.zeros((37, 53, 3), np.uint8)
    image[:, :20, 2] = 255
    image[:, 20:, 1] = 255
    class_map = Predictor(cfg, Brightest())(image)
    assert class_map.shape == (37, 53)
    assert class_map.dtype == np.int64
    assert (class_map[:, :18] == 2).all()
    assert (class_map[:, 23:] == 1).all()


def test_scores_are_what_the_model_returns():
    image = make_image()
    predictor = Predictor(model=Brightest())
    scores = predictor.scores(image)
    assert scores.shape == (3, 37, 53)
    assert torch.equal(scores, torch.from_numpy(image).permute(2, 0, 1).float())
    assert np.array_equal(predictor(image), image.argmax(axis=2))


def test_a_photograph_taken_upright_is_predicted_upright(tmp_path):
    image = np.zeros((40, 64, 3), np.uint8)  # as the sensor lies
    image[:, :32, 0] = 255
    image[:, 32:, 1] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it a quarter clockwise: what was left is now up
    Image.fromarray(image).save(tmp_path / "photo.jpg", exif=exif)
    class_map = Predictor(model=Brightest())(tmp_path / "photo.jpg")
    assert class_map.shape == (64, 40)
    assert (class_map[:30] == 0).all()
    assert (class_map[34:] == 1).all()


def test_arrays_that_are_views_or_read_only():
    image = make_image()
    predictor = Predictor(model=Brightest(), image_format="BGR")
    expected = predictor(image[:, ::-1].copy())
    view = image[:, ::-1]
    view.flags.writeable = False
    assert np.array_equal(predictor(view), expected)


@pytest.mark.parametrize(
    "image, error, message",
    [
        (make_image().astype(np.float32) / 255, TypeError, "float32.*uint8"),
        (make_image()[:, :, 0], ValueError, r"\(37, 53\).*numpy.stack"),
        (np.zeros((8, 8, 4), np.uint8), ValueError, r"\(8, 8, 4\).*drop the fourth"),
        (make_image().transpose(2, 0, 1), ValueError, r"\(3, 37, 53\).*transpose\(1, 2, 0\)"),
        (np.zeros((0, 8, 3), np.uint8), ValueError, r"empty.*\(0, 8, 3\)"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), TypeError, "Tensor.*expected an H x W x 3"),
        (None, TypeError, "NoneType.*or a path"),
    ],
)
def test_what_is_no_rgb_image_is_refused_with_what_to_do(image, error, message):
    with pytest.raises(error, match=message):
        Predictor(model=Brightest())(image)


def test_files_that_are_no_images_are_named(tmp_path):
    predictor = Predictor(model=Brightest())
    with pytest.raises(DatasetError, match=r"none\.jpg"):
        predictor(tmp_path / "none.jpg")
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(DatasetError, match=r"text\.jpg"):
        predictor(str(tmp_path / "text.jpg"))


def test_many_images_give_what_each_gives_alone_and_are_taken_one_by_one():
    images = [make_image(20, 30, seed) for seed in range(3)]
    images += [make_image(30, 20, 3), make_image(20, 30, 4)]
    taken = []

    def stream():
        for number, image in enumerate(images):
            taken.append(number)
            yield image

    for batch_size, ahead, batches in (
        (1, 0, [1, 1, 1, 1, 1]),
        (2, 0, [2, 1, 1, 1]),
        (1, 2, [1, 1, 1, 1, 1]),
        (2, 4, [2, 1, 1, 1]),
    ):
        model = Brightest()
        predictor = Predictor(model=model)
        taken.clear()
        results = predictor.predict_many(stream(), batch_size, ahead)
        first = next(results)
        assert len(taken) <= batch_size + 1 + ahead
        results = [first, *results]
        # Images of different sizes are never padded into one batch.
        assert [len(batch) for batch in model.batches] == batches
        for image, result in zip(images, results, strict=True):
            assert np.array_equal(result, image.argmax(axis=2))


@pytest.mark.parametrize("ahead", [0, 3])
def test_of_many_files_a_broken_one_is_named_after_the_results_before_it(tmp_path, ahead):
    files = [tmp_path / f"{number}.png" for number in range(6)]
    for number, file in enumerate(files):
        Image.fromarray(make_image(seed=number)).save(file)
    files[3].write_text("not an image")
    results = Predictor(model=Brightest()).predict_many(iter(files), ahead=ahead)
    for number in range(3):
        assert np.array_equal(next(results), make_image(seed=number).argmax(axis=2))
    with pytest.raises(DatasetError, match=r"3\.png"):
        next(results)


def test_work_ahead_is_bounded_and_ends_with_its_consumer():
    running, most = set(), 0

    def work(number):
        nonlocal most
        running.add(threading.get_ident())
        most = max(most, number)
        return number

    results = map_ahead(work, itertools.count(), ahead=3, workers=2)
    for number in range(10):
        assert next(results) == number
        assert most <= number + 3
    results.close()
    assert threading.get_ident() not in running and len(running) <= 2
    assert not any(thread.ident in running for thread in threading.enumerate())


def test_what_a_source_of_images_raises_comes_after_its_images():
    def camera():
        yield make_image()
        raise OSError("unplugged")

    results = Predictor(model=Brightest()).predict_many(camera())
    assert next(results).shape == (37, 53)
    with pytest.raises(OSError, match="unplugged"):
        next(results)


def test_the_configs_windows_and_augmentation_are_applied(cfg):
    cfg.TEST.SLIDING_WINDOW.ENABLED = True
    cfg.TEST.AUG.ENABLED = True
    cfg.TEST.AUG.MIN_SIZES = (37, 74)
    model = Brightest()
    predictor = Predictor(cfg, model)
    assert isinstance(predictor.model, SemanticTTA)
    assert isinstance(predictor.model.model, SlidingWindow)
    assert predictor(make_image()).shape == (37, 53)
    # The original image is resized once for each size (and then stretched to a multiple of 32).
    assert [tuple(x.shape[1:]) for (x,) in model.batches[::2]] == [(64, 64), (96, 128)]


def test_names_and_colours_come_from_the_test_dataset(cfg, caplog):
    cfg.DATASETS.TEST = ("predictor_test_metadata",)
    MetadataCatalog.get("predictor_test_metadata").set(stuff_classes=["red", "green", "blue"])
    assert Predictor(cfg, Brightest()).metadata.stuff_classes == ["red", "green", "blue"]
    assert not caplog.records
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5
    Predictor(cfg, Brightest())
    assert "predicts 5 classes" in caplog.text
    assert Predictor(model=Brightest()).metadata.get("stuff_classes") is None


def test_a_training_model_is_put_into_eval_mode():
    model = Brightest().train()
    Predictor(model=model)
    assert not model.training


def test_an_unknown_channel_order_is_refused():
    with pytest.raises(ValueError, match="INPUT.FORMAT is 'YUV'"):
        Predictor(model=Brightest(), image_format="YUV")

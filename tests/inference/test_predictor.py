"""The predictor: what the model sees, what comes out, and what is refused."""

import itertools
import threading
from copy import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.data import MetadataCatalog
from PIL import Image
from torch import nn

from lrformer import Predictor
from lrformer.data import DatasetError, SemSegMapper
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
def cfg(plain_cfg):
    plain_cfg.INPUT.MIN_SIZE_TEST = 48
    plain_cfg.INPUT.MAX_SIZE_TEST = 90
    plain_cfg.INPUT.ALIGN_TEST = 32
    plain_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    return plain_cfg


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
    image, model = np.zeros((37, 53, 3), np.uint8), Brightest().train()
    image[:, :20, 2] = image[:, 20:, 1] = 255
    class_map = Predictor(cfg, model)(image)
    assert class_map.shape == (37, 53) and class_map.dtype == np.int64
    assert (class_map[:, :18] == 2).all() and (class_map[:, 23:] == 1).all()
    # A view that is read-only, without a resize.
    view = image[:, ::-1]
    view.flags.writeable = False
    scores = Predictor(model=model).predict(view)["sem_seg"]
    assert torch.equal(scores, torch.from_numpy(view.copy()).permute(2, 0, 1).float())


@pytest.mark.parametrize(
    "image, error, message",
    [
        (make_image().astype(np.float32) / 255, TypeError, "float32"),
        (make_image()[:, :, 0], ValueError, r"\(37, 53\)"),
        (make_image().transpose(2, 0, 1), ValueError, r"\(3, 37, 53\)"),
        (np.zeros((0, 8, 3), np.uint8), ValueError, r"\(0, 8, 3\)"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), TypeError, "Tensor.*expected an H x W x 3"),
        ("none.jpg", DatasetError, r"none\.jpg"),
    ],
)
def test_what_is_no_rgb_image_is_refused_with_what_to_do(image, error, message):
    with pytest.raises(error, match=message):
        Predictor(model=Brightest())(image)


@pytest.mark.parametrize(
    "batch_size, ahead, batches",
    [(1, 0, [1, 1, 1, 1, 1]), (2, 0, [2, 1, 1, 1]), (2, 4, [2, 1, 1, 1])],
)
def test_many_images_give_what_each_gives_alone_and_are_taken_one_by_one(
    batch_size, ahead, batches
):
    images = [make_image(20, 30, seed) for seed in range(3)]
    images += [make_image(30, 20, 3), make_image(20, 30, 4)]
    stream, model = iter(images), Brightest()
    results = Predictor(model=model).predict_many(stream, batch_size, ahead)
    first = next(results)
    assert len(list(copy(stream))) >= len(images) - (batch_size + 1 + ahead)
    for image, result in zip(images, [first, *results], strict=True):
        assert np.array_equal(result, image.argmax(axis=2))
    # Images of different sizes are never padded into one batch.
    assert [len(batch) for batch in model.batches] == batches


@pytest.mark.parametrize("ahead, batch_size", [(0, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("broken, error", [("3.png", DatasetError), ("unplugged", OSError)])
def test_a_broken_file_or_source_is_named_after_the_results_before_it(
    tmp_path, ahead, batch_size, broken, error
):
    def camera():
        yield from (make_image(seed=number) for number in range(3))
        if error is OSError:
            raise OSError(broken)
        yield tmp_path / broken

    (tmp_path / "3.png").write_text("not an image")
    results = Predictor(model=Brightest()).predict_many(camera(), batch_size, ahead)
    for number in range(3):
        assert np.array_equal(next(results), make_image(seed=number).argmax(axis=2))
    with pytest.raises(error, match=broken):
        next(results)


def test_work_ahead_is_bounded_and_ends_with_its_consumer():
    threads, numbers = set(), itertools.count()

    def work(number):
        threads.add(threading.get_ident())
        return number

    results = map_ahead(work, numbers, ahead=3, workers=2)
    assert list(itertools.islice(results, 10)) == list(range(10))
    assert next(numbers) <= 13
    results.close()
    assert threading.get_ident() not in threads and len(threads) <= 2
    assert not any(thread.ident in threads for thread in threading.enumerate())


def test_augmentation_by_windows_resizes_the_original_image_once(cfg):
    cfg.TEST.SLIDING_WINDOW.ENABLED = cfg.TEST.AUG.ENABLED = True
    cfg.TEST.AUG.MIN_SIZES = (37, 74)
    model = Brightest()
    assert Predictor(cfg, model)(make_image()).shape == (37, 53)
    # Each size is then stretched to a multiple of 32.
    assert [tuple(x.shape[1:]) for (x,) in model.batches[::2]] == [(64, 64), (96, 128)]


def test_names_and_colours_come_from_the_configs_datasets(cfg, caplog):
    name = "predictor_test_metadata"
    cfg.DATASETS.TRAIN = (name,)
    MetadataCatalog.get(name).set(stuff_classes=["red", "green", "blue"])
    assert Predictor(cfg, Brightest()).metadata.stuff_classes == ["red", "green", "blue"]
    assert "names and colours" not in caplog.text
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5
    Predictor(cfg, Brightest())
    assert "predicts 5 classes" in caplog.text
    # Another order of the same names would be drawn without a word.
    MetadataCatalog.get(f"{name}_other").set(stuff_classes=["green", "red", "blue"])
    cfg.DATASETS.TEST = (f"{name}_other",)
    with pytest.raises(DatasetError, match=f"{name}_other and {name}"):
        Predictor(cfg, Brightest())
    # Instances' classes are things, and named in one list only.
    MetadataCatalog.get(f"{name}_things").set(thing_classes=["a", "b", "c", "d", "e"])
    cfg.DATASETS.TEST, cfg.DATASETS.TRAIN = (f"{name}_things",), ()
    caplog.clear()
    Predictor(cfg, Brightest())
    assert "names and colours" not in caplog.text
    for end in ("", "_other", "_things"):
        MetadataCatalog.remove(name + end)

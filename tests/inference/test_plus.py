"""LRFormer+ in the predictor and the wrappers: what is predicted, and what is refused."""

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from torch import nn

from lrformer import Predictor
from lrformer.inference import SemanticTTA, SlidingWindow, build_inference_model, predicted_tasks

ALL = ("sem_seg", "instances", "panoptic_seg")


def make_image(height=40, width=56, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def as_input(image):
    height, width = image.shape[:2]
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
    return {"image": tensor, "height": height, "width": width}


def test_everything_that_the_model_predicts_at_the_images_own_size(plus_cfg, build_plus):
    cfg = plus_cfg(*ALL, opts=["INPUT.MIN_SIZE_TEST", 64])
    predictor = Predictor(cfg, build_plus(cfg))
    assert predictor.tasks == ALL
    image = make_image()
    output = predictor.predict(image, *ALL)
    assert sorted(output) == sorted(ALL)
    assert output["sem_seg"].shape == (3, 40, 56)
    assert isinstance(output["instances"], Instances)
    assert output["instances"].pred_masks.shape[1:] == (40, 56)
    panoptic_seg, segments_info = output["panoptic_seg"]
    assert panoptic_seg.shape == (40, 56)
    assert set(panoptic_seg.unique().tolist()) <= {0, *(info["id"] for info in segments_info)}
    # The class map is of the same scores.
    assert np.array_equal(predictor(image), output["sem_seg"].argmax(0).numpy())


def test_a_stream_gives_what_each_image_gives_alone(plus_cfg, build_plus):
    cfg = plus_cfg("instances", opts=["INPUT.MIN_SIZE_TEST", 0])
    predictor = Predictor(cfg, build_plus(cfg))
    images = [make_image(seed=0), make_image(seed=1), make_image(40, 40)]
    outputs = list(predictor.predict_stream(iter(images), batch_size=2))
    assert len(outputs) == 3
    for image, output in zip(images, outputs, strict=True):
        alone = predictor.predict(image)["instances"]
        assert output["instances"].image_size == image.shape[:2]
        torch.testing.assert_close(output["instances"].scores, alone.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "predicted, ask, key",
    [
        ("instances", lambda p, x: p(x), "SEMANTIC_ON"),
        ("instances", lambda p, x: p.scores(x), "SEMANTIC_ON"),
        ("panoptic_seg", lambda p, x: next(p.predict_many([x])), "SEMANTIC_ON"),
        ("sem_seg", lambda p, x: p.predict(x, "instances"), "INSTANCE_ON"),
        ("sem_seg", lambda p, x: p.predict(x, "panoptic_seg"), "PANOPTIC_ON"),
    ],
)
def test_what_is_not_predicted_is_refused_with_the_key_to_set(
    plus_cfg, build_plus, predicted, ask, key
):
    cfg = plus_cfg(predicted)
    model = build_plus(cfg)
    message = f"predicts: '{predicted}'.*MODEL.MASK_FORMER.TEST.{key} True"
    # Before the model has run, where the config says it; else after.
    for predictor in (Predictor(cfg, model), Predictor(model=model)):
        with pytest.raises(ValueError, match=message):
            ask(predictor, make_image(40, 40))


def test_a_task_of_an_unknown_name_is_named(plus_cfg, build_plus):
    cfg = plus_cfg("sem_seg")
    with pytest.raises(ValueError, match="no task 'semantic'; there are 'sem_seg', 'instances'"):
        Predictor(cfg, build_plus(cfg)).predict(make_image(), "semantic")


def test_class_names_are_counted_where_the_task_has_them(plus_cfg, caplog):
    name = "inference_test_instances_only"
    MetadataCatalog.get(name).set(thing_classes=["road", "car", "person"])
    opts = ["DATASETS.TEST", (name,)]
    Predictor(plus_cfg("instances", opts=opts), nn.Identity())
    assert not caplog.records
    Predictor(
        plus_cfg("instances", opts=[*opts, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 4]), nn.Identity()
    )
    assert f"predicts 4 classes (MODEL.SEM_SEG_HEAD.NUM_CLASSES), but {name}" in caplog.text
    MetadataCatalog.pop(name)


@pytest.mark.parametrize("key", ["TEST.SLIDING_WINDOW.ENABLED", "TEST.AUG.ENABLED"])
@pytest.mark.parametrize(
    "tasks", [("instances",), ("panoptic_seg",), ("instances", "panoptic_seg")]
)
def test_wrappers_refuse_a_model_without_class_scores(plus_cfg, key, tasks):
    cfg = plus_cfg(*tasks, opts=[key, True])
    message = f"{key}.*'{tasks[0]}'.*Set {key} to False, or .*SEMANTIC_ON to True"
    with pytest.raises(ValueError, match=message):
        build_inference_model(cfg, nn.Identity())
    with pytest.raises(ValueError, match=message):
        predicted_tasks(cfg)


def test_wrappers_say_that_they_drop_the_other_tasks(plus_cfg, build_plus, caplog):
    cfg = plus_cfg(*ALL, opts=["TEST.SLIDING_WINDOW.ENABLED", True])
    predictor = Predictor(cfg, build_plus(cfg))
    assert "only 'sem_seg' is predicted, not 'instances' and 'panoptic_seg'" in caplog.text
    assert "INSTANCE_ON and MODEL.MASK_FORMER.TEST.PANOPTIC_ON to False" in caplog.text
    assert predictor.tasks == ("sem_seg",)
    assert list(predictor.predict(make_image())) == ["sem_seg"]
    with pytest.raises(ValueError, match="predicts no 'instances'.*TEST.AUG not ENABLED"):
        predictor.predict(make_image(), "instances")


@pytest.mark.parametrize("early", [False, True])
def test_one_window_or_one_size_is_the_plain_prediction(plus_cfg, build_plus, early):
    # 40 x 56: the model itself pads to 64 x 64.
    key = "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE"
    cfg = plus_cfg("sem_seg", opts=[key, early, "INPUT.ALIGN_TEST", 0])
    model, x = build_plus(cfg), as_input(make_image())
    with torch.no_grad():
        plain = model([x])[0]["sem_seg"]
    window = SlidingWindow(model, crop_size=[100, 100], stride=[50, 50])
    one_size = SemanticTTA(model, min_sizes=[40], max_size=100, flip=False, softmax=False)
    for wrapped in (window, one_size):
        torch.testing.assert_close(wrapped([x])[0]["sem_seg"], plain)


def test_windows_are_averaged_as_they_are(plus_cfg, build_plus):
    cfg = plus_cfg(
        "sem_seg",
        opts=[
            *("TEST.SLIDING_WINDOW.ENABLED", True),
            *("TEST.SLIDING_WINDOW.CROP_SIZE", [40, 40]),
            *("TEST.SLIDING_WINDOW.STRIDE", [40, 16]),
        ],
    )
    model, x = build_plus(cfg), as_input(make_image())
    with torch.no_grad():
        left, right = (
            model([{"image": x["image"][..., i : i + 40]}])[0]["sem_seg"] for i in (0, 16)
        )
    averaged = build_inference_model(cfg, model)([x])[0]["sem_seg"]
    torch.testing.assert_close(averaged[..., :16], left[..., :16])
    torch.testing.assert_close(averaged[..., 16:40], (left[..., 16:] + right[..., :24]) / 2)
    torch.testing.assert_close(averaged[..., 40:], right[..., 24:])


def test_augmentation_averages_scores_that_are_no_logits(plus_cfg, build_plus):
    opts = ["TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (40,), "INPUT.ALIGN_TEST", 0]
    cfg = plus_cfg("sem_seg", opts=opts)
    model, x = build_plus(cfg), as_input(make_image())
    with torch.no_grad():
        plain = model([x])[0]["sem_seg"]
        mirrored = model([{**x, "image": x["image"].flip(-1)}])[0]["sem_seg"].flip(-1)
    averaged = build_inference_model(cfg, model)([x])[0]["sem_seg"]
    torch.testing.assert_close(averaged, (plain + mirrored) / 2)

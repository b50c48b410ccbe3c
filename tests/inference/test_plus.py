"""LRFormer+ in the predictor and the wrappers: what is predicted, and what is refused."""

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from torch import nn

from lrformer import Predictor
from lrformer.inference import build_inference_model, predicted_tasks

ALL = ("sem_seg", "instances", "panoptic_seg")


def make_image(height=40, width=56, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


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
    with pytest.raises(ValueError, match="no task 'semantic'; there are 'sem_seg', 'instances'"):
        predictor.predict(image, "semantic")


def test_a_stream_gives_what_each_image_gives_alone(plus_cfg, build_plus):
    cfg = plus_cfg("instances", opts=["INPUT.MIN_SIZE_TEST", 0])
    predictor = Predictor(cfg, build_plus(cfg))
    images = [make_image(seed=0), make_image(seed=1), make_image(40, 40)]
    outputs = predictor.predict_stream(iter(images), batch_size=2)
    for image, output in zip(images, outputs, strict=True):
        alone = predictor.predict(image)["instances"]
        assert output["instances"].image_size == image.shape[:2]
        torch.testing.assert_close(output["instances"].scores, alone.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "predicted, ask, key",
    [
        ("instances", lambda p, x: p(x), "SEMANTIC_ON"),
        ("sem_seg", lambda p, x: p.predict(x, "instances"), "INSTANCE_ON"),
    ],
)
def test_what_is_not_predicted_is_refused_with_the_key_to_set(
    plus_cfg, build_plus, predicted, ask, key
):
    cfg = plus_cfg(predicted)
    model = build_plus(cfg)
    # Before the model has run, where the config says it; else after.
    for predictor in (Predictor(cfg, model), Predictor(model=model)):
        with pytest.raises(ValueError, match=f"'{predicted}'.*MODEL.MASK_FORMER.TEST.{key} True"):
            ask(predictor, make_image(40, 40))


@pytest.mark.parametrize("key", ["TEST.SLIDING_WINDOW.ENABLED", "TEST.AUG.ENABLED"])
def test_wrappers_refuse_a_model_without_class_scores(plus_cfg, key):
    cfg = plus_cfg("instances", "panoptic_seg", opts=[key, True])
    for ask in (lambda: build_inference_model(cfg, nn.Identity()), lambda: predicted_tasks(cfg)):
        with pytest.raises(ValueError, match=f"{key}.*'instances'.*SEMANTIC_ON to True"):
            ask()


def test_wrappers_say_that_they_drop_the_other_tasks(plus_cfg, build_plus, caplog):
    cfg = plus_cfg(*ALL, opts=["TEST.SLIDING_WINDOW.ENABLED", True])
    predictor = Predictor(cfg, build_plus(cfg))
    assert "INSTANCE_ON and MODEL.MASK_FORMER.TEST.PANOPTIC_ON to False" in caplog.text
    assert predictor.tasks == ("sem_seg",)
    assert list(predictor.predict(make_image())) == ["sem_seg"]
    with pytest.raises(ValueError, match="predicts no 'instances'.*TEST.AUG not ENABLED"):
        predictor.predict(make_image(), "instances")


def test_augmentation_averages_scores_that_are_no_logits(plus_cfg, build_plus):
    opts = ["TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (40,), "INPUT.ALIGN_TEST", 0]
    cfg = plus_cfg("sem_seg", opts=opts)
    model, x = build_plus(cfg), {"height": 40, "width": 56}
    x["image"] = torch.randint(256, (3, 40, 56), dtype=torch.uint8)
    with torch.no_grad():
        plain = model([x])[0]["sem_seg"]
        mirrored = model([{**x, "image": x["image"].flip(-1)}])[0]["sem_seg"].flip(-1)
    averaged = build_inference_model(cfg, model)([x])[0]["sem_seg"]
    torch.testing.assert_close(averaged, (plain + mirrored) / 2)

"""How a config's TEST keys run a model: what each may change, and what is refused."""

import ctypes
import logging
import shutil
import sys
from copy import deepcopy
from functools import partialmethod

import numpy as np
import pytest
import torch
import torch._dynamo.testing
from detectron2.modeling import SemanticSegmentor, build_model
from detectron2.utils import logger as detectron2_logger
from torch import nn

from lrformer import Predictor, load_cfg, precision
from lrformer.inference import (
    RuntimeOptions,
    SemanticTTA,
    SlidingWindow,
    build_inference_model,
    prepare_for_inference,
)
from lrformer.inference.network import PlainSegmentor


@pytest.fixture(autouse=True)
def has_bfloat16(monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)


def make_inputs(*sizes):
    torch.manual_seed(0)
    images = [torch.randint(256, (3, *size), dtype=torch.uint8) for size, _ in sizes]
    files = [{"height": height, "width": width} for _, (height, width) in sizes]
    return [{"image": image, **file} for image, file in zip(images, files, strict=True)]


def test_predictions_are_those_of_detectron2s_model(plain_model):
    inputs = make_inputs(((60, 90), (60, 90)), ((64, 70), (75, 41)))
    prepared = prepare_for_inference(plain_model, RuntimeOptions())
    assert isinstance(prepared, PlainSegmentor)
    with torch.no_grad():
        expected = plain_model(inputs)
    for a, b, classes in zip(expected, prepared(inputs), prepared.class_maps(inputs), strict=True):
        torch.testing.assert_close(b["sem_seg"], a["sem_seg"], rtol=1e-4, atol=1e-4)
        chosen = a["sem_seg"].gather(0, classes[None])[0]
        torch.testing.assert_close(chosen, a["sem_seg"].amax(0), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="training mode"):
        prepare_for_inference(plain_model.train(), RuntimeOptions())
    # Sizes may be left out, as in the newest detectron2.
    (output,) = prepared([{"image": torch.zeros(3, 40, 70, dtype=torch.uint8)}])
    assert output["sem_seg"].shape == (7, 40, 70)


def test_the_model_stays_as_it_is_in_low_precision(plain_model):
    inputs = make_inputs(((64, 96), (64, 96)))
    before, kinds = deepcopy(plain_model.state_dict()), [type(x) for x in plain_model.modules()]
    layouts = [p.stride() for p in plain_model.parameters()]
    prepared = prepare_for_inference(plain_model, RuntimeOptions(dtype="bfloat16"))
    with torch.no_grad():
        expected, got = plain_model(inputs)[0]["sem_seg"], prepared(inputs)[0]["sem_seg"]
    assert [type(x) for x in plain_model.modules()] == kinds
    assert [p.stride() for p in plain_model.parameters()] == layouts
    assert all(torch.equal(before[k], v) for k, v in plain_model.state_dict().items())
    assert got.dtype == torch.float32
    assert (got - expected).norm() < 0.05 * expected.norm()


def test_lrformer_plus_predicts_the_same(plus_cfg, build_plus):
    model = build_plus(plus_cfg("sem_seg", "instances", "panoptic_seg"))
    inputs = make_inputs(((64, 96), (50, 70)))
    with torch.no_grad():
        (expected,) = model(inputs)
        (got,) = prepare_for_inference(model, RuntimeOptions())(inputs)
        (half,) = prepare_for_inference(model, RuntimeOptions(dtype="bfloat16"))(inputs)
    torch.testing.assert_close(got["sem_seg"], expected["sem_seg"], rtol=1e-3, atol=1e-3)
    assert set(half) == {"sem_seg", "instances", "panoptic_seg"}
    assert half["sem_seg"].dtype == torch.float32


class OwnForward(SemanticSegmentor):
    def forward(self, batched_inputs):
        return [{"sem_seg": x["image"].float()} for x in batched_inputs]


class OwnHead(nn.Module):
    """Not ours, though it has what ours has."""

    common_stride = 4

    def layers(self, features):
        raise AssertionError("called in the place of forward")

    def forward(self, features, targets=None):
        return nn.functional.interpolate(features["res2"], scale_factor=4), {}


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model, "__class__", OwnForward),
        lambda model: setattr(model, "sem_seg_head", OwnHead()),
        lambda model: model.sem_seg_head.register_forward_hook(
            lambda *_: (torch.ones(1, 1, 9, 9), 0)
        ),
    ],
)
def test_a_model_that_is_not_the_stock_one_runs_its_own_forward(plain_model, caplog, change):
    detectron2_logger._LOG_COUNTER.clear()
    change(plain_model)
    inputs = make_inputs(((64, 96), (64, 96)))
    with caplog.at_level(logging.INFO), torch.no_grad():
        found = prepare_for_inference(plain_model, RuntimeOptions())(inputs)[0]["sem_seg"]
        assert torch.equal(found, plain_model(inputs)[0]["sem_seg"])
    assert f"{type(plain_model).__name__}: its own forward predicts" in caplog.text
    for options in (RuntimeOptions(dtype="auto"), RuntimeOptions(compile=True)):
        with pytest.raises(ValueError, match=r"TEST\.RUNTIME.*PerPixelHead.*MaskFormer"):
            prepare_for_inference(plain_model, options)


def test_compilation_has_no_graph_breaks_and_one_graph_for_each_size(plain_cfg, monkeypatch):
    # Without a compiler: only what torch.compile captures, and how often. One stage is enough.
    plain_cfg.MODEL.LRFORMER.OUT_FEATURES = plain_cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res2"]
    model = build_model(plain_cfg).eval()
    counter = torch._dynamo.testing.CompileCounter()
    captured = partialmethod(nn.Module.compile, backend=counter, fullgraph=True)
    monkeypatch.setattr(nn.Module, "compile", captured)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    prepared = prepare_for_inference(model, RuntimeOptions(compile=True))
    torch._dynamo.reset()
    for size in ((96, 128), (64, 64), (96, 128), (70, 99)):
        inputs = make_inputs((size, size))
        with torch.no_grad():
            expected = model(inputs)[0]["sem_seg"]
        torch.testing.assert_close(prepared(inputs)[0]["sem_seg"], expected, rtol=1e-3, atol=1e-3)
    assert counter.frame_count == 2  # The last is padded to the first one's size.
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "options, device, message",
    [
        ({"dtype": "half"}, "cpu", "DTYPE is 'half'; expected one of"),
        ({"dtype": "bfloat16"}, "cpu", "DTYPE is 'bfloat16', but this CPU"),
        ({"compile_mode": "fast"}, "cpu", "COMPILE_MODE is 'fast'; expected"),
        ({"compile": True}, "cpu", r"COMPILE.*no g\+\+.*set CXX"),
        ({"compile": True}, "cuda", "COMPILE.*no ccache.*set CC"),
    ],
)
def test_what_the_machine_cannot_do_is_refused_by_its_key(monkeypatch, options, device, message):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("CC", "ccache none")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=rf"TEST\.RUNTIME\.{message}"):
        RuntimeOptions(**options).check(device)


def test_the_config_reaches_the_predictor(plain_cfg, plain_model):
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    exact = Predictor(plain_cfg, plain_model)
    classes = exact(image)
    scores = exact.predict(image, "sem_seg")["sem_seg"]
    assert (classes == scores.argmax(0).numpy()).mean() > 0.999
    plain_cfg.TEST.RUNTIME.DTYPE = "bfloat16"
    fast = Predictor(plain_cfg, plain_model)
    assert fast.model.network.dtype == torch.bfloat16
    assert (fast(image) == classes).mean() > 0.8


@pytest.mark.skipif(sys.platform != "linux", reason="the GNU C library's")
def test_a_predictor_leaves_the_processs_memory_alone(plain_cfg, plain_model, monkeypatch):
    calls = []
    real = ctypes.CDLL
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda *args, **kw: calls.append(args) or real(*args, **kw))
    Predictor(plain_cfg, plain_model)(np.zeros((40, 40, 3), np.uint8))
    assert (None,) not in calls  # as which mallopt is found


def test_configs_of_earlier_versions_still_load(tmp_path, caplog):
    old = tmp_path / "config.yaml"
    old.write_text(
        "TEST:\n  RUNTIME: {FUSE: true, CHANNELS_LAST: true, CUDA_GRAPHS: false, KEEP_MEMORY: true,"
        " DTYPE: bfloat16}\nSOLVER: {BETAS: [0.9, 0.999], POLY_LR_CONSTANT_ENDING: 0.0}\n"
    )
    cfg = load_cfg(old, ["TEST.RUNTIME.FUSE", "False"])
    assert cfg.TEST.RUNTIME.DTYPE == "bfloat16" and "FUSE" not in cfg.TEST.RUNTIME
    assert "TEST.RUNTIME.FUSE" in caplog.text


def test_windows_and_augmentation_as_the_config_says(plain_cfg):
    model = nn.Identity()
    assert build_inference_model(plain_cfg, model) is model
    keys = plain_cfg.TEST.SLIDING_WINDOW
    keys.ENABLED, keys.CROP_SIZE, keys.STRIDE, keys.BATCH_SIZE = True, [512, 1024], [384, 768], 4
    sliding = build_inference_model(plain_cfg, model)
    assert isinstance(sliding, SlidingWindow)
    assert (sliding.crop_size, sliding.stride) == ((512, 1024), (384, 768))
    assert sliding.batch_size == 4
    # Augmented images are predicted by windows.
    plain_cfg.TEST.AUG.ENABLED, plain_cfg.TEST.AUG.FLIP = True, False
    plain_cfg.TEST.AUG.MIN_SIZES = (100, 200, 300)
    tta = build_inference_model(plain_cfg, model)
    assert isinstance(tta, SemanticTTA) and isinstance(tta.model, SlidingWindow)
    assert (tta.softmax, tta.flip, len(tta.resizes)) == (True, False, 3)


@pytest.mark.parametrize(
    "key, value",
    [
        ("SLIDING_WINDOW.STRIDE", [2000, 2000]),  # more than the window
        ("SLIDING_WINDOW.STRIDE", [8, -1]),
        ("SLIDING_WINDOW.CROP_SIZE", [8, 8, 8]),
        ("SLIDING_WINDOW.BATCH_SIZE", 0),
        ("AUG.MIN_SIZES", []),
        ("AUG.MIN_SIZES", [9, 0]),
        ("AUG.MAX_SIZE", 0),
    ],
)
def test_sizes_that_cannot_work_are_refused_by_their_key(plain_cfg, key, value):
    section, _, name = key.partition(".")
    plain_cfg.TEST[section].update({"ENABLED": True, name: value})
    with pytest.raises(ValueError, match=rf"TEST\.{section}.*{name}"):
        build_inference_model(plain_cfg, nn.Identity())

"""How models run in inference: what each option may change, and what is refused."""

import shutil
import sys
from copy import deepcopy
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.modeling.postprocessing import sem_seg_postprocess
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lrformer import Predictor, load_cfg
from lrformer.engine import amp
from lrformer.inference import (
    RuntimeOptionError,
    RuntimeOptions,
    agreement,
    class_map,
    prepare_for_inference,
)
from lrformer.inference.network import PlainSegmentor

_CONFIG = Path(__file__).parents[2] / "configs" / "models" / "lrformer_t.yaml"
_TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.LRFORMER.EMBED_DIMS": [8, 16, 24, 32],
    "MODEL.LRFORMER.DEPTHS": [1, 1, 1, 1],
    "MODEL.LRFORMER.NUM_HEADS": [1, 2, 2, 4],
    "MODEL.LRFORMER.MLP_RATIOS": [2, 2, 2, 2],
    "MODEL.LRFORMER.LAYER_SCALE_INIT": [0.5, 0.5, 0.5, 0.5],
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 21,
    "DATASETS.TEST": (),
    "DATASETS.TRAIN": (),
}
_PLAIN = RuntimeOptions(fuse=False, channels_last=False)


@pytest.fixture
def cfg():
    return load_cfg(_CONFIG, [*chain(*_TINY.items())])


@pytest.fixture
def model(cfg):
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    nn.init.normal_(model.sem_seg_head.predictor.weight)
    return model


def make_inputs(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.randint(0, 256, (3, h, w), generator=generator, dtype=torch.uint8),
            "height": height,
            "width": width,
        }
        for (h, w), (height, width) in sizes
    ]


def enlarged_by_detectron2(logits, stride, size, output_size):
    scores = F.interpolate(logits[None], scale_factor=stride, mode="bilinear", align_corners=False)[
        0
    ]
    return sem_seg_postprocess(scores, size, *output_size)


@pytest.mark.parametrize("values", [2**10, 2**20])
@pytest.mark.parametrize(
    "shape, stride, size, output_size",
    [
        ((19, 16, 24), 8, (128, 192), (128, 192)),  # nothing to do
        ((19, 16, 24), 8, (121, 187), (121, 187)),  # padding cut off
        ((19, 16, 24), 8, (121, 187), (253, 391)),  # and enlarged
        ((19, 16, 24), 8, (128, 190), (37, 53)),  # or reduced
        ((150, 13, 29), 8, (100, 231), (97, 301)),
        ((5, 1, 1), 32, (17, 30), (40, 41)),
        ((5, 2, 3), 4, (8, 12), (5, 7)),
        ((1, 4, 4), 8, (32, 32), (50, 60)),
        ((1, 16, 24), 8, (121, 187), (253, 391)),
        ((3, 16, 24), 8, (121, 187), (253, 391)),
        ((23, 16, 24), 8, (121, 187), (253, 391)),
    ],
)
@pytest.mark.parametrize("kind", ["noise", "smooth", "ties"])
def test_class_maps_are_the_argmax_of_detectron2s_scores(
    monkeypatch, shape, stride, size, output_size, values, kind
):
    monkeypatch.setattr(class_map, "_CPU_VALUES", values)
    torch.manual_seed(0)
    logits = torch.randn(shape)
    if kind == "smooth":  # As trained models': most classes are far from winning.
        logits = 5 * F.avg_pool2d(logits, 3, 1, 1) + 3 * torch.randn(shape[0], 1, 1)
    elif kind == "ties":
        logits = logits.round()
    expected = enlarged_by_detectron2(logits, stride, size, output_size).argmax(0)
    got = class_map.class_map(logits, stride, size, output_size)
    assert got.dtype == torch.int64
    assert torch.equal(got, expected)


def test_a_class_that_wins_only_between_the_logits_is_kept():
    logits = torch.zeros(3, 1, 4)
    logits[0, 0] = torch.tensor([10.0, 10, 0, 0])
    logits[1, 0] = torch.tensor([0.0, 0, 10, 10])
    logits[2] = 6  # Highest in the middle, at none of the four.
    got = class_map.class_map(logits, 8, (8, 32), (8, 32))
    assert got.unique().tolist() == [0, 1, 2]
    assert torch.equal(got, enlarged_by_detectron2(logits, 8, (8, 32), (8, 32)).argmax(0))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_still_give_a_map(value):
    logits = torch.randn(7, 8, 8)
    logits[3, 2, 2] = value
    assert class_map.class_map(logits, 8, (64, 64), (60, 60)).shape == (60, 60)


def test_argmax_of_full_scores():
    scores = torch.randn(11, 37, 53).mul(4).round()
    assert torch.equal(class_map.argmax(scores), scores.argmax(0))


def test_the_scores_of_all_classes_never_exist_at_full_size():
    largest = 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel() * out.element_size())
            return out

    with Largest():
        class_map.class_map(torch.randn(150, 32, 64), 8, (256, 512), (1024, 2048))
    assert largest <= 4 * 4 * 1024 * 2048  # four classes


def test_predictions_are_those_of_detectron2s_model(model):
    inputs = make_inputs(((60, 90), (60, 90)), ((64, 70), (75, 41)))
    prepared = prepare_for_inference(model, _PLAIN)
    assert isinstance(prepared, PlainSegmentor)
    with torch.no_grad():
        expected, got = model(inputs), prepared(inputs)
        maps = prepared.class_maps(inputs)
    for a, b, classes in zip(expected, got, maps, strict=True):
        torch.testing.assert_close(a["sem_seg"], b["sem_seg"], rtol=1e-5, atol=1e-5)
        assert torch.equal(classes, b["sem_seg"].argmax(0))


def test_sizes_may_be_left_out_as_in_the_newest_detectron2(model):
    prepared = prepare_for_inference(model, _PLAIN)
    (output,) = prepared([{"image": torch.zeros(3, 40, 70, dtype=torch.uint8)}])
    assert output["sem_seg"].shape == (21, 40, 70)


@pytest.mark.parametrize(
    "options, tolerance",
    [
        (RuntimeOptions(fuse=False), 1e-4),
        (RuntimeOptions(), 1e-4),
        (RuntimeOptions(dtype="bfloat16"), 0.05),
    ],
)
def test_the_model_stays_as_it_is(model, monkeypatch, options, tolerance):
    monkeypatch.setattr(amp, "cpu_has_bfloat16", lambda: True)
    inputs = make_inputs(((64, 96), (64, 96)))
    before = deepcopy(model.state_dict())
    layouts = [p.stride() for p in model.parameters()]
    with torch.no_grad():
        expected = model(inputs)[0]["sem_seg"]
        prepared = prepare_for_inference(model, options)
        got = prepared(inputs)[0]["sem_seg"]
        again = model(inputs)[0]["sem_seg"]
    assert torch.equal(expected, again)
    assert [p.stride() for p in model.parameters()] == layouts
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert got.dtype == torch.float32
    assert (got - expected).norm() < tolerance * expected.norm()


def test_bfloat16_is_as_near_to_float32_as_autocast(model, monkeypatch):
    monkeypatch.setattr(amp, "cpu_has_bfloat16", lambda: True)
    x = torch.randn(1, 3, 64, 96)
    options = RuntimeOptions(fuse=False, channels_last=False, dtype="bfloat16")
    prepared = prepare_for_inference(model, options)
    assert prepared.network.head.predictor.weight.dtype == torch.bfloat16
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            expected = model.sem_seg_head.layers(model.backbone(x))
        got = prepared.network(x)
    assert expected.dtype == torch.bfloat16
    # Weights are rounded before or after what is exact in float32 is done to them.
    exact = model.sem_seg_head.layers(model.backbone(x)).detach()
    error, of_autocast = ((out.float() - exact).norm() for out in (got, expected))
    assert error < 1.2 * of_autocast < 0.05 * exact.norm()


def test_lrformer_plus_predicts_the_same(plus_cfg, build_plus, monkeypatch):
    monkeypatch.setattr(amp, "cpu_has_bfloat16", lambda: True)
    model = build_plus(plus_cfg("sem_seg", "instances", "panoptic_seg"))
    inputs = make_inputs(((64, 96), (50, 70)))
    with torch.no_grad():
        (expected,) = model(inputs)
        (got,) = prepare_for_inference(model, RuntimeOptions(fuse=False))(inputs)
        (half,) = prepare_for_inference(model, RuntimeOptions(dtype="bfloat16"))(inputs)
        (again,) = model(inputs)
    torch.testing.assert_close(got["sem_seg"], expected["sem_seg"], rtol=1e-3, atol=1e-3)
    assert set(half) == {"sem_seg", "instances", "panoptic_seg"}
    assert half["sem_seg"].dtype == torch.float32
    assert torch.equal(again["sem_seg"], expected["sem_seg"])


def test_compilation_has_no_graph_breaks_and_one_graph_for_wide_images(cfg):
    # Without a compiler: only what torch.compile captures, and how often. One of the stages is
    # enough, and takes a third of the time.
    cfg.MODEL.LRFORMER.OUT_FEATURES = cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res2"]
    network = prepare_for_inference(build_model(cfg).eval(), RuntimeOptions()).network
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(network._compute, backend=counter, dynamic=True, fullgraph=True)
    with torch.no_grad():
        for size in ((544, 576), (576, 704), (576, 1120)):
            x = torch.randn(1, 3, *size)
            torch.testing.assert_close(compiled(x), network._compute(x), rtol=1e-3, atol=1e-3)
    assert counter.frame_count == 1
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "options, device, message",
    [
        ({"dtype": "half"}, "cpu", "DTYPE is 'half'; expected one of float32, auto, bfloat16"),
        ({"dtype": "float16"}, "cpu", "'float16', which is for GPUs; on a CPU take 'auto'"),
        ({"dtype": "bfloat16"}, "cpu", "this CPU has no instructions for it .*take 'auto'"),
        ({"cuda_graphs": True}, "cpu", "CUDA_GRAPHS is True, but the model is on.*'cpu'"),
        ({"compile": True}, "cpu", "needs a compiler, and there is none.*apt install g\\+\\+"),
        ({"compile": True}, "cuda", "needs a compiler|needs Triton"),
    ],
)
def test_what_the_machine_cannot_do_is_refused_with_what_to_do(
    monkeypatch, options, device, message
):
    monkeypatch.setattr(amp, "cpu_has_bfloat16", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RuntimeOptionError, match=message):
        RuntimeOptions(**options).check(device)


def test_auto_is_float32_where_the_cpu_has_nothing_faster(monkeypatch):
    for has, dtype in ((False, None), (True, torch.bfloat16)):
        monkeypatch.setattr(amp, "cpu_has_bfloat16", lambda has=has: has)
        assert RuntimeOptions(dtype="auto").autocast_dtype("cpu") == dtype


def test_a_compiler_named_by_cxx_is_looked_for(monkeypatch):
    monkeypatch.setenv("CXX", "ccache no-such-compiler")
    monkeypatch.setattr(shutil, "which", lambda name: name if name == "g++" else None)
    with pytest.raises(RuntimeOptionError, match="CXX is 'ccache no-such-compiler'"):
        RuntimeOptions(compile=True).check("cpu")
    monkeypatch.delenv("CXX")
    if sys.platform == "linux":
        RuntimeOptions(compile=True).check("cpu")


def test_other_models_run_as_they_are_or_are_refused(model):
    other = nn.Conv2d(3, 3, 1).eval()
    assert prepare_for_inference(other, RuntimeOptions()) is other
    with pytest.raises(RuntimeOptionError, match="DTYPE auto and .*COMPILE True: .* is a Conv2d"):
        prepare_for_inference(other, RuntimeOptions(dtype="auto", compile=True))
    with pytest.raises(ValueError, match="training mode"):
        prepare_for_inference(model.train(), RuntimeOptions())


def test_the_config_reaches_the_predictor(cfg, model, monkeypatch):
    monkeypatch.setattr(amp, "cpu_has_bfloat16", lambda: True)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    exact = Predictor(cfg, model)
    assert exact.model.network.dtype is None
    assert np.array_equal(exact(image), exact.scores(image).argmax(0).numpy())
    cfg.TEST.RUNTIME.DTYPE = "bfloat16"
    fast = Predictor(cfg, model)
    assert fast.model.network.dtype == torch.bfloat16
    found = agreement(exact, fast, [image, image[:50]])
    assert found["images"] == 2
    assert 80 < found["worst"] <= found["agreement"] <= 100


def test_agreement_counts_pixels():
    a, b = np.zeros((4, 5), int), np.zeros((4, 5), int)
    b[0, 0] = 1
    maps = {0: (a, a), 1: (a, b), 2: (b[:2], a[:2])}
    found = agreement(lambda i: maps[i][0], lambda i: maps[i][1], [0, 1, 2])
    assert found == {"images": 3, "agreement": 100 * 48 / 50, "worst": 90.0}
    with pytest.raises(ValueError, match="no images"):
        agreement(lambda i: a, lambda i: a, [])
    with pytest.raises(ValueError, match=r"image 0: the class maps are \(4, 5\) and \(2, 5\)"):
        agreement(lambda i: a, lambda i: a[:2], [0])

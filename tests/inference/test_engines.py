"""Models in OpenVINO and ONNX Runtime: what PyTorch predicts, from files that are kept."""

import importlib.util

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from lrformer import Predictor
from lrformer.inference import RuntimeOptions, engines, prepare_for_inference
from lrformer.inference.engine_network import EngineNetwork
from lrformer.inference.network import Network

ENGINES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            any(importlib.util.find_spec(package) is None for package in packages),
            reason=f"pip install 'lrformer[{name}]'",
        ),
    )
    for name, packages in {"openvino": ["openvino"], "onnxruntime": ["onnxruntime", "onnx"]}.items()
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One for the module: its models are exported once."""
    return tmp_path_factory.mktemp("engines")


@pytest.fixture
def cfg(plain_cfg, cache):
    """Of a model with one stage, which is exported in seconds."""
    plain_cfg.MODEL.LRFORMER.OUT_FEATURES = plain_cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res2"]
    plain_cfg.TEST.RUNTIME.CACHE = str(cache)
    plain_cfg.INPUT.MIN_SIZE_TEST = 0  # images keep their size
    return plain_cfg


@pytest.fixture
def model(cfg):
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    nn.init.normal_(model.sem_seg_head.predictor.weight)
    return model


@pytest.fixture
def images():
    generator = np.random.default_rng(0)
    sizes = [(64, 96), (70, 41), (64, 96), (33, 130), (96, 64), (200, 40), (161, 97), (64, 96)]
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def check_scores(found, expected):
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    assert (found.argmax(0) == expected.argmax(0)).float().mean() >= 0.9999


def inputs_of(images):
    return [
        {"image": torch.from_numpy(x).permute(2, 0, 1), "height": x.shape[0], "width": x.shape[1]}
        for x in images
    ]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_predicts_what_pytorch_predicts_at_any_size(
    model, cache, images, engine, monkeypatch
):
    monkeypatch.setattr(engines, "REPEATS", 1)
    monkeypatch.setattr(engines, "FIXED_SIZES", 1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    prepared = prepare_for_inference(model, RuntimeOptions(engine=engine, cache=str(cache)))
    # One size often; and batches.
    for batch in ([image] for image in images), [images[:2]] * 2:
        for inputs in map(inputs_of, batch):
            with torch.inference_mode():
                for found, expected in zip(prepared(inputs), model(inputs), strict=True):
                    check_scores(found["sem_seg"], expected["sem_seg"])
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("engine", ENGINES)
def test_several_requests_predict_a_folder_in_its_order(cfg, model, images, engine):
    with torch.no_grad():
        expected = [model(inputs_of([x]))[0]["sem_seg"].argmax(0).numpy() for x in images]
    cfg.TEST.RUNTIME.ENGINE, cfg.TEST.RUNTIME.REQUESTS = engine, 2
    predictor = Predictor(cfg, model)
    predictor.augmentations.augs.clear()
    found = list(predictor.predict_many(images))
    assert [x.shape for x in found] == [x.shape for x in expected]
    assert np.mean([np.mean(a == b) for a, b in zip(found, expected, strict=True)]) >= 0.9999
    broken = predictor.predict_many([images[0], "no_such_image.jpg", images[0]])
    assert next(broken).shape == (64, 96)
    with pytest.raises(ValueError, match=r"no_such_image\.jpg"):
        next(broken)


class Convolution(nn.Conv2d):
    size_divisibility = 32


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network(Convolution(3, 4, 3, padding=1), nn.Conv2d(4, 7, 1)).eval()


@pytest.fixture
def exports(monkeypatch):
    """One entry for each export."""
    found, real = [], torch.export.export
    monkeypatch.setattr(torch.export, "export", lambda *a, **k: found.append(1) or real(*a, **k))
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_is_kept_and_made_anew_where_it_is_broken(
    network, exports, tmp_path, engine, caplog
):
    images = torch.randn(1, 3, 32, 64)
    for step, count in (("first", 1), ("again", 1), ("broken", 2)):
        if step == "broken":
            for file in tmp_path.rglob("model.*"):
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        found = EngineNetwork(network, engine, cache=tmp_path)(images)
        torch.testing.assert_close(found, network(images))
        assert len(exports) == count
        assert ("made anew" in caplog.text) == (step == "broken")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("engine", ENGINES[:1])
@pytest.mark.parametrize(
    "change",
    [
        lambda network: network.head.bias.data.add_(1),
        lambda network: setattr(network.backbone, "dilation", (2, 2)),
        lambda network: setattr(network, "head", nn.Sequential(network.head, nn.ReLU())),
    ],
)
def test_another_network_never_takes_the_file(network, tmp_path, engine, change):
    EngineNetwork(network, engine, cache=tmp_path)
    change(network)
    images = torch.randn(1, 3, 64, 64)
    found = EngineNetwork(network, engine, cache=tmp_path)(images)
    torch.testing.assert_close(found, network(images))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_lrformer_plus_predicts_the_same(plus_cfg, build_plus, cache, images, engine):
    model = build_plus(plus_cfg("sem_seg", "panoptic_seg"))
    prepared = prepare_for_inference(model, RuntimeOptions(engine=engine, cache=str(cache)))
    for image in images[:2]:
        with torch.inference_mode():
            (expected,), (found,) = model(inputs_of([image])), prepared(inputs_of([image]))
        check_scores(found["sem_seg"], expected["sem_seg"])
        assert torch.equal(found["panoptic_seg"][0], expected["panoptic_seg"][0])


@pytest.mark.parametrize(
    "options, device, message",
    [
        (
            {"engine": "tensorflow"},
            "cpu",
            "ENGINE is 'tensorflow'; expected one of torch, openvino",
        ),
        ({"engine": "openvino"}, "cuda", "openvino runs on CPUs.*cuda"),
        ({"engine": "onnxruntime"}, "cuda", "onnxruntime.*not run on cuda.*onnxruntime-gpu"),
        ({"engine": "openvino", "compile": True}, "cpu", "COMPILE is for ENGINE torch"),
        ({"engine": "onnxruntime", "dtype": "bfloat16"}, "cpu", "DTYPE is 'bfloat16'.*float32"),
        ({"engine": "openvino", "requests": 0}, "cpu", "REQUESTS is 0"),
        ({"requests": 2}, "cpu", "REQUESTS is 2, which is for ENGINE openvino and onnxruntime"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(monkeypatch, options, device, message):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(engines, "_gpu_providers", list)
    monkeypatch.setattr("lrformer.inference.runtime._check_compiler", lambda kind: None)
    with pytest.raises(ValueError, match=message):
        RuntimeOptions(**options).check(device)


def test_a_missing_engine_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'lrformer\[openvino\]'"):
        RuntimeOptions(engine="openvino").check("cpu")


def test_models_that_are_not_ours_are_refused(model):
    model.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"ENGINE openvino.*set ENGINE to torch"):
        prepare_for_inference(model, RuntimeOptions(engine="openvino"))


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"model\.pb: expected a file of \.xml or \.onnx"):
        engines.open_session(tmp_path / "model.pb")

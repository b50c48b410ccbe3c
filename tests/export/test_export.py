"""Exported models give what the model gives, at any size; what cannot be exported says why."""

from itertools import chain

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from lrformer import load_cfg
from lrformer.export import ExportError, ExportOptions, export_model
from lrformer.export import onnx as onnx_module
from lrformer.export import write as write_module
from lrformer.export.graph import SegmentationGraph
from lrformer.layers import LowResolutionSelfAttention
from lrformer.ops import accelerate

_KEYS = {
    # At the released 1e-6 attention would not be seen in the outputs.
    "MODEL.LRFORMER.LAYER_SCALE_INIT": [0.0, 0.0, 0.5, 0.5],
    "MODEL.LRFORMER.PRE_NORM_BLOCKS": [[], [], [0], []],
    "MODEL.SEM_SEG_HEAD.LAYER_SCALE_INIT": 0.5,
    "MODEL.MASK_FORMER.DEC_LAYERS": 2,
}
# One stage of one pool below the queries': exporting takes its time.
_SMALL = {
    "MODEL.LRFORMER.OUT_FEATURES": ["res2"],
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2"],
    "MODEL.LRFORMER.PYRAMID_SIZES": [8],
}


# Names of configs/models, and what makes those small that are no LRFormer.
_MIT = {"MODEL.MIT.EMBED_DIMS": [8, 16, 40, 64], "MODEL.MIT.DEPTHS": [1, 1, 1, 1]}
_ON_MIT = {"MODEL.BACKBONE.NAME": "MixVisionTransformer", **_MIT}
_PEERS = {
    "segformer_b0": _MIT,
    "rtformer_slim": {"MODEL.RTFORMER.WIDTH": 8},
    **{f"lrformer_s_{head}": _ON_MIT for head in ("ppm", "da", "cc", "ocr")},
}


@pytest.fixture
def build(tiny_opts):
    def make(plus=False, peer=None, **keys):
        name = f"models/{peer or ('lrformer_plus_t' if plus else 'lrformer_t')}.yaml"
        keys = _PEERS.get(peer, {}) | keys
        torch.manual_seed(0)
        values = tiny_opts | _KEYS | keys
        model = build_model(load_cfg(name, list(chain(*values.items())))).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.1)
            if isinstance(module, LowResolutionSelfAttention):
                nn.init.normal_(module.q.weight, std=0.5)
        return model

    return make


def scores(model, image):
    size = dict(zip(("height", "width"), image.shape[1:], strict=True))
    with torch.no_grad():
        return model([{"image": image, **size}])[0]["sem_seg"]


def random_image(height, width):
    return torch.randint(256, (3, height, width), dtype=torch.uint8)


def relative_error(a, b):
    return float((torch.as_tensor(a) - b).norm() / b.norm())


@pytest.mark.parametrize("plus", [False, True])
# Maps that are smaller than the pools, exactly as large, larger; wide and tall; to be padded.
@pytest.mark.parametrize("size", [(64, 64), (33, 501), (512, 544), (290, 129)])
def test_the_graph_is_the_model(build, plus, size):
    model, image = build(plus), random_image(*size)
    graph = SegmentationGraph(accelerate(model), 32, torch.float32, class_map=False)
    with torch.no_grad():
        found = graph(image[None])[0]
    expected = scores(model, image)
    assert found.shape == expected.shape == (5, *size)
    assert relative_error(found, expected) < 1e-5


def test_pt2_of_classes_at_other_sizes(build, tmp_path):
    model, path = build(**_SMALL), tmp_path / "model.pt2"
    model.sem_seg_head.block1 = nn.Identity()
    model.sem_seg_head.block2.attn.pool.short_sides = (32, 16)
    before, kinds = model.state_dict(), [type(module) for module in model.modules()]
    before = {name: value.clone() for name, value in before.items()}
    (check,) = export_model(model, path, ExportOptions(output="classes"), [(70, 101)])
    assert (check.size, check.error) == ((70, 101), None) and check.agreement > 0.999
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    assert [type(module) for module in model.modules()] == kinds
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    run = torch.export.load(path).module()
    images = [random_image(300, 255) for _ in range(2)]
    classes = run(torch.stack(images))
    assert classes.dtype == torch.uint8 and classes.shape == (2, 300, 255)
    for found, image in zip(classes, images, strict=True):
        assert (found == scores(model, image).argmax(0)).float().mean() > 0.999


@pytest.mark.parametrize("peer", _PEERS)
def test_the_graph_of_peers_is_the_model(build, peer):
    model = build(peer=peer)
    graph = SegmentationGraph(model, 32, torch.float32, class_map=False)
    for size in ((33, 160), (290, 129)):
        image = random_image(*size)
        with torch.no_grad():
            found = graph(image[None])[0]
        assert relative_error(found, scores(model, image)) < 1e-5


@pytest.mark.slow
def test_detectron2s_own_segmentor(tiny_opts, tmp_path):
    stages = [2, 3, 4, 5]
    keys = tiny_opts | {
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.RESNETS.OUT_FEATURES": [f"res{i}" for i in stages],
        "MODEL.FPN.IN_FEATURES": [f"res{i}" for i in stages],
        "MODEL.SEM_SEG_HEAD.NAME": "SemSegFPNHead",
        "MODEL.SEM_SEG_HEAD.IN_FEATURES": [f"p{i}" for i in stages],
        "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 4,
    }
    model = build_model(load_cfg("models/lrformer_t.yaml", list(chain(*keys.items())))).eval()
    (check,) = export_model(model, tmp_path / "model.pt2", check_sizes=[(100, 70)])
    assert check.error < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"plus": True}, *({"peer": peer} for peer in _PEERS)])
def test_onnx_at_other_sizes(build, tmp_path, options):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, path = build(**options), tmp_path / "model.onnx"
    checks = export_model(model, path)
    assert all(check.error < 1e-4 for check in checks) and len(checks) == 2

    onnx.checker.check_model(onnx.load(path))
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [x.name for x in session.get_inputs()] == ["image"]
    assert [x.name for x in session.get_outputs()] == ["scores"]
    for size in ((40, 33), (544, 321)):
        images = [random_image(*size) for _ in range(3)]
        (found,) = session.run(None, {"image": np.stack([x.numpy() for x in images])})
        for a, image in zip(found, images, strict=True):
            assert relative_error(a, scores(model, image)) < 1e-4


def test_what_differs_is_not_written(build, tmp_path, monkeypatch):
    def wrong(graph, path, options):
        path.write_text("a model")
        return lambda image: graph(image) * 1.1

    monkeypatch.setattr(write_module, "_write", wrong)
    with pytest.raises(ExportError, match=r"64 x 96: relative error 1\.0e-01 \(limit 0\.0001\)"):
        export_model(build(), tmp_path / "model.pt2", check_sizes=[(64, 96)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"training": True}, "in training mode"),
        ({"size_divisibility": 16}, "SIZE_DIVISIBILITY is 16"),
        ({"semantic_on": False, "panoptic_on": True}, "panoptic segments.*SEMANTIC_ON"),
    ],
)
def test_models_that_cannot_be_exported(build, tmp_path, attributes, message):
    model = build(plus=True)
    vars(model).update(attributes)
    with pytest.raises(ExportError, match=message):
        export_model(model, tmp_path / "model.pt2")
    with pytest.raises(ExportError, match="a Linear cannot be exported"):
        export_model(nn.Linear(1, 1), tmp_path / "model.pt2")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("model.pth", {}, r"model\.pth: .*\.onnx \(ONNX\) or \.pt2"),
        ("nowhere/model.pt2", {}, "there is no folder .*nowhere"),
        ("model.onnx", {"dtype": "bfloat16"}, r"bfloat16 is for \.pt2 only"),
        ("model.onnx", {}, "needs onnx and onnxscript, .*pip install onnx onnxscript"),
        ("model.pt2", {"input": "int8"}, "no input 'int8', only uint8, float32"),
        ("model.pt2", {"opset": 11}, "opset 11 is too old: .* 18 or newer"),
    ],
)
def test_files_that_cannot_be_written(build, tmp_path, monkeypatch, name, options, message):
    monkeypatch.setattr(onnx_module, "_PACKAGES", ("onnx", "onnxscript"))
    monkeypatch.setattr(onnx_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=message):
        export_model(build(), tmp_path / name, ExportOptions(**options))

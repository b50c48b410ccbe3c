"""Exported models give what the model gives, at any size; what cannot be exported says why."""

import sys
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
from lrformer.layers.lrsa import LowResolutionSelfAttention

_TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.LRFORMER.EMBED_DIMS": [8, 16, 24, 32],
    "MODEL.LRFORMER.DEPTHS": [1, 1, 1, 1],
    "MODEL.LRFORMER.NUM_HEADS": [1, 2, 2, 4],
    "MODEL.LRFORMER.MLP_RATIOS": [2, 2, 2, 2],
    # At the released 1e-6 attention would not be seen in the outputs.
    "MODEL.LRFORMER.LAYER_SCALE_INIT": [0.0, 0.0, 0.5, 0.5],
    "MODEL.LRFORMER.PRE_NORM_BLOCKS": [[], [], [0], []],
    "MODEL.SEM_SEG_HEAD.LAYER_SCALE_INIT": 0.5,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 64,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 5,
}
_TINY_PLUS = {
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 32,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 1,
    "MODEL.MASK_FORMER.HIDDEN_DIM": 64,
    "MODEL.MASK_FORMER.NHEADS": 4,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 64,
    "MODEL.MASK_FORMER.DEC_LAYERS": 2,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 10,
}


def build(plus=False, **keys):
    values = {**_TINY, **(_TINY_PLUS if plus else {}), **keys}
    name = "models/lrformer_plus_t.yaml" if plus else "models/lrformer_t.yaml"
    torch.manual_seed(0)
    model = build_model(load_cfg(name, list(chain(*values.items())))).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
        if isinstance(module, LowResolutionSelfAttention):
            nn.init.normal_(module.q.weight, std=0.5)
    return model


def scores(model, image):
    with torch.no_grad():
        return model([{"image": image, "height": image.shape[1], "width": image.shape[2]}])[0][
            "sem_seg"
        ]


def random_image(height, width):
    return torch.randint(256, (3, height, width), dtype=torch.uint8)


def relative_error(a, b):
    return float((torch.as_tensor(a) - b).norm() / b.norm())


@pytest.mark.parametrize("plus", [False, True])
# Maps that are smaller than the pools, exactly as large, larger; wide and tall; to be padded.
@pytest.mark.parametrize("size", [(64, 64), (33, 501), (512, 544), (290, 129), (1100, 512)])
def test_the_graph_is_the_model(plus, size):
    model, image = build(plus), random_image(*size)
    graph = SegmentationGraph(model, 32, torch.float32, class_map=False)
    with torch.no_grad():
        found = graph(image[None])[0]
    expected = scores(model, image)
    assert found.shape == expected.shape == (5, *size)
    assert relative_error(found, expected) < 1e-5


def test_pt2_of_classes_at_other_sizes(tmp_path):
    # Two stages only: exporting takes its time.
    keys = {
        "MODEL.LRFORMER.OUT_FEATURES": ["res2", "res3"],
        "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2", "res3"],
        "MODEL.LRFORMER.PYRAMID_SIZES": [8, 4],
    }
    model, path = build(**keys), tmp_path / "model.pt2"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (check,) = export_model(model, path, ExportOptions(output="classes"), [(70, 101)])
    assert (check.size, check.error) == ((70, 101), None) and check.agreement > 0.999
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    run = torch.export.load(path).module()
    images = [random_image(600, 555) for _ in range(2)]
    classes = run(torch.stack(images))
    assert classes.dtype == torch.uint8 and classes.shape == (2, 600, 555)
    for found, image in zip(classes, images, strict=True):
        assert (found == scores(model, image).argmax(0)).float().mean() > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("plus", [False, True])
def test_onnx_at_other_sizes(tmp_path, plus):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, path = build(plus), tmp_path / "model.onnx"
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


def test_what_differs_is_not_written(tmp_path, monkeypatch):
    model = build()

    def wrong(graph, path, options):
        path.write_text("a model")
        return lambda image: graph(image) * 1.1

    monkeypatch.setattr(write_module, "_write", wrong)
    with pytest.raises(
        ExportError, match=r"64 x 96: relative error 1\.0e-01 \(limit 0\.0001\), 100"
    ):
        export_model(model, tmp_path / "model.pt2", check_sizes=[(64, 96)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("task", ["INSTANCE", "PANOPTIC"])
def test_segments_cannot_be_exported(tmp_path, task):
    model = build(plus=True)
    model.semantic_on, model.instance_on, model.panoptic_on = (
        False,
        task == "INSTANCE",
        task == "PANOPTIC",
    )
    with pytest.raises(ExportError, match=f"{task.lower()} segments only.*SEMANTIC_ON to True"):
        export_model(model, tmp_path / "model.pt2")


def test_models_that_cannot_be_exported(tmp_path):
    path = tmp_path / "model.pt2"
    with pytest.raises(ExportError, match="a Linear cannot be exported"):
        export_model(nn.Linear(1, 1), path)
    with pytest.raises(ExportError, match="in training mode"):
        export_model(build().train(), path)
    model = build()
    model.backbone, model.sem_seg_head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    with pytest.raises(ExportError, match="no LRFormer blocks.* or fused"):
        export_model(model, path)
    model = build(plus=True)
    model.size_divisibility = 16
    with pytest.raises(ExportError, match="SIZE_DIVISIBILITY is 16; only multiples of 32"):
        export_model(model, path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.pth", r"model\.pth: which format is said by .*\.onnx \(ONNX\) or \.pt2"),
        ("nowhere/model.pt2", "there is no folder .*nowhere"),
    ],
)
def test_paths_that_cannot_be_written(tmp_path, name, message):
    with pytest.raises(ExportError, match=message):
        export_model(build(), tmp_path / name)


def test_missing_packages(tmp_path, monkeypatch):
    for name in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(onnx_module, "_PACKAGES", ("onnx", "onnxscript"))
    monkeypatch.setattr(onnx_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match="needs onnx and onnxscript, .*pip install onnx onnxscr"):
        export_model(build(), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "boxes"}, "no output 'boxes', only scores, classes"),
        ({"input": "int8"}, "no input 'int8', only uint8, float32"),
        ({"dtype": "int8"}, "no dtype 'int8'"),
        ({"opset": 11}, "opset 11 is too old: .* 18 or newer"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ExportError, match=message):
        ExportOptions(**options)


def test_bfloat16_is_not_for_onnx(tmp_path):
    with pytest.raises(ExportError, match=r"bfloat16 is for \.pt2 only"):
        export_model(build(), tmp_path / "model.onnx", ExportOptions(dtype="bfloat16"))

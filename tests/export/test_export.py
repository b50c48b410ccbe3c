"""Exported models give what the model gives, at any size; what cannot be exported says why."""

import json
import os
import pickle
import zipfile
from itertools import chain

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.data import MetadataCatalog
from detectron2.data.transforms import AugInput
from detectron2.modeling import build_model
from PIL import Image
from torch import nn

from lrformer import Predictor, load_cfg
from lrformer.export import ExportError, ExportOptions, calibration_images, export_model
from lrformer.export import write as write_module
from lrformer.export.graph import SegmentationGraph
from lrformer.inference import ExportedModel
from lrformer.layers import LowResolutionSelfAttention
from lrformer.modeling.build import load_model
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


_NAMES = ["road", "sky", "car", "person", "pole"]
_COLORS = [[9 * i, 8 * i, 7 * i] for i in range(5)]
_DATASET = "export_test"


@pytest.fixture
def make_cfg(tiny_opts):
    MetadataCatalog.pop(_DATASET, None)
    things = {21: 2, 22: 3}
    MetadataCatalog.get(_DATASET).set(
        stuff_classes=_NAMES, stuff_colors=_COLORS, thing_dataset_id_to_contiguous_id=things
    )

    def make(plus=False, peer=None, **keys):
        name = f"models/{peer or ('lrformer_plus_t' if plus else 'lrformer_t')}.yaml"
        keys = _PEERS.get(peer, {}) | keys
        dataset = {"DATASETS.TEST": (_DATASET,), "INPUT.MIN_SIZE_TEST": 64}
        return load_cfg(name, list(chain(*(tiny_opts | _KEYS | dataset | keys).items())))

    yield make
    MetadataCatalog.pop(_DATASET, None)


@pytest.fixture
def build(make_cfg):
    """Makes a config and its model."""

    def make(*args, **keys):
        cfg = make_cfg(*args, **keys)
        return cfg, build_from(cfg)

    return make


def build_from(cfg):
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
        if isinstance(module, LowResolutionSelfAttention):
            nn.init.normal_(module.q.weight, std=0.5)
    return model


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
    (_, model), image = build(plus), random_image(*size)
    graph = SegmentationGraph(accelerate(model), 32, torch.float32, "scores")
    with torch.no_grad():
        found = graph(image[None])[0]
    expected = scores(model, image)
    assert found.shape == expected.shape == (5, *size)
    assert relative_error(found, expected) < 1e-5


def test_the_model_stays_as_it_is(build, tmp_path):
    (cfg, model), path = build(**_SMALL), tmp_path / "model.pt2"
    model.sem_seg_head.block1 = nn.Identity()
    model.sem_seg_head.block2.attn.pool.short_sides = (32, 16)
    before, kinds = model.state_dict(), [type(module) for module in model.modules()]
    before = {name: value.clone() for name, value in before.items()}
    options = ExportOptions(result="classes")
    (check,) = export_model(cfg, model, path, options, [(70, 101)])
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


_PACKAGES = {".onnx": ("onnx", "onnxscript", "onnxruntime"), ".xml": ("openvino",), ".pt2": ()}


def export(
    build,
    folder,
    suffix,
    plus=False,
    peer=None,
    check_sizes=((64, 100),),
    calibration=(),
    **options,
):
    """The model, and an exported file of it."""
    for package in (*_PACKAGES[suffix], *(["nncf"] if calibration and suffix == ".xml" else [])):
        pytest.importorskip(package)
    small = {} if plus or peer else _SMALL
    (cfg, model), path = build(plus, peer, **small), folder / f"model{suffix}"
    export_model(cfg, model, path, ExportOptions(**options), check_sizes, calibration)
    return model, path


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("suffix", "result", "plus"),
    [
        (".onnx", "logits", False),
        (".xml", "scores", False),
        (".pt2", "classes", False),
        *(
            pytest.param(suffix, result, plus, marks=slow)
            for suffix in (".onnx", ".xml", ".pt2")
            for result in ("logits", "scores", "classes")
            for plus in (False, True)
        ),
    ],
)
def test_a_file_predicts_what_the_model_does(build, tmp_path, suffix, result, plus):
    model, path = export(build, tmp_path, suffix, plus, result=result)
    with_weights = {"model.xml", "model.bin"} if suffix == ".xml" else {path.name}
    assert {file.name for file in tmp_path.iterdir()} == with_weights

    predictor = Predictor.from_exported(path)
    assert predictor.metadata.stuff_classes == _NAMES
    assert predictor.metadata.stuff_colors == _COLORS
    info = json.loads(predictor.model.session.metadata["lrformer"])
    assert info["things"] == [2, 3] and info["result"] == result and info["version"]
    assert info["stride"] == (4 if result == "logits" else 1)
    assert info["mean"] == pytest.approx(model.pixel_mean.flatten().tolist())

    # The short side is resized to 64, and the prediction to the image.
    image = np.random.default_rng(0).integers(256, size=(90, 120, 3), dtype=np.uint8)
    (resized,) = [x.apply_image(image) for x in predictor.augmentations(AugInput(image))]
    x = {"image": torch.from_numpy(resized.transpose(2, 0, 1).copy()), "height": 90, "width": 120}
    with torch.no_grad():
        small = model([{**x, "height": 64, "width": 85}])[0]["sem_seg"]
        expected = model([x])[0]["sem_seg"]
    if result == "classes":
        expected = F.interpolate(
            small.argmax(0)[None, None].float(), (90, 120), mode="nearest-exact"
        )
        expected = F.one_hot(expected[0, 0].long()).permute(2, 0, 1)
    elif not (plus and result == "logits"):
        found = predictor.predict(image, "sem_seg")["sem_seg"]
        assert relative_error(found, expected) < 1e-4
    same = (predictor(image) == expected.argmax(0).numpy()).mean()
    assert same > (0.9 if plus and result == "logits" else 0.999)

    # A batch of images of other sizes than the file was made with.
    exported, sizes = ExportedModel(path), [(33, 70), (33, 70), (129, 40)]
    batch = [{"image": random_image(*size)} for size in sizes]
    for found, x, size in zip(exported.class_maps(batch), batch, sizes, strict=True):
        assert found.shape == size
        same = (found == scores(model, x["image"]).argmax(0)).float().mean()
        assert same > (0.9 if plus and result == "logits" else 0.999)


@slow
@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        (".onnx", "float16"),
        (".xml", "float16"),
        (".pt2", "bfloat16"),
        (".onnx", "int8"),
        (".xml", "int8"),
    ],
)
def test_fewer_bits(build, tmp_path, suffix, dtype):
    coarse = torch.rand(4, 3, 8, 12) * 255
    images = list(F.interpolate(coarse, (64, 96), mode="bicubic").clamp(0, 255).to(torch.uint8))
    options = {"calibration": images} if dtype == "int8" else {}
    size = [(64, 96)]
    model, path = export(build, tmp_path, suffix, check_sizes=size, dtype=dtype, **options)
    found = ExportedModel(path)([{"image": images[0]}])[0]["sem_seg"]
    # Not the same, so that a file in float32 does not pass.
    assert 1e-5 < relative_error(found, scores(model, images[0])) < 0.25


def test_calibration_images(make_cfg, tmp_path):
    for i in range(5):
        pixels = np.full((80, 160, 3), 10 * i, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    images = calibration_images(make_cfg(), str(tmp_path), 3)
    assert [int(x[0, 0, 0]) for x in images] == [0, 20, 40]
    assert all(x.shape == (3, 64, 128) and x.dtype == torch.uint8 for x in images)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no image"):
        calibration_images(make_cfg(), str(tmp_path / "empty"), 3)
    with pytest.raises(ValueError, match="nowhere is neither a folder"):
        calibration_images(make_cfg(), "nowhere", 3)


class _Evil:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder / "was_here"),)


def test_files_that_are_not_ours(build, tmp_path):
    run, image = torch.export.export(nn.Identity(), (torch.zeros(1),)), random_image(8, 8)
    torch.export.save(run, tmp_path / "other.pt2")
    with pytest.raises(ValueError, match=r"other\.pt2 does not say what its classes are"):
        Predictor.from_exported(tmp_path / "other.pt2")
    (tmp_path / "broken.pt2").write_text("no zip file")
    with pytest.raises(ValueError, match=r"broken\.pt2 is no file of torch\.export"):
        Predictor.from_exported(tmp_path / "broken.pt2")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.xml"):
        Predictor.from_exported(tmp_path / "nowhere.xml")

    # One of the file's pickles runs code: torch.export.load alone would let it.
    with (
        zipfile.ZipFile(tmp_path / "other.pt2") as good,
        zipfile.ZipFile(tmp_path / "evil.pt2", "w") as evil,
    ):
        for name in good.namelist():
            is_inputs = "sample_inputs" in name
            evil.writestr(name, pickle.dumps(_Evil(tmp_path)) if is_inputs else good.read(name))
    assert any("sample_inputs" in name for name in good.namelist())
    with pytest.raises(ValueError, match=r"evil\.pt2 is no file of torch\.export"):
        Predictor.from_exported(tmp_path / "evil.pt2")
    assert not (tmp_path / "was_here").exists()

    _, path = export(build, tmp_path, ".pt2", False, result="classes")
    with pytest.raises(ValueError, match="gives classes, not the scores"):
        Predictor.from_exported(path).predict(image.permute(1, 2, 0).numpy(), "sem_seg")
    with pytest.raises(ValueError, match="computes in its own data type, not in bfloat16"):
        Predictor.from_exported(path, opts=["TEST.RUNTIME.DTYPE", "bfloat16"])
    cfg = load_cfg("models/lrformer_t.yaml", ["MODEL.WEIGHTS", path, "MODEL.DEVICE", "cpu"])
    with pytest.raises(ValueError, match="NUM_CLASSES 5, but the config has 150"):
        load_model(cfg)


@pytest.mark.parametrize("peer", _PEERS)
def test_the_graph_of_peers_is_the_model(build, peer):
    _, model = build(peer=peer)
    graph = SegmentationGraph(model, 32, torch.float32, "scores")
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
    cfg = load_cfg("models/lrformer_t.yaml", list(chain(*keys.items())))
    model = build_model(cfg).eval()
    (check,) = export_model(cfg, model, tmp_path / "model.pt2", check_sizes=[(100, 70)])
    assert check.error < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"plus": True}, *({"peer": peer} for peer in _PEERS)])
def test_onnx_as_others_run_it(build, tmp_path, options):
    model, path = export(build, tmp_path, ".onnx", **options)
    import onnx
    import onnxruntime

    onnx.checker.check_model(onnx.load(path))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [x.name for x in session.get_inputs()] == ["image"]
    assert [x.name for x in session.get_outputs()] == ["scores"]
    for size in ((40, 33), (544, 321)):
        images = [random_image(*size) for _ in range(3)]
        (found,) = session.run(None, {"image": np.stack([x.numpy() for x in images])})
        for a, image in zip(found, images, strict=True):
            assert relative_error(a, scores(model, image)) < 1e-4


def test_what_differs_is_not_written(build, tmp_path, monkeypatch):
    class Wrong(SegmentationGraph):
        def forward(self, image):
            return super().forward(image) * 1.1

    monkeypatch.setattr(write_module, "SegmentationGraph", Wrong)
    with pytest.raises(ExportError, match=r"64 x 96: relative error 1\.0e-01 \(limit 0\.0001\)"):
        export_model(*build(**_SMALL), tmp_path / "model.pt2", check_sizes=[(64, 96)])
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
    cfg, model = build(plus=True)
    vars(model).update(attributes)
    with pytest.raises(ExportError, match=message):
        export_model(cfg, model, tmp_path / "model.pt2")
    with pytest.raises(ExportError, match="a Linear cannot be exported"):
        export_model(cfg, nn.Linear(1, 1), tmp_path / "model.pt2")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("model.pth", {}, r"model\.pth: .*\.onnx \(ONNX\) or \.xml \(OpenVINO\) or \.pt2"),
        ("nowhere/model.pt2", {}, "there is no folder .*nowhere"),
        (
            "model.onnx",
            {"dtype": "bfloat16"},
            r"bfloat16 is not for \.onnx, but float32, float16, int8",
        ),
        (
            "model.xml",
            {"dtype": "bfloat16"},
            r"float32 and run it with TEST\.RUNTIME\.DTYPE bfloat16",
        ),
        ("model.pt2", {"dtype": "int8"}, r"int8 is not for \.pt2"),
        (
            "model.onnx",
            {},
            "needs onnx and onnxscript and onnxruntime, .*pip install onnx onnxscript",
        ),
        ("model.xml", {"dtype": "int8"}, "int8 in OpenVINO needs openvino and nncf"),
        ("model.pt2", {"image": "int8"}, "no image 'int8', only uint8, float32"),
        ("model.pt2", {"opset": 11}, "opset 11 is too old: .* 18 or newer"),
    ],
)
def test_files_that_cannot_be_written(build, tmp_path, monkeypatch, name, options, message):
    monkeypatch.setattr(write_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=message):
        export_model(*build(), tmp_path / name, ExportOptions(**options))
    assert not list(tmp_path.iterdir())

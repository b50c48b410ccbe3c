"""SegFormer, RTFormer and the context heads against their authors' definitions and Hugging Face."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn

import deterministic_weights
from bench.counting import count, count_parameters
from bench.models import build_for_counting
from lrformer import build_model, load_cfg
from lrformer.layers.common import resize
from lrformer.modeling.heads import CCHead, DAHead, OCRHead, PPMHead, RTFormerHead, SegFormerHead
from lrformer.modeling.heads.context import CrissCrossAttention

DATA = Path(__file__).parents[1] / "data"


def released(tmp_path, *names) -> str:
    """A file of the deterministic weights of one or more models of tests/data."""
    arrays = {}
    for name in names:
        read = deterministic_weights.state_dict(DATA / f"{name.removesuffix('_backbone')}.json")
        only = "backbone." if name.endswith("_backbone") else ""
        arrays |= {key: value for key, value in read.items() if key.startswith(only)}
    torch.save(
        {"state_dict": {k: torch.from_numpy(np.asarray(v)) for k, v in arrays.items()}},
        tmp_path / "released.pth",
    )
    return str(tmp_path / "released.pth")


def assert_equals_reference(name: str, found: dict[str, torch.Tensor]) -> None:
    reference = np.load(DATA / f"{name}.npz")
    for key, tensor in found.items():
        assert tuple(tensor.shape) == tuple(reference[f"{key}_shape"]), key
        expected = reference[key]
        flat = tensor.contiguous().flatten()
        many = key.endswith("logits") and not name.startswith("heads")
        got = flat[:: max(1, len(flat) // (16384 if many else 4096))].numpy()
        assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected), key


@torch.no_grad()
def test_segformer_equals_the_released_model(tmp_path):
    model = build_model("models/segformer_b0.yaml", released(tmp_path, "segformer_b0"), "cpu")
    features = model.backbone(torch.from_numpy(deterministic_weights.image(512, 512)))
    found = {f"F{i}": features[f"res{i + 1}"] for i in (1, 2, 3, 4)}
    found["logits"] = model.sem_seg_head.layers(features)
    assert_equals_reference("segformer_b0_512x512", found)


@pytest.mark.parametrize("variant", ["segformer_b0", "segformer_b2"])
@torch.no_grad()
def test_segformer_equals_hugging_faces(tmp_path, variant):
    transformers = pytest.importorskip("transformers")
    model = build_model(f"models/{variant}.yaml", device="cpu", opts=["MODEL.MIT.DEPTHS", [1] * 4])
    keys = load_cfg(f"models/{variant}.yaml").MODEL
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        hidden_sizes=keys.MIT.EMBED_DIMS,
        depths=[1] * 4,
        decoder_hidden_size=keys.SEM_SEG_HEAD.CONVS_DIM,
        num_labels=150,
    )
    theirs = transformers.SegformerForSemanticSegmentation(config).eval()
    for parameter in theirs.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    model = build_model(
        f"models/{variant}.yaml", tmp_path, "cpu", opts=["MODEL.MIT.DEPTHS", [1] * 4]
    )
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5
    for size in ((64, 64), (97, 131)):
        image = torch.randn(1, 3, *size)
        expected = theirs(image).logits
        logits = model.sem_seg_head.layers(model.backbone(image))
        assert (logits - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize(
    ("variant", "backbone", "whole", "flops"),
    [
        ("b0", 3.319, 3.753, {(512, 512): 8.48}),
        ("b1", 13.151, 13.716, {(512, 512): 16.00}),
        ("b2", 24.196, 27.462, {(512, 512): 62.61, (1024, 1024): 297.2}),
        ("b3", 44.072, 47.338, {(512, 512): 79.28}),
        ("b4", 60.843, 64.108, {(512, 512): 95.94}),
        ("b5", 81.443, 84.709, {(640, 640): 183.8}),
    ],
)
def test_size_of_segformer(variant, backbone, whole, flops):
    model = build_for_counting(load_cfg(f"ade20k/segformer_{variant}.yaml"))
    assert count_parameters(model.backbone) / 1e6 == pytest.approx(backbone, abs=0.001)
    assert count_parameters(model) / 1e6 == pytest.approx(whole, abs=0.001)
    for size, expected in flops.items():
        assert count(model, *size).total / 1e9 == pytest.approx(expected, rel=0.005)


@pytest.fixture(scope="module")
def rtformer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return build_model("models/rtformer_slim.yaml", paddle_file(folder, "rtformer_slim"), "cpu")


def paddle_file(folder, name) -> Path:
    """The deterministic weights of a model in Paddle's form: a pickle of arrays and of a table."""
    arrays = deterministic_weights.state_dict(DATA / f"{name}.json")
    content = {**arrays, "StructuredToParameterName@@": {key: key for key in arrays}}
    (folder / "model.pdparams").write_bytes(pickle.dumps(content, protocol=4))
    return folder / "model.pdparams"


@pytest.mark.parametrize("size", [(512, 512), (512, 704)])
@torch.no_grad()
def test_rtformer_equals_the_released_model(rtformer, size):
    found = {}
    steps = {"layer1": "stage1", "layer2": "stage2", "layer3": "stage3_low"}
    steps |= {"layer3_": "stage3_high", "layer4": "stage4", "layer5": "stage5"}
    for layer, step in steps.items():
        rtformer.backbone.get_submodule(layer).register_forward_hook(
            lambda module, inputs, out, step=step: found.update({step: out})
        )
    head = rtformer.sem_seg_head
    features = rtformer.backbone(torch.from_numpy(deterministic_weights.image(*size)))
    for block in ("stage4", "stage5"):
        found[f"{block}_high"], found[f"{block}_low"] = found.pop(block)
    found["dappm"] = head.spp(features["res5"])
    found["logits"] = head.layers(features)
    found["aux_logits"] = head.auxiliary(features["aux"])
    assert_equals_reference(f"rtformer_slim_{size[0]}x{size[1]}", found)


@pytest.mark.parametrize(
    ("config", "parameters", "auxiliary", "size", "flops"),
    [
        ("ade20k/rtformer_slim.yaml", 5.013, 0.047, (512, 512), 4.59),
        ("ade20k/rtformer_base.yaml", 17.800, 0.167, (640, 640), 27.45),
        ("cityscapes/rtformer_slim.yaml", 5.365, 0.038, (1024, 2048), 38.0),
        ("cityscapes/rtformer_base.yaml", 17.766, 0.150, (1024, 2048), 139.3),
    ],
)
def test_size_of_rtformer(config, parameters, auxiliary, size, flops):
    model = build_for_counting(load_cfg(config))
    beside = count_parameters(model.sem_seg_head.auxiliary)
    assert beside / 1e6 == pytest.approx(auxiliary, abs=0.001)
    assert (count_parameters(model) - beside) / 1e6 == pytest.approx(parameters, abs=0.001)
    assert count(model, *size).total / 1e9 == pytest.approx(flops, rel=0.005)


@pytest.mark.parametrize(
    ("keys", "scale"),
    [([], 1 / 12), (["MODEL.RTFORMER.SCALE_BY_WIDTH", True], 128**-0.5)],
)
def test_scale_of_cross_resolution_attention(keys, scale):
    with torch.device("meta"):
        cfg = load_cfg("models/rtformer_base.yaml", ["MODEL.DEVICE", "meta", *keys])
        backbone = build_backbone(cfg)
    for layer in (backbone.layer4, backbone.layer5):
        assert layer.attn_h.scale == pytest.approx(scale)
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.9}


@pytest.mark.parametrize("head", ["ppm", "da", "cc", "ocr"])
@torch.no_grad()
def test_context_heads_equal_mmsegmentations(tmp_path, head):
    file = released(tmp_path, "segformer_b0_backbone", f"head_{head}")
    opts = ["MODEL.BACKBONE.NAME", "MixVisionTransformer"]
    model = build_model(f"models/lrformer_s_{head}.yaml", file, "cpu", opts)
    features = model.backbone(torch.from_numpy(deterministic_weights.image(512, 512)))
    logits = model.sem_seg_head.training_layers(features)
    found = {head: model.sem_seg_head.layers(features)}
    if head == "da":
        found |= {f"da_{name}": logits[name] for name in ("position", "channel")}
    if head == "ocr":
        coarse = model.sem_seg_head.auxiliary(features["res4"])
        found["ocr_coarse"] = nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(logits["sem_seg"], found[head])
    assert_equals_reference("heads_segformer_b0_512x512", found)


@pytest.mark.parametrize(
    ("head", "alone", "flops"),
    [
        ("ocr", 5.69 + 0.78, 47.7),
        ("ppm", 15.91, 81.5),
        ("da", 14.13, 94.0 - 2 * 64 * 64 * 512 * 150 / 1e9),  # without the branches' classifiers
        ("cc", 13.97, 83.5),
    ],
)
def test_context_heads_of_table_10(head, alone, flops):
    model = build_for_counting(load_cfg(f"ade20k/lrformer_s_{head}.yaml"))
    parameters = count_parameters(model.sem_seg_head)
    if head != "ocr":  # which needs its auxiliary classifier in testing too
        parameters -= count_parameters(model.sem_seg_head.auxiliary)
    assert parameters / 1e6 == pytest.approx(alone, abs=0.01)
    assert count(model, 512, 512).total / 1e9 == pytest.approx(flops, rel=0.005)


def test_lrformers_head_on_mit():
    """It saves about 28 G over SegFormer-B2 (LRFormer's paper, section 4.4)."""
    counts = [
        count(build_for_counting(load_cfg(f"ade20k/segformer_{name}.yaml")), 512, 512).total / 1e9
        for name in ("b2", "b2_lrhead")
    ]
    assert counts[0] - counts[1] == pytest.approx(28, abs=2)


def test_losses_of_training():
    shapes = {f"res{i}": ShapeSpec(channels=8, stride=2**i) for i in (3, 4, 5)}
    features = {f"res{i}": torch.randn(2, 8, 256 >> i, 256 >> i) for i in (3, 4, 5)}
    targets = torch.randint(3, (2, 256, 256))
    names = {"OCRHead": {"aux"}, "DAHead": {"aux", "position", "channel"}}
    for kind in (CCHead, DAHead, OCRHead, PPMHead, SegFormerHead, RTFormerHead):
        head = kind(shapes, num_classes=3, channels=16, loss_weight=2.0, aux_loss_weight=0.4)
        _, losses = head(features, targets)
        expected = {"sem_seg", *names.get(kind.__name__, {"aux"})}
        assert set(losses) == {f"loss_{name}" for name in expected}
        sum(losses.values()).backward()
        unused = [name for name, p in head.named_parameters() if p.grad is None]
        assert unused == []
    logits = head.auxiliary(features["res4"])
    expected = 0.8 * nn.functional.cross_entropy(resize(logits, (256, 256)), targets)
    assert losses["loss_aux"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_criss_cross_attention_is_attention_to_row_and_column():
    attention = CrissCrossAttention(16)
    nn.init.constant_(attention.gamma, 0.5)
    x = torch.randn(1, 16, 3, 4)
    out = attention(x)
    q, k, v = (layer(x)[0] for layer in (attention.query, attention.key, attention.value))
    for i, j in ((0, 0), (2, 1)):
        places = [(i, column) for column in range(4)] + [(row, j) for row in range(3) if row != i]
        scores = torch.stack([q[:, i, j] @ k[:, a, b] for a, b in places]).softmax(0)
        mean = sum(s * v[:, a, b] for s, (a, b) in zip(scores, places, strict=True))
        torch.testing.assert_close(out[0, :, i, j], x[0, :, i, j] + 0.5 * mean)


def test_ocr_without_its_auxiliary_classifier_names_the_key():
    with pytest.raises(ValueError, match="MODEL.SEM_SEG_HEAD.AUX_LOSS_WEIGHT is 0"):
        OCRHead({"res3": ShapeSpec(channels=8, stride=8)}, num_classes=3, channels=16)
    with pytest.raises(ValueError, match="AUX_LOSS_WEIGHT.*IN_FEATURES is only res3"):
        CCHead({"res3": ShapeSpec(channels=8, stride=8)}, num_classes=3, aux_loss_weight=0.4)
